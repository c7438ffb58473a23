"""Balancing told as stories: which machine moves, what it gains and costs, and why others stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing import balance
from bedplate.planner.balancing.cost import DOWNTIME, SET_UP, copy_seconds, migration
from bedplate.planner.balancing.problem import (
    Amounts,
    BalanceMachine,
    BalanceServer,
    KeepFree,
    PlacementGroup,
    Plan,
    Problem,
    Stays,
    Terms,
)

NOW = 1_000_000.0
GIB = 1024


def server(name: str, *, memory: int = 64 * GIB, **more: object) -> BalanceServer:
    facts: dict[str, object] = {"capacity": Amounts(cpu=32), "memory_mib": memory, **more}
    return BalanceServer(name=ServerName(name), **facts)  # type: ignore[arg-type]


def machine(name: str, on: str, cpu: float = 4.0, *, memory: int = 8 * GIB, **more: object) -> BalanceMachine:
    facts: dict[str, object] = {"demand": Amounts(cpu=cpu), "memory_mib": memory, **more}
    return BalanceMachine(uid=MachineUid(name), server=ServerName(on), **facts)  # type: ignore[arg-type]


def plan(
    servers: list[BalanceServer], machines: list[BalanceMachine], *groups: PlacementGroup, **terms: object
) -> Plan:
    return balance(
        Problem(
            servers=tuple(servers),
            machines=tuple(machines),
            groups=groups,
            terms=Terms(now=NOW, **terms),  # type: ignore[arg-type]
        )
    )


def hot(n: int = 6, **more: object) -> list[BalanceMachine]:
    """Machines that together keep one server three quarters busy."""
    return [machine(f"m{i}", "hot", **more) for i in range(n)]


def made(p: Plan) -> list[tuple[str, str, str]]:
    return [(m.machine, m.source, m.target) for m in p.moves]


# --- what is moved ---


def test_a_hot_server_is_relieved_until_both_are_even() -> None:
    p = plan([server("hot"), server("cold")], hot())
    assert made(p) == [("m0", "hot", "cold"), ("m1", "hot", "cold"), ("m2", "hot", "cold")]
    assert p.before == pytest.approx(0.375)
    assert p.after == pytest.approx(0.0)
    assert [m.unevenness for m in p.moves] == pytest.approx([0.25, 0.125, 0.0])
    assert p.stays == {Stays.MOVED: 3, Stays.WELL_PLACED: 3}


def test_the_gain_is_the_work_that_no_longer_waits() -> None:
    """From 24 and 0 of 32 cores to 20 and 4: 32 (0.75^2 - 0.625^2 - 0.125^2) cores, for an hour."""
    first = plan([server("hot"), server("cold")], hot()).moves[0]
    assert first.gain == pytest.approx(32 * (0.75**2 - 0.625**2 - 0.125**2) * 3600)
    assert first.cost == pytest.approx(migration(8 * GIB, 4.0, 0.0, 1100.0).core_seconds)
    assert first.seconds == pytest.approx(8 * GIB / 1100.0 + SET_UP)


def test_the_colder_of_two_servers_is_taken() -> None:
    machines = [*hot(), machine("other", "cool", 6.0)]
    assert made(plan([server("hot"), server("cool"), server("cold")], machines))[0][2] == "cold"


def test_a_larger_server_takes_more_until_use_is_even() -> None:
    large = server("large", capacity=Amounts(cpu=96))
    p = plan([server("hot"), large], hot(8))
    assert len(p.moves) == 6, "a quarter of the work stays on a quarter of the cores"
    assert p.after == pytest.approx(0.0)


def test_memory_in_use_is_evened_out_too_where_it_was_measured() -> None:
    both = [server(n, capacity=Amounts(cpu=32, memory=64 * GIB)) for n in ("hot", "cold")]
    machines = [machine(f"m{i}", "hot", 0.5, demand=Amounts(cpu=0.5, memory=8 * GIB)) for i in range(6)]
    assert len(plan(both, machines).moves) == 3


def test_a_wish_that_is_broken_is_mended_on_servers_that_are_even() -> None:
    wish = PlacementGroup(name="web", kind="anti-affinity", strength="should")
    servers = [server(n) for n in "abc"]
    machines = [machine("w1", "a", 2.0, groups=("web",)), machine("w2", "a", 2.0, groups=("web",))]
    machines += [machine("b", "b", 4.0), machine("c", "c", 4.0)]
    assert [m.machine for m in plan(servers, machines, wish).moves] == ["w1"]


def test_two_machines_change_places_where_that_is_wanted_and_no_single_move_helps() -> None:
    machines = [machine("a1", "a", 12.0), machine("a2", "a", 12.0), machine("b1", "b", 8.0), machine("b2", "b", 8.0)]
    assert plan([server("a"), server("b")], machines).moves == ()
    p = plan([server("a"), server("b")], machines, exchanges=True)
    assert made(p) == [("a1", "a", "b"), ("b1", "b", "a")]
    assert p.after == pytest.approx(0.0)
    assert [m.wave for m in p.moves] == [0, 1], "the second waits for the first to have left its target"


def test_an_exchange_begins_where_there_is_room_for_both() -> None:
    machines = [machine("a1", "a", 12.0), machine("a2", "a", 12.0), machine("b1", "b", 8.0), machine("b2", "b", 8.0)]
    full = server("b", memory=16 * GIB)
    p = plan([server("a"), full], machines, exchanges=True)
    assert made(p) == [("b1", "b", "a"), ("a1", "a", "b")]
    assert plan([server("a", memory=16 * GIB), full], machines, exchanges=True).moves == ()


# --- why nothing is moved ---


def test_a_machine_that_was_just_moved_stays() -> None:
    machines = hot(moved=NOW - 599.0)
    p = plan([server("hot"), server("cold")], machines)
    assert p.moves == ()
    assert p.stays == {Stays.RECENT: 6}
    assert plan([server("hot"), server("cold")], hot(moved=NOW - 600.0)).moves


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"pinned": True}, Stays.PINNED),
        ({"live": False}, Stays.NOT_LIVE),
        ({"dirty_mib_s": 1000.0}, Stays.NOT_CONVERGING),
        ({"allowed": frozenset({ServerName("hot")})}, Stays.NO_ROOM),
        ({"cpu_model": "x86-64-v4"}, Stays.NO_ROOM),
        ({"deviation": Amounts(cpu=8.0)}, Stays.NOISE),
        ({"memory": 60 * GIB}, Stays.NO_ROOM),
        ({"vcpus": 64.0}, Stays.NO_ROOM),
    ],
)
def test_what_may_not_move_stays_and_it_is_said_why(more: dict[str, object], why: Stays) -> None:
    servers = [
        server("hot", memory=512 * GIB, cpu_models=frozenset({"x86-64-v4"})),
        server("cold", memory=32 * GIB, vcpus=32.0, cpu_models=frozenset({"x86-64-v2"})),
    ]
    p = plan(servers, hot(**more))
    assert p.moves == ()
    assert p.stays == {why: 6}


def test_a_small_difference_is_left_alone() -> None:
    machines = [machine("a", "a", 4.0), machine("a2", "a", 3.0), machine("b", "b", 4.0)]
    assert plan([server("a"), server("b")], machines).moves == ()


def test_a_gain_that_does_not_pay_for_the_migration_is_left() -> None:
    machines = hot(memory=100 * GIB)
    servers = [server("hot", memory=1024 * GIB), server("cold", memory=1024 * GIB)]
    assert plan(servers, machines, horizon=3600.0).moves
    p = plan(servers, machines, horizon=30.0)
    assert p.moves == ()
    assert p.stays == {Stays.COST: 6}


def test_a_move_that_does_little_of_what_is_to_be_done_is_left() -> None:
    machines = [machine("huge", "hot", 30.0, live=False), *(machine(f"t{i}", "hot", 0.1) for i in range(3))]
    p = plan([server("hot"), server("cold")], machines)
    assert p.moves == ()
    assert p.stays == {Stays.NOT_LIVE: 1, Stays.SMALL_GAIN: 3}


def test_one_large_machine_does_not_change_which_server_is_hot() -> None:
    p = plan([server("hot"), server("cold")], [machine("huge", "hot", 30.0)])
    assert p.moves == ()
    assert p.stays == {Stays.WELL_PLACED: 1}


def test_an_unschedulable_server_is_left_but_never_filled() -> None:
    shut = server("cold", unschedulable=True)
    assert plan([server("hot"), shut], hot()).moves == ()
    assert plan([server("hot", unschedulable=True), server("cold")], hot()).moves


def test_what_keeps_room_for_a_failure_is_not_used_up() -> None:
    """Should `c` fail, its 24 GiB machine needs `b` as it is."""
    servers = [server(n, memory=32 * GIB) for n in "abc"]
    machines = [machine(f"a{i}", "a", 8.0, live=i == 0) for i in range(3)]
    machines += [machine("small", "b", 0.0, live=False), machine("big", "c", 0.0, memory=24 * GIB, live=False)]
    assert made(plan(servers, machines)) == [("a0", "a", "b")]
    assert made(plan(servers, machines, reserve=KeepFree(servers=1))) == [("a0", "a", "c")]


def test_no_more_moves_than_asked_for() -> None:
    p = plan([server("hot"), server("cold")], hot(), moves=1)
    assert len(p.moves) == 1
    assert p.stays == {Stays.MOVED: 1, Stays.LATER: 5}


def test_an_empty_fleet_is_even() -> None:
    assert plan([], []) == Plan(before=0.0, after=0.0)
    assert plan([server("a")], []) == Plan(before=0.0, after=0.0)


# --- what runs at once ---


def test_moves_at_once_are_bounded_per_server_and_per_uplink() -> None:
    servers = [server("hot", link="rack1"), *(server(f"cold{n}", link=f"rack{2 + n}") for n in range(4))]
    waves = [m.wave for m in plan(servers, hot(16, memory=2 * GIB)).moves]
    assert len(waves) > 6
    assert max(waves.count(w) for w in waves) == 2
    assert max(plan(servers, hot(16, memory=2 * GIB), per_link=1).moves, key=lambda m: m.wave).wave == len(waves) - 1


def test_migrations_that_are_under_way_count_too() -> None:
    p = plan([server("hot", moving=2), server("cold")], hot())
    assert [m.wave for m in p.moves] == [1, 1, 2]


def test_members_of_one_group_move_one_after_the_other() -> None:
    rack = PlacementGroup(name="web", kind="anti-affinity", over="rack", most=8)
    cold = [server(f"cold{n}", domains={"rack": f"r{n}"}) for n in range(3)]
    moves = plan([server("hot"), *cold], hot(groups=("web",)), rack).moves
    assert len(moves) > 2
    assert [m.wave for m in moves] == list(range(len(moves)))


# --- what a migration costs ---


def test_an_idle_guest_is_copied_once() -> None:
    assert copy_seconds(11_000, 0.0, 1100.0) == pytest.approx(10.0)


def test_rounds_of_a_busy_guest_add_up_and_end_in_the_allowed_downtime() -> None:
    took = copy_seconds(11_000, 550.0, 1100.0)
    rounds = [10.0 / 2**n for n in range(10)]
    needed = next(n for n, seconds in enumerate(rounds) if seconds <= DOWNTIME)
    assert took == pytest.approx(sum(rounds[: needed + 1]))
    assert took < 11_000 / (1100.0 - 550.0)


def test_a_guest_that_writes_faster_than_the_link_never_ends() -> None:
    assert copy_seconds(1024, 1100.0, 1100.0) == float("inf")


def test_numpy_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, bedplate.planner.balancing.reserve, bedplate.planner.balancing; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
