"""Which disk of a bare server is written, and which server a pool gets."""

from __future__ import annotations

import pytest

from bedplate.model.kinds.base import MachineShape
from bedplate.model.kinds.infrastructure import RootDisk
from bedplate.model.metal import Disk
from bedplate.model.report import Rejection, Waiting
from bedplate.planner.metal_pools import root_disk
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

GIB = 2**30
DISKS = (
    Disk(serial="spinning", size=100 * GIB, rotational=True, transport="sata", model="Slow 9000"),
    Disk(serial="large", size=900 * GIB, transport="nvme", wwn="eui.1", model="Quick 1"),
    Disk(serial="fitting", size=400 * GIB, transport="nvme", model="Quick 2"),
    Disk(serial="small", size=10 * GIB, transport="nvme"),
    Disk(serial="stick", size=60 * GIB, transport="usb"),
    Disk(serial="ill", size=50 * GIB, transport="nvme", health="failing"),
    Disk(serial="twin", size=45 * GIB, transport="nvme"),
    Disk(serial="twin", size=45 * GIB, transport="nvme"),
    Disk(serial="", size=45 * GIB, transport="nvme"),
)


@pytest.mark.parametrize(
    ("hints", "chosen"),
    [
        (RootDisk(), "fitting"),
        (RootDisk(transport="sata"), "spinning"),
        (RootDisk(wwn="eui.1"), "large"),
        (RootDisk(model="Quick"), "fitting"),
        (RootDisk(min_size="500Gi"), "large"),
        (RootDisk(serial="spinning"), "spinning"),
        (RootDisk(serial="stick"), None),
        (RootDisk(serial="ill"), None),
        (RootDisk(serial="twin"), None),
        (RootDisk(serial="small"), None),
        (RootDisk(serial="nobody's"), None),
    ],
)
def test_the_smallest_disk_that_is_told_apart_well_and_as_asked_for_is_written(
    hints: RootDisk, chosen: str | None
) -> None:
    found = root_disk(DISKS, hints, 20 * 1024)
    assert (found.serial if found is not None else None) == chosen
    again = root_disk(tuple(reversed(DISKS)), hints, 20 * 1024)
    assert again == found, "the order in which disks are found says nothing"


def test_a_pool_spreads_over_racks_and_then_wastes_least() -> None:
    world = fleet.world(1)
    sizes = {"small-a": 16, "small-b": 16, "big-a": 64, "big-b": 64, "tiny-b": 8}
    objects = fleet.infrastructure(world)
    for name, gib in sizes.items():
        world.add_bare(name, memory_mib=gib * 1024, place={"rack": name[-1]})
        objects.append(fleet.bare(name, rack=name[-1]))
    sim = Simulator(world, seed=1)
    shape = MachineShape(substrate="metal", memory="12Gi")
    sim.apply(*objects, fleet.cluster(), fleet.pool(replicas=0, shape=shape))
    sim.start_controller()
    sim.run(seconds=6_000)
    sim.apply(fleet.pool(replicas=3, shape=shape, spread="rack"))
    Story(sim).until_ready()
    used = {m.server for m in sim.engine.blueprint.machines() if m.substrate == "metal"}
    assert {"small-a", "small-b"} < used, "the smallest that fit, one in each rack"
    assert "tiny-b" not in used
    assert len(used) == 3


def test_a_pool_larger_than_its_servers_takes_all_that_fit_and_says_what_is_left_and_why() -> None:
    world = fleet.world(1)
    objects = fleet.infrastructure(world)
    for name, gib in {"a": 16, "b": 16, "tiny": 8}.items():
        world.add_bare(name, memory_mib=gib * 1024, place={"rack": "r"})
        objects.append(fleet.bare(name, rack="r"))
    sim = Simulator(world, seed=1)
    shape = MachineShape(substrate="metal", memory="12Gi")
    sim.apply(*objects, fleet.cluster(), fleet.pool(replicas=0, shape=shape))
    sim.start_controller()
    sim.run(seconds=6_000)
    sim.apply(fleet.pool(replicas=5, shape=shape))
    sim.run(seconds=60)
    assert {m.server for m in sim.engine.blueprint.machines() if m.substrate == "metal"} == {"a", "b"}
    waiting = next(w for w in sim.engine.waiting.values() if w.reason == Waiting.NO_ROOM)
    assert "3 of 5 machines are not placed: no accepted server of 3 can take it" in waiting.sentence
    assert waiting.servers == {"a": Rejection.NOT_AVAILABLE, "b": Rejection.NOT_AVAILABLE, "tiny": Rejection.NO_MEMORY}
