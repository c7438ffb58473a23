"""Who is to be together and who apart, kept as counts per failure domain while machines move.

A `must` bars servers; a rule that is broken already bars nothing but what would break it further. A `should` has a
price. Knows nothing of load.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bedplate.planner.balancing.problem import BalanceServer, PlacementGroup, domain_of


class Domains:
    """The failure domains of one label, by number: which one each server is in."""

    def __init__(self, over: str, servers: Sequence[BalanceServer]) -> None:
        labels = [domain_of(s, over) for s in servers]
        numbers = {label: n for n, label in enumerate(sorted(set(labels)))}
        self.of = np.array([numbers[label] for label in labels], dtype=np.int64)
        self.number = len(numbers)


class Rule:
    """One group: how many of its members each failure domain has."""

    def __init__(self, group: PlacementGroup, domains: Domains) -> None:
        self.group = group
        self.domain = domains.of
        self.count = np.zeros(domains.number, dtype=np.int64)

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

    def broken_at(self, server: int) -> bool:
        """A member that leaves the server may end a breach."""
        there = self.count[self.domain[server]]
        return bool(there > self.group.most) if self.group.kind == "anti-affinity" else bool(there == 1)

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
        domains = {over: Domains(over, servers) for over in {g.over for g in groups}}
        by_name = {g.name: Rule(g, domains[g.over]) for g in sorted(groups, key=lambda g: g.name)}
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

    def wish_broken(self, machine: int, server: int) -> bool:
        """The machine, now on `server`, is where some `should` does not want it."""
        return any(rule.broken_at(server) for rule in self._should[machine])

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
