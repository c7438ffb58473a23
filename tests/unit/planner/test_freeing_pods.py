"""Pods of a dead server are freed where its end is confirmed and nobody asked for a pause."""

from __future__ import annotations

import msgspec

from bedplate.checks.blueprint import Checker
from bedplate.model.blueprint import MachineEntry, ServerEntry
from bedplate.model.ids import key
from bedplate.model.inventory import AnyView, Observation
from bedplate.planner.plan import PlanInput, plan
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


def dead_while_paused() -> tuple[PlanInput, MachineEntry]:
    """A planning after a pause, of a worker whose server died meanwhile."""
    world = fleet.world(3)
    sim = Simulator(world, seed=1)
    sim.apply(*fleet.infrastructure(world, bmcs=True), fleet.cluster(), fleet.pool(replicas=2))
    sim.start_controller()
    Story(sim).until_ready()
    victim = next(m for m in sim.engine.blueprint.machines() if m.role == "worker")
    sim.pause()
    sim.power_off(victim.server)
    sim.run(seconds=300)
    m = sim.engine.blueprint.machine(victim.uid)
    lost = sim.engine.blueprint.entries[key("server", victim.server)]
    assert m is not None
    assert isinstance(lost, ServerEntry)
    assert lost.standing == "dead"
    assert not m.out_of_service, "nobody who asked for a pause has pods deleted by force"
    inp = sim.engine._plan_input()
    return msgspec.structs.replace(inp, spec=msgspec.structs.replace(inp.spec, fleet_policies={}), cache=None), m


def freed(inp: PlanInput, m: MachineEntry) -> bool:
    result = plan(inp)
    assert not list(Checker()(inp, result))
    entry = result.delta.changes.get(m.key, m)
    assert isinstance(entry, MachineEntry)
    return entry.out_of_service


def test_they_are_freed_once_the_pause_is_over() -> None:
    assert freed(*dead_while_paused())


def test_they_are_not_freed_where_their_server_is_back_in_the_same_moment() -> None:
    inp, m = dead_while_paused()
    old = inp.inventory.server(m.server)
    assert old is not None
    back = msgspec.structs.replace(old.value, connected=True, boot_id="another")
    told: Observation[AnyView] = Observation(value=back, time=inp.now, source="test")
    seen = {**inp.inventory.observations, key("server", m.server): told}
    inventory = msgspec.structs.replace(
        inp.inventory, observations=seen, synced=inp.inventory.synced | {f"agent/{m.server}"}
    )
    assert not freed(msgspec.structs.replace(inp, inventory=inventory), m)
