"""N+k: what would find room after failures, and what would not."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing.problem import (
    Amounts,
    BalanceMachine,
    BalanceServer,
    KeepFree,
    PlacementGroup,
    Problem,
    Terms,
)
from bedplate.planner.balancing.reserve import Reserve


def server(name: str, gib: int, *, rack: str = "", unschedulable: bool = False) -> BalanceServer:
    return BalanceServer(
        name=ServerName(name),
        capacity=Amounts(cpu=16),
        memory_mib=gib * 1024,
        domains={"rack": rack} if rack else {},
        unschedulable=unschedulable,
    )


def machine(name: str, on: str, gib: int, *, groups: tuple[str, ...] = (), only: str = "") -> BalanceMachine:
    return BalanceMachine(
        uid=MachineUid(name),
        server=ServerName(on),
        memory_mib=gib * 1024,
        groups=groups,
        allowed=frozenset({ServerName(only)}) if only else None,
    )


def reserve(
    servers: list[BalanceServer], machines: list[BalanceMachine], keep: KeepFree, *groups: PlacementGroup
) -> Reserve:
    return Reserve(Problem(servers=tuple(servers), machines=tuple(machines), groups=groups, terms=Terms(now=0.0)), keep)


def test_names_what_would_be_homeless_and_after_which_failure() -> None:
    servers = [server("a", 32), server("b", 32), server("c", 32)]
    machines = [machine("big", "a", 24), machine("b1", "b", 12), machine("c1", "c", 12)]
    (short,) = reserve(servers, machines, KeepFree(servers=1)).shortages()
    assert short.failed == ("a",)
    assert short.homeless == ("big",)
    assert short.missing_mib == 24 * 1024


def test_no_failure_is_too_much_where_one_server_is_spare() -> None:
    servers = [server("a", 32), server("b", 32), server("spare", 32)]
    machines = [machine("a1", "a", 20), machine("b1", "b", 20)]
    assert reserve(servers, machines, KeepFree(servers=1)).shortages() == ()
    assert reserve(servers, machines, KeepFree(servers=2)).shortages() != ()


def test_each_domain_is_to_hold_its_own_failures() -> None:
    servers = [server("a1", 32, rack="a"), server("a2", 32, rack="a"), server("b1", 32, rack="b")]
    machines = [machine("x", "a1", 8), machine("y", "b1", 8)]
    assert reserve(servers, machines, KeepFree(servers=1)).shortages() == ()
    (short,) = reserve(servers, machines, KeepFree(servers=1, per="rack")).shortages()
    assert short.failed == ("b1",)


def test_room_on_a_server_that_takes_nothing_is_no_room() -> None:
    servers = [server("a", 32), server("b", 32, unschedulable=True)]
    assert reserve(servers, [machine("x", "a", 8)], KeepFree(servers=1)).shortages() != ()


def test_machines_that_must_be_apart_need_a_server_each() -> None:
    apart = PlacementGroup(name="etcd", kind="anti-affinity")
    three = [server(n, 64) for n in "abc"]
    machines = [machine(f"m{n}", n, 4, groups=("etcd",)) for n in "abc"]
    (short,) = reserve(three, machines, KeepFree(servers=1), apart).shortages()
    assert len(short.homeless) == 1
    assert reserve([*three, server("d", 64)], machines, KeepFree(servers=1), apart).shortages() == ()


def test_machines_that_must_be_together_restart_together() -> None:
    together = PlacementGroup(name="pair", kind="affinity")
    servers = [server("a", 16), server("b", 8), server("c", 8)]
    machines = [machine("m1", "a", 6, groups=("pair",)), machine("m2", "a", 6, groups=("pair",))]
    (short,) = reserve(servers, machines, KeepFree(servers=1), together).shortages()
    assert short.homeless == ("m2",)
    assert reserve(servers, machines, KeepFree(servers=1)).shortages() == ()


def test_a_machine_that_can_be_on_one_server_only_asks_for_no_reserve() -> None:
    servers = [server("a", 32), server("b", 4)]
    machines = [machine("local", "a", 24, only="a"), machine("shared", "a", 2)]
    assert reserve(servers, machines, KeepFree(servers=1)).shortages() == ()


def test_admission_asks_before_the_machine_is_there() -> None:
    servers = [server("a", 32), server("b", 32)]
    kept = reserve(servers, [machine("x", "a", 16)], KeepFree(servers=1))
    assert kept.admits(machine("y", "b", 16), ServerName("b"))
    assert not kept.admits(machine("y", "b", 17), ServerName("b"))
    assert kept.shortages() == ()
    kept.add(machine("y", "b", 17), ServerName("b"))
    assert kept.shortages() != ()
    assert kept.admits(machine("z", "b", 0), ServerName("b")), "what is short already does not bar what needs nothing"
    kept.remove(MachineUid("y"))
    assert kept.shortages() == ()


@pytest.mark.parametrize("servers", [0, 5])
def test_as_many_failures_as_servers_or_none_are_answered(servers: int) -> None:
    found = reserve([server("a", 32)], [machine("x", "a", 8)], KeepFree(servers=servers)).shortages()
    assert bool(found) == (servers > 0)


@given(
    st.lists(st.tuples(st.integers(2, 12), st.integers(0, 6)), min_size=2, max_size=6),
    st.integers(1, 3),
)
def test_with_machines_of_one_size_the_answer_is_exact_for_every_set_of_failures(
    sizes: list[tuple[int, int]], k: int
) -> None:
    """Servers of some GiB with some machines of 2 GiB each: slots can be counted."""
    servers = [server(f"s{n}", gib) for n, (gib, _) in enumerate(sizes)]
    there = [min(count, gib // 2) for gib, count in sizes]
    machines = [machine(f"m{n}-{i}", f"s{n}", 2) for n, count in enumerate(there) for i in range(count)]
    free = [gib // 2 - count for (gib, _), count in zip(sizes, there, strict=True)]
    k = min(k, len(sizes))
    holds = all(
        sum(there[n] for n in failed) <= sum(free[n] for n in range(len(sizes)) if n not in failed)
        for failed in combinations(range(len(sizes)), k)
    )
    assert (reserve(servers, machines, KeepFree(servers=k)).shortages() == ()) == holds


@given(
    st.lists(st.integers(4, 64), min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8), st.booleans()), max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 5)), max_size=10),
    st.sampled_from(["", "rack"]),
)
def test_kept_up_move_by_move_it_is_what_it_would_be_from_the_start(
    sizes: list[int], wanted: list[tuple[int, int, bool]], moves: list[tuple[int, int]], per: str
) -> None:
    servers = [server(f"s{n}", gib, rack=f"r{n % 2}") for n, gib in enumerate(sizes)]
    apart = PlacementGroup(name="apart", kind="anti-affinity")
    machines = {
        f"m{n}": machine(f"m{n}", f"s{on % len(sizes)}", gib, groups=("apart",) if grouped else ())
        for n, (on, gib, grouped) in enumerate(wanted)
    }
    keep = KeepFree(servers=1, per=per)
    kept = reserve(servers, list(machines.values()), keep, apart)
    for n, on in moves:
        if f"m{n}" not in machines:
            continue
        target = ServerName(f"s{on % len(sizes)}")
        kept.may(MachineUid(f"m{n}"), target)  # only asks
        kept.move(MachineUid(f"m{n}"), target)
        machines[f"m{n}"] = msgspec.structs.replace(machines[f"m{n}"], server=target)
    assert kept.shortages() == reserve(servers, list(machines.values()), keep, apart).shortages()
