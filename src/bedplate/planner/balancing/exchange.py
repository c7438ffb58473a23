"""Two machines that change places, where no single move helps any more.

Half-way, one server carries both: that too must keep every hard limit, so one of the two orders has to fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bedplate.planner.balancing.problem import Step

if TYPE_CHECKING:
    from bedplate.planner.balancing.search import Search

LOOK_AT = 4
"""Servers looked at in full for one exchange."""
TRIES = 16
"""Exchanges of one server that are tried against all limits before it is left."""


class Exchanges:
    """Looks for exchanges on behalf of a search."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._found_nothing = np.zeros(len(search.placement.servers), dtype=np.bool_)

    def moved(self, step: Step) -> None:
        """Those two servers are worth another look."""
        self._found_nothing[[step.source, step.target]] = False

    def forget(self) -> None:
        """All servers are."""
        self._found_nothing[:] = False

    def best(self) -> tuple[Step, Step] | None:
        """Two steps that together gain the most of what was looked at, in an order that keeps the limits."""
        order = self._search.order()
        order = order[~self._found_nothing[order]]
        others = np.flatnonzero(self._search.may_move)
        for start in range(0, len(order), LOOK_AT):
            best: tuple[Step, Step] | None = None
            for server in order[start : start + LOOK_AT]:
                pair = self._best_of(int(server), others)
                if pair is None:
                    self._found_nothing[server] = True
                elif best is None or _gain(pair) > _gain(best):
                    best = pair
            if best is not None:
                return best
        return None

    def _best_of(self, source: int, others: NDArray[np.int64]) -> tuple[Step, Step] | None:
        search, placement = self._search, self._search.placement
        machines = search.movable(source)
        where = np.array(placement.where, dtype=np.int64)[others]
        if not machines or not placement.takes[source]:
            return None
        demand = search.score.demand[machines][:, None, :] - search.score.demand[others][None, :, :]
        gains = search.score.gains(source, demand, where)
        gains[~self._room(source, machines, others, where)] = -np.inf
        gains[gains <= 0.0] = -np.inf
        for _ in range(TRIES):
            row, column = divmod(int(gains.argmax()), gains.shape[1])
            if gains[row, column] == -np.inf:
                return None
            pair = self._kept(machines[row], int(others[column]), float(gains[row, column]))
            if pair is not None:
                return pair
            gains[row, column] = -np.inf
        return None

    def _room(
        self, source: int, machines: list[int], others: NDArray[np.int64], where: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """By machine and other: both servers hold what they get, and one of them holds both for a while."""
        p = self._search.placement
        room = p.eligible(machines)[:, where] & p.eligible_at(source, others) & (where != source)
        for need, free in ((p.memory, p.memory_free), (p.vcpus, p.vcpus_free)):
            more = need[machines][:, None] - need[others][None, :]
            room &= (free[source] + more >= 0) & (free[where][None, :] - more >= 0)
            room &= (free[where][None, :] >= need[machines][:, None]) | (free[source] >= need[others][None, :])
        return room

    def _kept(self, machine: int, other: int, gain: float) -> tuple[Step, Step] | None:
        """The two steps in an order in which every limit holds after each; None where there is none."""
        placement = self._search.placement
        source, target = placement.where[machine], placement.where[other]
        if not self._search.worth.exchange(gain, source, target, (machine, other)):
            return None
        alone = float(
            self._search.score.gains(source, self._search.score.demand[[machine]][:, None, :], _one(target))[0, 0]
        )
        there, back = Step(machine, source, target, alone), Step(other, target, source, gain - alone)
        for first, second in ((there, back), (back, there)):
            if self._fits(first, second):
                return first, second
        return None

    def _fits(self, first: Step, second: Step) -> bool:
        search = self._search
        if not search.may(first.machine, first.target):
            return False
        search.shift(first.machine, first.target)
        fits = search.may(second.machine, second.target)
        search.shift(first.machine, first.source)
        return fits


def _one(server: int) -> NDArray[np.int64]:
    return np.array([server], dtype=np.int64)


def _gain(pair: tuple[Step, Step]) -> float:
    return pair[0].gain + pair[1].gain
