"""The preview shows the whole roll-out, changes nothing, and says what would still wait."""

from __future__ import annotations

import msgspec

from bedplate.model.kinds.base import MachineShape
from bedplate.sim import fleet
from bedplate.sim.preview import capture, preview_present
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


def running(*workload: object, servers: int = 3) -> Story:
    world = fleet.world(servers)
    sim = Simulator(world, seed=3)
    sim.apply(*fleet.infrastructure(world), *workload)  # type: ignore[arg-type]
    sim.start_controller()
    told = Story(sim)
    if workload:
        told.until_ready()
    else:
        sim.run(seconds=5)
    return told


def ask(told: Story, *objects: object, deletions: tuple[str, ...] = ()) -> dict[str, object]:
    present = capture(told.sim.engine, now=told.sim.now, seed=3)
    before = msgspec.json.encode(told.sim.store.blueprint), dict(present.inventory.observations)
    found = preview_present(present, objects, deletions)  # type: ignore[arg-type]
    assert (msgspec.json.encode(told.sim.store.blueprint), dict(present.inventory.observations)) == before
    assert msgspec.json.encode(found)
    return found


def names(found: dict[str, object]) -> list[str]:
    return [s["step"] for s in found["steps"]]  # type: ignore[index,union-attr]


def test_a_new_cluster_is_shown_to_its_end() -> None:
    told = running()
    found = ask(told, fleet.cluster(), fleet.pool(replicas=2))
    steps = names(found)
    assert steps.count("StartDomain") == 3
    assert steps.count("Bootstrap") == 3
    assert steps.index("MakeSecrets") < steps.index("Bootstrap")
    assert "InstallAddons" in steps
    assert found["waiting"] == ()
    assert found["complete"]
    assert all(s["reason"] for s in found["steps"])  # type: ignore[union-attr,index]


def test_nothing_to_do_is_no_change() -> None:
    told = running(fleet.cluster(), fleet.pool(replicas=2))
    found = ask(told, fleet.cluster(), fleet.pool(replicas=2))
    assert not found["changes"]
    assert found["steps"] == ()


def test_scaling_up_and_down() -> None:
    told = running(fleet.cluster(), fleet.pool(replicas=2))
    up = names(ask(told, fleet.pool(replicas=3)))
    assert (up.count("StartDomain"), up.count("Bootstrap")) == (1, 1)
    down = names(ask(told, fleet.pool(replicas=1)))
    assert "DrainNode" in down
    assert down.index("DrainNode") < down.index("RemoveDomain") < down.index("DeleteVolume")


def test_a_delete_is_shown_too() -> None:
    told = running(fleet.cluster(), fleet.pool(replicas=2))
    found = ask(told, deletions=("cluster/default/shop", "nodepool/default/shop-web"))
    steps = names(found)
    assert steps.count("DeleteVolume") == 3
    assert "DropSecrets" in steps


def test_what_finds_no_room_is_told() -> None:
    told = running(servers=1)
    found = ask(told, fleet.cluster(), fleet.pool(replicas=2, shape=MachineShape(cpu=2, memory="900Gi")))
    assert any(w["object"].endswith("shop-web") and "memory" in str(w).lower() for w in found["waiting"])  # type: ignore[union-attr,index]


def test_a_preview_of_what_is_under_way_ends_as_declared() -> None:
    """Machines that boot or join while one asks come up in the preview too."""
    world = fleet.world(3)
    sim = Simulator(world, seed=3)
    sim.apply(*fleet.infrastructure(world), fleet.cluster(), fleet.pool(replicas=2))
    sim.start_controller()
    for seconds in (5, 20, 30, 60, 60):
        sim.run(seconds=seconds)
        found = ask(Story(sim))
        assert found["complete"]
        assert found["waiting"] == ()
