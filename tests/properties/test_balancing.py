"""Balancing: no move raises the score or passes a hard limit, none is made for noise, and order means nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing import balance
from bedplate.planner.balancing.problem import (
    Amounts,
    BalanceMachine,
    BalanceServer,
    KeepFree,
    Move,
    PlacementGroup,
    Problem,
    Terms,
    domain_of,
    may_run,
)
from bedplate.planner.balancing.reserve import Reserve

NOW = 1_000_000.0
GROUPS = (
    PlacementGroup(name="apart", kind="anti-affinity"),
    PlacementGroup(name="racks", kind="anti-affinity", over="rack", most=2),
    PlacementGroup(name="wish", kind="anti-affinity", strength="should"),
    PlacementGroup(name="together", kind="affinity", over="rack"),
)
NAMES = tuple(g.name for g in GROUPS)


@st.composite
def fleets(draw: st.DrawFn, *, wishes: bool = True, reserve: bool = False) -> Problem:
    """Fleets with everything that may bar a move; also such that break a rule already."""
    servers = [_server(draw, n) for n in range(draw(st.integers(2, 6)))]
    free = {s.name: s.memory_mib for s in servers}
    machines: list[BalanceMachine] = []
    for n in range(draw(st.sampled_from([6, 12, 24]))):
        m = _machine(draw, n, servers, wishes=wishes)
        if free[m.server] >= m.memory_mib:
            free[m.server] -= m.memory_mib
            machines.append(m)
    keep = draw(st.sampled_from([KeepFree(servers=1), KeepFree(servers=1, per="rack")])) if reserve else None
    terms = Terms(now=NOW, horizon=draw(st.sampled_from([600.0, 3600.0, 86_400.0])), reserve=keep)
    return Problem(servers=tuple(servers), machines=tuple(machines), groups=GROUPS, terms=terms)


def _server(draw: st.DrawFn, n: int) -> BalanceServer:
    cores = draw(st.sampled_from([16, 32, 64]))
    return BalanceServer(
        name=ServerName(f"hv{n}"),
        capacity=Amounts(cpu=cores, memory=draw(st.sampled_from([0, 65_536]))),
        memory_mib=draw(st.sampled_from([16_384, 65_536])),
        vcpus=cores * 4.0,
        domains={"rack": f"r{n % 3}"} if n < 5 else {},
        cpu_models=frozenset({"v2", "v3"} if n % 2 else {"v2"}),
        unschedulable=draw(st.integers(0, 9)) == 0,
        link=f"r{n % 3}",
    )


def _machine(draw: st.DrawFn, n: int, servers: list[BalanceServer], *, wishes: bool) -> BalanceMachine:
    names = [s.name for s in servers]
    cpu = draw(st.sampled_from([0.0, 0.5, 2.0, 4.0, 8.0]))
    groups = draw(st.sets(st.sampled_from(NAMES if wishes else NAMES[:2]), max_size=2))
    allowed = draw(st.sampled_from([None, frozenset(names), frozenset(names[:2])]))
    return BalanceMachine(
        uid=MachineUid(f"m{n:02}"),
        server=draw(st.sampled_from(names[:3])),
        demand=Amounts(cpu=cpu, memory=1024.0),
        deviation=Amounts(cpu=cpu * draw(st.sampled_from([0.0, 0.1, 1.0]))),
        memory_mib=draw(st.sampled_from([1024, 4096, 8192])),
        vcpus=draw(st.sampled_from([1.0, 4.0])),
        dirty_mib_s=draw(st.sampled_from([0.0] * 5 + [100.0, 2000.0])),
        allowed=allowed,
        cpu_model=draw(st.sampled_from(["", "", "v3"])),
        groups=tuple(sorted(groups)),
        pinned=draw(st.integers(0, 9)) == 0,
        live=draw(st.integers(0, 9)) > 0,
        moved=draw(st.sampled_from([float("-inf")] * 4 + [NOW - 601.0, NOW - 10.0])),
    )


def prefixes(problem: Problem, moves: tuple[Move, ...]) -> Iterator[dict[MachineUid, ServerName]]:
    """Where the machines are before the first move and after each."""
    where = {m.uid: m.server for m in problem.machines}
    yield dict(where)
    for move in moves:
        assert where[move.machine] == move.source
        where[move.machine] = move.target
        yield dict(where)


def after(problem: Problem, moves: tuple[Move, ...], *, moved: float) -> Problem:
    """The fleet once all moves are made."""
    target = {move.machine: move.target for move in moves}
    machines = tuple(
        msgspec.structs.replace(m, server=target[m.uid], moved=moved) if m.uid in target else m
        for m in problem.machines
    )
    return msgspec.structs.replace(problem, machines=machines)


def breaches(problem: Problem, where: dict[MachineUid, ServerName], strength: str) -> dict[str, int]:
    """By group: how far it is from what it wants, counted anew."""
    servers = {s.name: s for s in problem.servers}
    found: dict[str, int] = {}
    for group in problem.groups:
        domains = Counter(
            domain_of(servers[where[m.uid]], group.over) for m in problem.machines if group.name in m.groups
        )
        if group.strength != strength:
            continue
        apart = group.kind == "anti-affinity"
        found[group.name] = sum(max(0, n - group.most) for n in domains.values()) if apart else max(0, len(domains) - 1)
    return found


def waiting(problem: Problem, where: dict[MachineUid, ServerName]) -> float:
    """The score from its definition, slowly."""
    total = 0.0
    cores = sum(s.capacity.cpu for s in problem.servers)
    for resource, weight in (("cpu", 1.0), ("memory", 0.25)):
        parts = [s for s in problem.servers if getattr(s.capacity, resource)]
        if not parts:
            continue
        load = {s.name: 0.0 for s in parts}
        for m in problem.machines:
            if where[m.uid] in load:
                load[where[m.uid]] += getattr(m.demand, resource)
        capacity = {s.name: getattr(s.capacity, resource) for s in parts}
        start = [m for m in problem.machines if m.server in load]
        mean = sum(getattr(m.demand, resource) for m in start) / sum(capacity.values())
        share = cores * weight / sum(capacity.values())
        total += share * sum(capacity[n] * (load[n] / capacity[n] - mean) ** 2 for n in load)
    return total


@given(fleets(reserve=True))
def test_after_every_single_move_no_hard_limit_is_passed(problem: Problem) -> None:
    servers = {s.name: s for s in problem.servers}
    machines = {m.uid: m for m in problem.machines}
    moves = balance(problem).moves
    before: dict[str, int] | None = None
    for where in prefixes(problem, moves):
        used: Counter[ServerName] = Counter()
        for uid, server in where.items():
            used[server] += machines[uid].memory_mib
        assert all(used[name] <= servers[name].memory_mib for name in used)
        broken = breaches(problem, where, "must")
        assert before is None or all(broken[g] <= before[g] for g in broken), "no rule is broken further"
        before = broken
    for move in moves:
        target, m = servers[move.target], machines[move.machine]
        assert not target.unschedulable
        assert may_run(m, target)


@given(fleets(reserve=True))
def test_what_is_kept_free_stays_free(problem: Problem) -> None:
    assert problem.terms.reserve is not None
    missing: int | None = None
    for where in prefixes(problem, balance(problem).moves):
        there = tuple(msgspec.structs.replace(m, server=where[m.uid]) for m in problem.machines)
        reserve = Reserve(msgspec.structs.replace(problem, machines=there), problem.terms.reserve)
        now = sum(s.missing_mib for s in reserve.shortages())
        assert missing is None or now <= missing
        missing = now


@given(fleets())
def test_no_move_raises_the_score(problem: Problem) -> None:
    moves = balance(problem).moves
    last: float | None = None
    for where in prefixes(problem, moves):
        score = waiting(problem, where) + sum(breaches(problem, where, "should").values())
        assert last is None or score < last
        last = score


@given(fleets(wishes=False))
def test_each_gain_is_what_the_score_falls_by_and_exceeds_the_cost(problem: Problem) -> None:
    plan = balance(problem)
    scores = [waiting(problem, where) for where in prefixes(problem, plan.moves)]
    for move, old, new in zip(plan.moves, scores, scores[1:], strict=False):
        assert abs((old - new) * problem.terms.horizon - move.gain) < 1e-6 * max(1.0, move.gain)
        assert move.gain > move.cost > 0.0
    assert plan.after <= plan.before


@given(fleets(reserve=True), st.randoms(use_true_random=False))
def test_the_order_of_input_means_nothing(problem: Problem, random: object) -> None:
    servers, machines, groups = list(problem.servers), list(problem.machines), list(problem.groups)
    for part in (servers, machines, groups):
        random.shuffle(part)  # type: ignore[attr-defined]
    other = msgspec.structs.replace(problem, servers=tuple(servers), machines=tuple(machines), groups=tuple(groups))
    assert balance(other) == balance(problem)


@given(fleets())
def test_once_all_moves_are_made_there_are_none(problem: Problem) -> None:
    plan = balance(problem)
    assert len(plan.moves) < problem.terms.moves
    assert balance(after(problem, plan.moves, moved=NOW)).moves == ()


@given(fleets())
def test_pinned_and_recent_machines_and_such_that_cannot_move_live_stay(problem: Problem) -> None:
    machines = {m.uid: m for m in problem.machines}
    plan = balance(problem)
    assert sum(plan.stays.values()) == len(machines)
    moved = [machines[move.machine] for move in plan.moves]
    assert len({m.uid for m in moved}) == len(moved), "a machine moves once"
    for m in moved:
        assert not m.pinned
        assert m.live
        assert problem.terms.now - m.moved >= problem.terms.move_window
        assert m.dirty_mib_s < problem.terms.bandwidth_mib_s


@given(
    st.lists(st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6), min_size=2, max_size=8),
    st.floats(0.5, 3.0),
)
def test_noise_does_not_move_anything(looks: list[list[float]], cpu: float) -> None:
    """Equal servers with equal machines, each seen within its own deviation."""
    servers = tuple(
        BalanceServer(name=ServerName(f"hv{n}"), capacity=Amounts(cpu=32), memory_mib=65_536) for n in range(len(looks))
    )
    machines = tuple(
        BalanceMachine(
            uid=MachineUid(f"m{n}-{k}"),
            server=servers[n].name,
            demand=Amounts(cpu=cpu * (0.5 + look)),
            deviation=Amounts(cpu=cpu),
            memory_mib=1024,
        )
        for n, row in enumerate(looks)
        for k, look in enumerate(row)
    )
    assert balance(Problem(servers=servers, machines=machines, terms=Terms(now=NOW))).moves == ()


@given(fleets())
def test_a_wave_is_bounded_and_its_order_means_nothing(problem: Problem) -> None:
    moves = balance(problem).moves
    servers = {s.name: s for s in problem.servers}
    machines = {m.uid: m for m in problem.machines}
    used: Counter[ServerName] = Counter()
    for m in problem.machines:
        used[m.server] += m.memory_mib
    for wave in range(max((m.wave for m in moves), default=-1) + 1):
        at_once = [m for m in moves if m.wave == wave]
        assert at_once, "no wave is empty"
        busy = Counter(name for m in at_once for name in (m.source, m.target))
        assert max(busy.values()) <= problem.terms.per_server
        for m in at_once:
            used[m.target] += m.memory_mib
        assert all(used[name] <= servers[name].memory_mib for name in used), "both copies have room"
        for m in at_once:
            used[m.source] -= machines[m.machine].memory_mib
