"""Calls to one disk pool's storage, which may hang for ever: each has its own thread and is waited for only so long.

A pool that hangs must hold up neither the event loop nor another pool. A hung thread can't be ended; so as soon as a
few hang, further calls fail at once until the storage answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

POOL_SECONDS = 15.0
"""For small reads and writes. Storage that takes longer has stalled its guests' disks too."""
GLANCE_SECONDS = 2.0
"""For what is only looked at: a report must not wait for a pool."""
MOST_HUNG = 8
"""Threads that may hang on one pool at a time."""


class StorageHung(OSError):
    """A pool's storage does not answer. `begun`: the call may still have its effect."""

    def __init__(self, pool: str, *, begun: bool) -> None:
        super().__init__(f"the storage of disk pool {pool} does not answer")
        self.begun = begun


class PoolIo:
    """The threads of one pool."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._hung: set[int] = set()

    @property
    def hung(self) -> bool:
        """True while a call is given up and has not ended yet."""
        return bool(self._hung)

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short piece of work. Raises `StorageHung` where the storage does not answer in time, and what the work
        raises."""
        return await self._run(work, POOL_SECONDS, args, kwargs)

    async def glance(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`, for what only looks: soon given up, and not tried at all while something hangs."""
        if self._hung:
            raise StorageHung(self._name, begun=False)
        return await self._run(work, GLANCE_SECONDS, args, kwargs)

    async def transfer(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work that may take long; the caller bounds it."""
        return await self._run(work, None, args, kwargs)

    async def _run(self, work: Callable[..., T], limit: float | None, args: Any, kwargs: Any) -> T:
        if len(self._hung) >= MOST_HUNG:
            raise StorageHung(self._name, begun=False)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            self._hung.discard(id(future))
            if future.done():
                return  # nobody waits any more
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        def run() -> None:
            value, error = None, None
            try:
                value = work(*args, **kwargs)
            except BaseException as failed:
                error = failed
            with contextlib.suppress(RuntimeError):  # the agent has ended
                loop.call_soon_threadsafe(settle, value, error)

        threading.Thread(target=run, name=f"pool-{self._name}", daemon=True).start()
        try:
            done, _ = await asyncio.wait({future}, timeout=limit)
        except asyncio.CancelledError:
            self._hung.add(id(future))  # until it says otherwise
            raise
        if not done:
            future.cancel()
            self._hung.add(id(future))
            raise StorageHung(self._name, begun=True)
        return future.result()
