"""A dead server that never comes back: its user deletes it, and nothing of it is waited for any longer."""

from __future__ import annotations

from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


def test_a_dead_server_that_is_deleted_leaves_nothing_in_the_plan() -> None:
    world = fleet.world(3)
    sim = Simulator(world, seed=1)
    sim.apply(*fleet.infrastructure(world, bmcs=True), fleet.cluster(), fleet.pool(replicas=2))
    sim.start_controller()
    story = Story(sim)
    story.until_ready()
    victim = next(m for m in sim.engine.blueprint.machines() if m.role == "worker")
    sim.power_off(victim.server)
    sim.run(seconds=300)
    kept = sim.engine.blueprint.machine(victim.uid)
    assert kept is not None
    assert kept.desired == "remove"
    sim.delete(f"server/{victim.server}")
    sim.run(seconds=120)
    assert sim.engine.blueprint.machine(victim.uid) is None
    assert not [k for k in sim.engine.blueprint.entries if k.startswith("server/")]
    assert story.unready() == []
    assert not sim.world.violations
