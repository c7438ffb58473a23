"""How uneven a fleet is, from what machines use and not from what they reserved.

Work on a busier server waits longer; to the first order a unit of work is slowed by its server's utilisation (an M/G/1
queue that shares its processor has a response time of 1 / (1 - u) = 1 + u + ...). The work of the whole fleet is thus
slowed by the sum over servers of C u^2, with C cores and utilisation u. That sum is least where all servers have the
fleet's own utilisation U, and exceeds its least by

    E = sum over servers of C (u - U)^2        [cores]

the cores' worth of work that unevenness alone makes wait: the variance of utilisation, weighted by capacity. Its root,
the standard deviation, is the measure of other balancers too (VMware DRS: Gulati et al., "VMware distributed resource
management", VMware Technical Journal 1, 2012; Ganeti's hbal). Other resources enter in the same unit, as if the fleet's
cores had their utilisation, each with a weight (`WEIGHTS`).

Moving demand d from server a to b changes two terms only, whatever the size of the fleet, by exactly

    gain = d (2 (u_a - u_b) - d (1 / C_a + 1 / C_b))

so that search costs what it looks at. The demand's deviation decides what is noise, in `worth`, and is kept here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bedplate.planner.balancing.problem import RESOURCES, BalanceMachine, BalanceServer

Floats = NDArray[np.float64]

WEIGHTS = {"cpu": 1.0, "memory": 0.25, "disk": 0.5, "network": 0.5}
"""CPU is what guests share by the millisecond. Disk and network wait too, but most work waits on one of them at a time.
Memory is never over-committed: unevenly used it slows nobody, it only leaves less room where it is full."""


class Unevenness:
    """The score of a fleet, kept up while machines move."""

    def __init__(self, servers: Sequence[BalanceServer], machines: Sequence[BalanceMachine], where: list[int]) -> None:
        capacity = np.array([s.capacity.row() for s in servers], dtype=np.float64).reshape(-1, len(RESOURCES))
        load = np.array([s.other.row() for s in servers], dtype=np.float64).reshape(-1, len(RESOURCES))
        variance = np.zeros_like(load)
        self.demand = np.array([m.demand.row() for m in machines], dtype=np.float64).reshape(-1, len(RESOURCES))
        deviation = np.array([m.deviation.row() for m in machines], dtype=np.float64).reshape(-1, len(RESOURCES))
        self._variance = deviation**2
        for machine, server in enumerate(where):
            load[server] += self.demand[machine]
            variance[server] += self._variance[machine]
        measured = capacity > 0.0
        total = capacity.sum(axis=0)
        per = np.divide(1.0, capacity, out=np.zeros_like(capacity), where=measured)
        mean = np.divide((load * measured).sum(axis=0), total, out=np.zeros_like(total), where=total > 0.0)
        weights = np.array([WEIGHTS[r] for r in RESOURCES]) * (total > 0.0)
        cores = total[0] if total[0] > 0.0 else float(len(servers))
        self._scale = np.divide(cores * weights, total, out=np.zeros_like(total), where=total > 0.0)
        self._whole = cores * weights.sum()
        self._capacity = capacity
        self.mean = mean
        """By resource: utilisation of the whole fleet."""
        self.per = per
        """By server and resource: 1 / capacity; 0 where it was not measured."""
        self.use = np.where(measured, load * per, mean)
        """By server and resource: utilisation; the fleet's own where it was not measured, which adds nothing."""
        self.spread = variance * per**2
        """By server and resource: variance of the utilisation."""

    def waiting(self) -> float:
        """E: cores' worth of work that waits because of unevenness."""
        return float((self._scale * self._capacity * (self.use - self.mean) ** 2).sum())

    def unevenness(self) -> float:
        """Weighted standard deviation of utilisation, in parts of one."""
        return float((self.waiting() / self._whole) ** 0.5) if self._whole > 0.0 else 0.0

    def gains(self, source: int, demand: Floats, targets: NDArray[np.int64]) -> Floats:
        """Cores gained by moving demand from the source, `demand[machine, target, resource]` or broadcast to it."""
        gap = 2.0 * (self.use[source] - self.use[targets])
        back = self.per[source] + self.per[targets]
        gains = np.zeros(np.broadcast_shapes(demand.shape[:2], (1, len(targets))))
        for r in np.flatnonzero(self._scale):
            d = demand[:, :, r]
            gains += self._scale[r] * d * (gap[:, r] - d * back[:, r])
        return gains

    def potential(self, largest: Floats, takes: NDArray[np.bool_]) -> Floats:
        """By server: no one move away from it gains more. `largest`: by server, the most that a machine there uses."""
        if not takes.any():
            return np.zeros(len(self.use))
        above = np.maximum(self.use - self.use[takes].min(axis=0), 0.0)
        return (2.0 * self._scale * largest * above).sum(axis=1)

    def levelled(self, source: int) -> Floats:
        """By server: cores that would be gained by evening out the source and that server fully."""
        gap = self.use[source] - self.use
        back = self.per[source] + self.per
        per_resource = np.divide(self._scale * gap**2, back, out=np.zeros_like(gap), where=back > 0.0)
        return per_resource.sum(axis=1)

    def move(self, machine: int, source: int, target: int) -> None:
        """The machine's demand goes from one server to another."""
        for server, sign in ((source, -1.0), (target, 1.0)):
            self.use[server] += sign * self.demand[machine] * self.per[server]
            left = self.spread[server] + sign * self._variance[machine] * self.per[server] ** 2
            self.spread[server] = np.maximum(left, 0.0)  # what is left of nothing by rounding has no root
