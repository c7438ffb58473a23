"""Who is to be together and who apart, kept as counts per failure domain while machines move.

A `must` bars servers; a rule that is broken already bars nothing but what would break it further. A `should` has a
price. Knows nothing of load.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bedplate.planner.balancing.problem import BalanceServer, PlacementGroup, domain_of


class Rule:
    """One group: how many of its members each failure domain has."""

    def __init__(self, group: PlacementGroup, servers: Sequence[BalanceServer]) -> None:
        self.group = group
        labels = [domain_of(s, group.over) for s in servers]
        names = {label: n for n, label in enumerate(sorted(set(labels)))}
        self.domain = np.array([names[label] for label in labels], dtype=np.int64)
        self.count = np.zeros(len(names), dtype=np.int64)

    def allows(self, server: int) -> NDArray[np.bool_]:
        """By server: a member that now is on `server` may go there."""
        others = self._others(server)
        if self.group.kind == "anti-affinity":
            free = others < self.group.most
        else:
            free = others > 0 if others.any() else np.ones(len(others), dtype=np.bool_)
        return free[self.domain]

    def relief(self, server: int) -> NDArray[np.int64]:
        """By server: how many breaches there are less once a member has gone there from `server`."""
        others = self._others(server)
        if self.group.kind == "anti-affinity":
            breach = others >= self.group.most
        else:
            breach = (others == 0) & others.any()
        by_server = breach[self.domain].astype(np.int64)
        return by_server[server] - by_server

    def _others(self, server: int) -> NDArray[np.int64]:
        others = self.count.copy()
        others[self.domain[server]] -= 1
        return others

    def add(self, server: int, sign: int = 1) -> None:
        """A member comes to the server (1) or leaves it (-1)."""
        self.count[self.domain[server]] += sign

    @property
    def breaches(self) -> int:
        """Members that are where the rule does not want them."""
        if self.group.kind == "anti-affinity":
            return int(np.maximum(self.count - self.group.most, 0).sum())
        return max(0, int((self.count > 0).sum()) - 1)


class Rules:
    """All groups, and for each machine those that it is in. A group that nobody declared is no rule."""

    def __init__(
        self, groups: Sequence[PlacementGroup], servers: Sequence[BalanceServer], members: Sequence[Sequence[str]]
    ) -> None:
        by_name = {g.name: Rule(g, servers) for g in sorted(groups, key=lambda g: g.name)}
        self.all = tuple(by_name.values())
        self._of = [tuple(by_name[g] for g in sorted(set(names)) if g in by_name) for names in members]
        self._should = [tuple(r for r in rules if r.group.strength == "should") for rules in self._of]
        self._must = [tuple(r for r in rules if r.group.strength == "must") for rules in self._of]

    def bound(self, machine: int) -> bool:
        """True where a `must` concerns the machine."""
        return bool(self._must[machine])

    def wished(self, machine: int) -> bool:
        """True where a `should` concerns the machine."""
        return bool(self._should[machine])

    def allows(self, machine: int, server: int) -> NDArray[np.bool_]:
        """By server: the machine, now on `server`, may go there for all that must be."""
        rows = [rule.allows(server) for rule in self._must[machine]]
        return np.logical_and.reduce(rows)

    def relief(self, machine: int, server: int) -> NDArray[np.int64]:
        """By server: breaches of what should be that end, less those that begin."""
        rows = [rule.relief(server) for rule in self._should[machine]]
        return np.add.reduce(rows)

    def add(self, machine: int, server: int, sign: int = 1) -> None:
        """The machine comes to the server (1) or leaves it (-1)."""
        for rule in self._of[machine]:
            rule.add(server, sign)

    @property
    def wishes_broken(self) -> int:
        """Breaches of all that should be."""
        return sum(r.breaches for r in self.all if r.group.strength == "should")
