"""Which moves may run at once: bounded per server and per shared uplink, and only where their order does not matter.

While it moves, a machine takes memory on both servers. So a move waits for every earlier one that makes room on its
target, for every earlier one of a machine of its groups, and for the machine's own earlier move.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from bedplate.planner.balancing.problem import BalanceMachine, BalanceServer, Problem


def assign(
    problem: Problem,
    moves: Sequence[tuple[int, int, int]],
    servers: Sequence[BalanceServer],
    machines: Sequence[BalanceMachine],
) -> list[int]:
    """For each move (machine, source, target, by number) its wave, from 0; the earliest that the bounds allow."""
    terms = problem.terms
    busy: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    busy[0].update({("server", s.name): s.moving for s in servers if s.moving})
    left: dict[int, int] = {}
    """By server: the last wave in which a machine leaves it."""
    touched: dict[str, int] = {}
    """By machine and by group: the last wave in which one of it moves."""
    found: list[int] = []
    for machine, source, target in moves:
        m = machines[machine]
        marks = [f"machine {m.uid}", *(f"group {g}" for g in m.groups)]
        wave = max(left.get(target, -1), *(touched.get(mark, -1) for mark in marks)) + 1
        needs = _needs(servers[source], servers[target])
        while any(busy[wave][need] >= (terms.per_server if need[0] == "server" else terms.per_link) for need in needs):
            wave += 1
        busy[wave].update(needs)
        left[source] = max(left.get(source, -1), wave)
        touched.update(dict.fromkeys(marks, wave))
        found.append(wave)
    return found


def _needs(source: BalanceServer, target: BalanceServer) -> list[tuple[str, str]]:
    """What the move uses: both servers, and the uplinks of both where it crosses them."""
    needs: list[tuple[str, str]] = [("server", source.name), ("server", target.name)]
    if source.link != target.link:
        needs += [("link", s.link) for s in (source, target) if s.link]
    return needs
