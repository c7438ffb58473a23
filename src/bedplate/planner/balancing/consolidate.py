"""The opposite of evening out: empties servers, so that they can be switched off or given to another role.

The emptiest server first: each of its machines goes to the fullest server that takes it; where one finds no place, all
of that server's stay. Every hard limit holds after each move. `fewest` says how few servers could hold it all at best.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing.placement import Placement
from bedplate.planner.balancing.problem import BalanceMachine, Problem
from bedplate.planner.balancing.reserve import Reserve
from bedplate.planner.balancing.worth import stays

FULL = 0.8
"""Share of a server's CPUs that may be in use, deviation included: above it waiting grows steeply."""


class Consolidation(msgspec.Struct, frozen=True, kw_only=True):
    """Moves in order, and the servers that are then empty."""

    moves: tuple[tuple[MachineUid, ServerName, ServerName], ...] = ()
    empty: tuple[ServerName, ...] = ()


class _Packing:
    """A placement that is pressed together."""

    def __init__(self, problem: Problem) -> None:
        self.placement = Placement(problem)
        keep = problem.terms.reserve
        self._reserve = Reserve(problem, keep) if keep is not None and keep.servers else None
        servers, machines = self.placement.servers, self.placement.machines
        self.may_leave = [stays(m, problem.terms) is None for m in machines]
        self._cpu = np.array([_busy(m) for m in machines], dtype=np.float64)
        capacity = np.array([s.capacity.cpu or math.inf for s in servers], dtype=np.float64)
        self._cpu_free = FULL * capacity - np.array([s.other.cpu for s in servers], dtype=np.float64)
        for machine, server in enumerate(self.placement.where):
            self._cpu_free[server] -= self._cpu[machine]
        self.used = np.array([bool(there) for there in self.placement.on], dtype=np.bool_)

    def _move(self, machine: int, target: int) -> None:
        source = self.placement.where[machine]
        self.placement.move(machine, target)
        self._cpu_free[source] += self._cpu[machine]
        self._cpu_free[target] -= self._cpu[machine]
        if self._reserve is not None:
            self._reserve.move(self.placement.machines[machine].uid, self.placement.servers[target].name)

    def empty(self, server: int) -> list[tuple[int, int]] | None:
        """Move all machines away to servers in use; None where that can't be done, and nothing has moved."""
        made: list[tuple[int, int]] = []
        for machine in sorted(self.placement.on[server], key=lambda m: (-int(self.placement.memory[m]), m)):
            target = self._fullest(machine) if self.may_leave[machine] else None
            if target is None:
                for moved, _ in reversed(made):
                    self._move(moved, server)
                return None
            self._move(machine, target)
            made.append((machine, target))
        self.used[server] = False
        return made

    def _fullest(self, machine: int) -> int | None:
        """The server in use with the least free memory that takes the machine."""
        fits = self.placement.fits([machine])[0] & self.used & (self._cpu[machine] <= self._cpu_free)
        room = np.where(fits, self.placement.memory_free, np.iinfo(np.int64).max)
        for target in np.argsort(room, kind="stable")[: int(fits.sum())]:
            uid, name = self.placement.machines[machine].uid, self.placement.servers[target].name
            if self._reserve is None or self._reserve.may(uid, name):
                return int(target)
        return None


def consolidate(problem: Problem) -> Consolidation:
    """Empty as many servers as can be emptied one after the other. A machine may move more than once."""
    packing = _Packing(problem)
    placement = packing.placement
    moves: list[tuple[MachineUid, ServerName, ServerName]] = []
    in_use = {
        s.name: s.memory_mib - int(free) for s, free in zip(placement.servers, placement.memory_free, strict=True)
    }
    order = sorted(np.flatnonzero(packing.used), key=lambda n: in_use[placement.servers[n].name])
    for server in order:
        source = placement.servers[server].name
        for machine, target in packing.empty(int(server)) or ():
            moves.append((placement.machines[machine].uid, source, placement.servers[target].name))
    empty = tuple(s.name for s, used in zip(placement.servers, packing.used, strict=True) if not used)
    return Consolidation(moves=tuple(moves), empty=empty)


def _busy(m: BalanceMachine) -> float:
    return m.demand.cpu + m.deviation.cpu


def fewest(problem: Problem) -> int:
    """No fewer servers can hold the machines: the best of two bounds, each for memory, virtual CPUs and CPUs in use.

    Servers by size until all is covered, as if machines could be cut (the bound of the linear programme). And as if all
    servers were the largest, Martello and Toth's L2 ("Lower bounds and reduction procedures for the bin packing
    problem", 1990): of machines larger than half a server no two share one.
    """
    bounds = [0]
    for sizes, rooms in (
        ([m.memory_mib for m in problem.machines], [s.memory_mib - s.memory_held_mib for s in problem.servers]),
        ([m.vcpus for m in problem.machines], [s.vcpus - s.vcpus_held for s in problem.servers]),
        (
            [_busy(m) for m in problem.machines],
            [FULL * (s.capacity.cpu or math.inf) - s.other.cpu for s in problem.servers],
        ),
    ):
        if rooms and max(rooms) < math.inf:
            bounds += (_covering(sum(sizes), rooms), _l2(sizes, max(rooms)))
    return max(bounds)


def _covering(total: float, rooms: list[float] | list[int]) -> int:
    for count, room in enumerate(sorted(rooms, reverse=True)):
        if total <= 1e-9:
            return count
        total -= room
    return len(rooms)


def _l2(sizes: list[float] | list[int], room: float) -> int:
    best = 0
    for small in {0.0, *(s for s in sizes if s <= room / 2)}:
        alone = sum(1 for s in sizes if s > room - small)
        halves = [s for s in sizes if room / 2 < s <= room - small]
        rest = sum(s for s in sizes if small <= s <= room / 2)
        over = rest - (len(halves) * room - sum(halves))
        best = max(best, alone + len(halves) + max(0, math.ceil(over / room - 1e-9)))
    return best
