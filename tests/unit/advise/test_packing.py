"""Packing: everything has its place, nothing is counted twice, and the order of input never matters."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import profile

from bedplate.advise import cost, deciding, packing
from bedplate.advise.amounts import Ratio
from bedplate.advise.draws import Middle
from bedplate.advise.fleet import ClusterProfile, FleetError, Overhead, Profile, Workload

WORK = st.builds(
    lambda n, r, c, m: Workload(name=f"w{n}", replicas=r, cpu=c / 4, memory=f"{m}Mi"),
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 32),
    st.integers(64, 16_384),
)


@given(work=st.lists(WORK, min_size=1, max_size=6, unique_by=lambda w: w.name), seed=st.integers(0, 99))
def test_nodes_hold_all_and_are_not_many_too_many(work: list[Workload], seed: int) -> None:
    cpu, memory = 8.0, 32_768.0
    found = packing.nodes_for(work, cpu, memory)
    asked = max(
        sum(w.replicas * w.cpu for w in work) / cpu,
        sum(w.replicas * w.memory_mib for w in work) / memory,
        sum(w.replicas for w in work) / packing.MAX_PODS,
    )
    assert found >= math.ceil(asked - 1e-9)
    assert found <= sum(w.replicas for w in work)
    shuffled = random.Random(seed).sample(work, len(work))
    assert packing.nodes_for(shuffled, cpu, memory) == found


def test_a_replica_larger_than_any_server_is_said_to_be_impossible() -> None:
    found = profile()
    huge = Workload(name="huge", replicas=1, cpu=500, memory="1Gi")
    grown = msgspec.structs.replace(found, clusters=(ClusterProfile(name="x", workloads=(huge,)),))
    for plan in deciding.plans(grown).values():
        assert plan.layout.impossible


def test_what_is_missing_is_told_in_servers() -> None:
    found = profile()
    few = msgspec.structs.replace(found, servers=(msgspec.structs.replace(found.servers[0], count=2),))
    layout = deciding.plans(few)["metal"].layout
    assert layout.shortage["big"] == layout.count - 2


def test_metal_gives_a_cluster_whole_servers_and_keeps_a_spare() -> None:
    layout = deciding.plans(profile())["metal"].layout
    assert layout.metal["big"] == sum(g.nodes for g in layout.groups)
    assert layout.metal_spares == {"big": 1}
    for group in layout.groups:
        assert group.nodes >= packing.LEAST_NODES + 1  # and one whose pods find room when a node dies


def test_memory_of_vms_is_never_over_committed() -> None:
    found = profile()
    layout = deciding.plans(found)["vm"].layout
    asked = sum(g.nodes * packing.overhead(g.cpu, g.memory_mib) for g in layout.groups)
    asked += sum(c.control_plane * packing.overhead(c.plane.cpu, c.plane.memory_mib) for c in found.clusters)
    spare = found.operations.spares
    assert asked <= sum(found.model(m).memory_mib * n for m, n in layout.hypervisors.items()) - spare * 128 * 1024


def _shuffled(found: Profile, seed: int) -> Profile:
    dice = random.Random(seed)
    clusters = [
        msgspec.structs.replace(c, workloads=tuple(dice.sample(c.workloads, len(c.workloads)))) for c in found.clusters
    ]
    dice.shuffle(clusters)
    servers = list(found.servers)
    dice.shuffle(servers)
    return msgspec.structs.replace(found, clusters=tuple(clusters), servers=tuple(servers))


@given(
    seed=st.integers(0, 999),
    work=st.lists(WORK, min_size=2, max_size=5, unique_by=lambda w: w.name),
    counts=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_the_order_of_input_never_matters(seed: int, work: list[Workload], counts: tuple[int, int]) -> None:
    base = profile()
    small = msgspec.structs.replace(base.servers[0], name="small", count=counts[1], cpus=16, memory="64Gi")
    clusters = (
        ClusterProfile(name="a", workloads=tuple(work[:-1])),
        ClusterProfile(name="b", workloads=(work[-1],)),
    )
    servers = (msgspec.structs.replace(base.servers[0], count=counts[0]), small)
    found = msgspec.structs.replace(base, clusters=clusters, servers=servers)
    one, other = deciding.plans(found), deciding.plans(_shuffled(found, seed))
    for alternative, plan in one.items():
        assert plan.layout.servers == other[alternative].layout.servers
        assert set(plan.layout.groups) == set(other[alternative].layout.groups)
        assert set(plan.placed) == set(other[alternative].placed)
        events = cost.expected_events(found, plan.layout)
        total = cost.of(found, plan.layout, events, Middle()).total[0]
        assert cost.of(found, other[alternative].layout, events, Middle()).total[0] == pytest.approx(total)


def test_a_fleet_without_clusters_says_so() -> None:
    with pytest.raises(FleetError, match="clusters: there is none"):
        deciding.plans(profile(clusters=[]))


def test_slower_vms_take_more_servers() -> None:
    """As they were measured, where peaks fill the servers' CPUs."""
    work = {"name": "busy", "replicas": 40, "cpu": 4, "memory": "1Gi", "use": {"mean": 0.9, "peak": 1.0}}
    clusters = [{"name": "a", "controlPlane": 1, "node": {"cpu": 4, "memory": "2Gi"}, "workloads": [work]}]
    plain = profile(clusters=clusters)
    slow = msgspec.structs.replace(plain, overheads={"cpu": Overhead(times=Ratio.of(1.6), origin="measurement m")})
    fast, more = (deciding.plans(p)["vm"].layout.count for p in (plain, slow))
    assert more > fast
