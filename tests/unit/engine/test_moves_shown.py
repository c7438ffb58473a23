"""What users see of a server that is emptied: it says so once the last machine has left."""

from __future__ import annotations

from typing import Any

from bedplate.model.kinds.infrastructure import Server
from bedplate.model.meta import condition
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


def test_a_server_is_empty_once_its_last_machine_has_moved_away() -> None:
    world = fleet.world(3, shared=True)
    sim = Simulator(world, seed=2)
    sim.apply(*fleet.infrastructure(world), *(fleet.machine(f"m{i}") for i in range(3)))
    sim.start_controller()
    Story(sim).until_ready()
    name = next(sim.engine.blueprint.machines()).server
    sim.maintain(name)
    assert sim.run(lambda: empty(sim.store.objects[f"server/{name}"]), seconds=300)  # type: ignore[index]
    assert not any(d.state == "running" for d in world.servers[name].domains.values())


def empty(server: Any) -> bool:
    assert isinstance(server, Server)
    found = condition(server.status.conditions, "Empty")
    return found is not None and found.status == "True" and server.status.machines == 0
