"""The place of leases and the watchdog: one lease per shared disk pool, a watchdog that is fed while they are held.

Not built yet; it comes with recovery. The interface is fixed now because starting a guest on a shared pool will ask it:
a guest may only start, and run on, while its pool's lease is held, and the watchdog ends the server before a lease
that can't be renewed runs out.
"""

from __future__ import annotations

from typing import Protocol


class PoolLease(Protocol):
    """A lease on one shared disk pool."""

    def held_for(self) -> float:
        """Seconds for which the lease is surely still held; 0 or less: no guest may start."""
        ...

    async def renew(self) -> None:
        """Renew once. Raises `OSError` where the pool can't be written."""
        ...


class Watchdog(Protocol):
    """A device that resets the server unless it is fed."""

    @property
    def seconds(self) -> float:
        """Time from the last feeding to the reset."""
        ...

    def feed(self) -> None:
        """Put the reset off. Only while every lease is held for longer than `seconds`."""
        ...
