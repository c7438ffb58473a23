"""Emptying servers: limits hold at each move, and no fewer servers stay in use than can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing.consolidate import consolidate, fewest
from bedplate.planner.balancing.problem import (
    Amounts,
    BalanceMachine,
    BalanceServer,
    KeepFree,
    PlacementGroup,
    Problem,
    Terms,
)

GIB = 1024
Sizes = list[list[int]]


def problem(sizes: Sizes, *groups: PlacementGroup, cpu: float = 0.0, keep: int = 0, **more: object) -> Problem:
    """Servers of 16 GiB and 16 cores, each with machines of so many GiB."""
    servers = tuple(
        BalanceServer(name=ServerName(f"s{n}"), capacity=Amounts(cpu=16), memory_mib=16 * GIB)
        for n in range(len(sizes))
    )
    machines = tuple(
        BalanceMachine(
            uid=MachineUid(f"m{n}-{k}"),
            server=servers[n].name,
            demand=Amounts(cpu=cpu),
            memory_mib=gib * GIB,
            groups=tuple(g.name for g in groups),
            **more,  # type: ignore[arg-type]
        )
        for n, there in enumerate(sizes)
        for k, gib in enumerate(there)
    )
    terms = Terms(now=0.0, reserve=KeepFree(servers=keep) if keep else None)
    return Problem(servers=servers, machines=machines, groups=groups, terms=terms)


def in_use(p: Problem) -> int:
    return len(p.servers) - len(consolidate(p).empty)


def test_machines_are_pressed_together() -> None:
    p = problem([[4], [8], [4], []])
    found = consolidate(p)
    assert found.empty == ("s0", "s2", "s3")
    assert {move[0] for move in found.moves} == {"m0-0", "m2-0"}
    assert fewest(p) == 1


def test_a_server_whose_machines_do_not_all_find_a_place_keeps_them_all() -> None:
    assert consolidate(problem([[10, 2], [10, 2], [12]])).moves == ()


def test_busy_machines_are_not_pressed_together() -> None:
    busy = problem([[1], [1], [1]], cpu=6.0)
    assert in_use(busy) == 2
    assert fewest(busy) == 2, "eighteen cores of work do not fit on four fifths of sixteen"


def test_what_may_not_move_keeps_its_server_in_use() -> None:
    assert in_use(problem([[1], [1]], pinned=True)) == 2
    assert in_use(problem([[1], [1]], live=False)) == 2


def test_machines_that_must_be_apart_stay_apart() -> None:
    assert in_use(problem([[1], [1], [1]], PlacementGroup(name="etcd", kind="anti-affinity"))) == 3


def test_a_server_that_was_emptied_still_counts_as_room_for_a_failure() -> None:
    assert in_use(problem([[8], [8]], keep=1)) == 1


def test_of_machines_larger_than_half_no_two_share_a_server() -> None:
    p = problem([[9], [9], [9], []])
    assert fewest(p) == 3
    assert in_use(p) == 3


@given(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=6))
def test_limits_hold_at_each_move_and_the_bound_is_one(sizes: Sizes) -> None:
    p = problem(sizes)
    found = consolidate(p)
    memory = {m.uid: m.memory_mib for m in p.machines}
    where = {m.uid: m.server for m in p.machines}
    for uid, source, target in found.moves:
        assert where[uid] == source
        where[uid] = target
        used = Counter[ServerName]()
        for m, server in where.items():
            used[server] += memory[m]
        assert max(used.values()) <= 16 * GIB
    assert not set(found.empty) & set(where.values())
    assert fewest(p) <= len(set(where.values())) == len(p.servers) - len(found.empty)
    assert consolidate(p) == found
