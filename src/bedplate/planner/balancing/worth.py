"""Which moves are worth it: gain beyond the noise, beyond a share of what could be gained, and beyond the cost.

Each gate has its own word (`Stays`), so that "nothing is moved" can be explained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bedplate.planner.balancing.cost import MigrationCost, converges, migration
from bedplate.planner.balancing.problem import BalanceMachine, Stays, Terms
from bedplate.planner.balancing.score import Floats, Unevenness

Bools = NDArray[np.bool_]

NOISE = 2.0
"""Standard deviations by which two servers must differ: less is seen once in twenty looks at equal ones."""
LEAST_DIFFERENCE = 0.1
"""Utilisation by which they must differ at least: agents tell when a load changed by a tenth of the server."""
SHOULD = 1.0
"""Cores that keeping to one more `should` is worth: more than evening out two servers that differ by a tenth, less than
relieving one that is full."""


def stays(m: BalanceMachine, terms: Terms) -> Stays | None:
    """Why that machine is not moved, whatever the gain; None where it may be."""
    if m.pinned:
        return Stays.PINNED
    if not m.live:
        return Stays.NOT_LIVE
    if terms.now - m.moved < terms.move_window:
        return Stays.RECENT
    if not converges(m.dirty_mib_s, terms.bandwidth_mib_s):
        return Stays.NOT_CONVERGING
    return None


class Worth:
    """The gates, for the machines of one plan."""

    def __init__(self, machines: Sequence[BalanceMachine], score: Unevenness, terms: Terms) -> None:
        self._score, self._terms = score, terms
        self.costs: list[MigrationCost] = [
            migration(m.memory_mib, m.demand.cpu, m.dirty_mib_s, terms.bandwidth_mib_s) for m in machines
        ]
        self._work = np.array([c.core_seconds for c in self.costs], dtype=np.float64)

    def quiet(self, source: int) -> Stays | None:
        """Why no load moves away from that server; None where it may."""
        if (self._score.use[source] - self._score.use.min(axis=0) > LEAST_DIFFERENCE).any() and self.differs(
            source
        ).any():
            return None
        return Stays.NOISE if (self._score.use[source] > self._score.mean).any() else Stays.WELL_PLACED

    def differs(self, source: int) -> Bools:
        """By server: it is less used than the source in some resource, beyond the noise."""
        gap = self._score.use[source] - self._score.use
        noise = NOISE * np.sqrt(self._score.spread[source] + self._score.spread)
        return (gap > np.maximum(noise, LEAST_DIFFERENCE)).any(axis=1)

    def gates(self, source: int, machines: Sequence[int], gains: Floats, relief: Floats) -> list[tuple[Stays, Bools]]:
        """By machine and server, each gate's word and who passes it. `gains` in cores, `relief` of them from rules."""
        better = gains > 0.0
        mends = relief > 0.0
        differs = self.differs(source) | mends
        enough = gains >= self._terms.min_gain_percent / 100.0 * self._score.levelled(source)
        pays = gains * self._terms.horizon > self._work[machines][:, None]
        return [
            (Stays.WELL_PLACED, better),
            (Stays.NOISE, differs),
            (Stays.SMALL_GAIN, enough | mends),
            (Stays.COST, pays),
        ]

    def exchange(self, gain: float, source: int, target: int, machines: tuple[int, int]) -> bool:
        """The same gates for two machines that change places: both migrations are to be paid for."""
        if not self.differs(source)[target]:
            return False
        if gain < self._terms.min_gain_percent / 100.0 * self._score.levelled(source)[target]:
            return False
        return gain * self._terms.horizon > float(self._work[list(machines)].sum())
