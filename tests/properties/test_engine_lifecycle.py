"""For any fleet and any declaration: it converges, keeps every rule on the way, and goes without a trace."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, note
from hypothesis import strategies as st

from bedplate.model.kinds.base import MachineShape, Object
from bedplate.model.kinds.cluster import NodePool
from bedplate.sim import fleet
from bedplate.sim.faults import Fault, Faults
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


@st.composite
def shapes(draw: Any) -> MachineShape:
    return MachineShape(cpu=draw(st.sampled_from([1, 2, 4])), memory=draw(st.sampled_from(["1Gi", "2Gi", "4Gi"])))


@st.composite
def workloads(draw: Any) -> list[Object]:
    """One or two clusters with their pools, and perhaps a VM."""
    found: list[Object] = []
    for n in range(draw(st.integers(1, 2))):
        name = f"c{n}"
        found.append(fleet.cluster(name, replicas=draw(st.sampled_from([1, 1, 3])), shape=draw(shapes())))
        for p in range(draw(st.integers(0, 2))):
            found.append(fleet.pool(f"{name}-p{p}", of=name, replicas=draw(st.integers(0, 3)), shape=draw(shapes())))
    if draw(st.booleans()):
        found.append(fleet.machine("db"))
    return found


@st.composite
def settings_of(draw: Any) -> dict[str, Any]:
    return {"servers": draw(st.integers(1, 4)), "shared": draw(st.booleans()), "seed": draw(st.integers(0, 999))}


def story(workload: list[Object], where: dict[str, Any], **more: Any) -> Story:
    world = fleet.world(where["servers"], shared=where["shared"], memory_mib=262_144, cpus=64)
    sim = Simulator(world, seed=where["seed"], **more)
    sim.apply(*fleet.infrastructure(world))
    sim.apply(*workload)
    sim.start_controller()
    return Story(sim)


def scaled(workload: list[Object], replicas: int) -> list[Object]:
    """The pools with another number of machines."""
    pools = [o for o in workload if isinstance(o, NodePool)]
    return [msgspec.structs.replace(p, spec=msgspec.structs.replace(p.spec, replicas=replicas)) for p in pools]


@given(workloads(), settings_of(), st.integers(0, 4), st.integers(0, 2))
def test_apply_ready_scale_delete(workload: list[Object], where: dict[str, Any], more: int, fewer: int) -> None:
    told = story(workload, where)
    told.until_ready()
    told.declare(*scaled(workload, more))
    told.declare(*scaled(workload, fewer))
    told.check_no_orphans()
    told.delete_all()
    told.check_nothing_left()


def test_killed_before_each_command_of_a_small_cluster() -> None:
    """The whole life of 1 + 1 nodes, killed once at every command there is."""
    where = {"servers": 2, "shared": False, "seed": 4}
    workload: list[Object] = [fleet.cluster(), fleet.pool(replicas=1)]

    def life(kills: set[int]) -> tuple[int, object]:
        told = story(workload, where, kills=kills)
        told.until_ready()
        shape = told.shape()
        told.check_no_orphans()
        told.delete_all()
        told.check_nothing_left()
        return told.sim.commands, shape

    commands, calm = life(set())
    for n in range(1, commands + 1):
        _, shape = life({n})
        assert shape == calm, f"killed before command {n} it ends in another world"


@given(workloads(), settings_of(), st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_killed_before_any_command_it_ends_in_the_same_world(
    workload: list[Object], where: dict[str, Any], moments: list[float]
) -> None:
    calm = story(workload, where)
    calm.until_ready()
    kills = {1 + int(moment * calm.sim.commands) for moment in moments}
    note(f"killed before commands {sorted(kills)} of {calm.sim.commands}")
    killed = story(workload, where, kills=kills)
    killed.until_ready()
    killed.check_no_orphans()
    assert killed.shape() == calm.shape(), killed.tell("another world")
    killed.delete_all()
    killed.check_nothing_left()


@given(workloads(), settings_of(), st.dictionaries(st.integers(0, 60), st.sampled_from(list(Fault)), max_size=6))
def test_whatever_happens_to_steps_it_ends_in_the_same_world(
    workload: list[Object], where: dict[str, Any], faults: dict[int, Fault]
) -> None:
    calm = story(workload, where)
    calm.until_ready()
    faulty = story(workload, where, faults=Faults(steps=faults))
    faulty.until_ready()
    faulty.check_no_orphans()
    assert faulty.shape() == calm.shape(), faulty.tell("another world")
    faulty.delete_all()
    faulty.check_nothing_left()
