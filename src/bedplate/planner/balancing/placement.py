"""Which machine is on which server, and where each may go: the hard limits, kept while machines move.

Servers and machines are numbers here, in the order of their names, so that the order of input means nothing.
Knows nothing of load or gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bedplate.model.ids import ServerName
from bedplate.planner.balancing.problem import BalanceMachine, BalanceServer, Problem, may_run
from bedplate.planner.balancing.rules import Rules


class Placement:
    """The fleet, changed by `move` only."""

    def __init__(self, problem: Problem) -> None:
        self.servers = sorted(problem.servers, key=lambda s: s.name)
        known = {s.name: n for n, s in enumerate(self.servers)}
        self.machines = sorted((m for m in problem.machines if m.server in known), key=lambda m: m.uid)
        self.where = [known[m.server] for m in self.machines]
        self.memory = np.array([m.memory_mib for m in self.machines], dtype=np.int64)
        self.vcpus = np.array([m.vcpus for m in self.machines], dtype=np.float64)
        self.memory_free = np.array([s.memory_mib - s.memory_held_mib for s in self.servers], dtype=np.int64)
        self.vcpus_free = np.array([s.vcpus - s.vcpus_held for s in self.servers], dtype=np.float64)
        self.takes = np.array([not s.unschedulable for s in self.servers], dtype=np.bool_)
        self.on: list[list[int]] = [[] for _ in self.servers]
        self.rules = Rules(problem.groups, self.servers, [m.groups for m in self.machines])
        self._eligible = _Eligible(self.servers, self.takes)
        self._row = [self._eligible.row(m) for m in self.machines]
        for machine, server in enumerate(self.where):
            self._add(machine, server, 1)

    def _add(self, machine: int, server: int, sign: int) -> None:
        self.memory_free[server] -= sign * self.memory[machine]
        self.vcpus_free[server] -= sign * self.vcpus[machine]
        self.rules.add(machine, server, sign)
        if sign > 0:
            self.on[server].append(machine)
            self.on[server].sort()
        else:
            self.on[server].remove(machine)

    def move(self, machine: int, target: int) -> None:
        """Move it; whether it may is the caller's to have asked."""
        self._add(machine, self.where[machine], -1)
        self.where[machine] = target
        self._add(machine, target, 1)

    def eligible(self, machines: Sequence[int]) -> NDArray[np.bool_]:
        """By machine and server: it may be there at all, whatever the room."""
        return np.stack([self._row[m] for m in machines])

    def eligible_at(self, server: int, machines: Iterable[int]) -> NDArray[np.bool_]:
        """By machine: it may be on that server at all."""
        return np.array([self._row[m][server] for m in machines], dtype=np.bool_)

    def fits(self, machines: Sequence[int]) -> NDArray[np.bool_]:
        """By machine and server: it may go there now and no hard limit is passed. Its own server never is one."""
        fits = self.eligible(machines)
        fits &= self.memory[machines][:, None] <= self.memory_free
        fits &= self.vcpus[machines][:, None] <= self.vcpus_free
        for row, machine in enumerate(machines):
            server = self.where[machine]
            fits[row, server] = False
            if self.rules.bound(machine):
                fits[row] &= self.rules.allows(machine, server)
        return fits

    def may(self, machine: int, target: int) -> bool:
        """The same for one machine and one server."""
        return bool(self.fits([machine])[0, target])


class _Eligible:
    """For each kind of machine the servers that could ever take it, worked out once."""

    def __init__(self, servers: Sequence[BalanceServer], takes: NDArray[np.bool_]) -> None:
        self._servers, self._takes = servers, takes
        self._rows: dict[tuple[frozenset[ServerName] | None, str], NDArray[np.bool_]] = {}

    def row(self, m: BalanceMachine) -> NDArray[np.bool_]:
        """By server: it may be there."""
        kind = (m.allowed, m.cpu_model)
        found = self._rows.get(kind)
        if found is None:
            found = self._takes & np.array([may_run(m, s) for s in self._servers], dtype=np.bool_)
            self._rows[kind] = found
        return found
