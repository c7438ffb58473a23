"""Evening out load by live migration: a pure library. Facts in, moves out; it knows no blueprint and starts nothing.

`problem` has the words, `score` says how uneven a fleet is, `cost` what a move costs, `search` finds the moves, `waves`
which of them may run at once, `consolidate` empties servers instead, `reserve` says whether failures would find room.
Numpy is imported by what searches and by nothing else: a controller that never balances does not pay for it.
"""

from __future__ import annotations

from bedplate.planner.balancing.problem import Plan, Problem


def balance(problem: Problem) -> Plan:
    """Moves that even out the fleet, best first; none where nothing is worth its cost."""
    from bedplate.planner.balancing import search

    return search.balance(problem)
