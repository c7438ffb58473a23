"""The line to one BMC for the event loop: one request at a time, each bounded, none able to hold up another BMC.

A request that does not end in time is cut off; until its thread is back, the line stays taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.quirks import STRAY_401_SECONDS
from bedplate.drivers.redfish.session import Json, Session
from bedplate.drivers.redfish.states import Power, power_of
from bedplate.drivers.redfish.wire import Limits

T = TypeVar("T")

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]

APART_SECONDS = 1.0
"""Two readings of `off` that begin closer together are one: whoever lies for a moment lies to both."""
STREAK_SECONDS = 30.0
"""Readings further apart do not confirm each other."""
FRESH_ORDER_SECONDS = 120.0
"""After an order to power on, `off` may only mean that it has not begun: for so long it is not taken for `off`."""


class Line:
    """The line to one BMC, and what was read over it last."""

    def __init__(self, session: Session, limits: Limits, clock: Clock, sleep: Sleep) -> None:
        self.clock = clock
        self.sleep = sleep
        self.fences = 0
        """Fences in progress: while there is one, nobody powers on."""
        self.fences_begun = 0
        self.in_use = False
        """A person's order is in progress."""
        self._session = session
        self._limits = limits
        self._taken = asyncio.Lock()
        self._system: Json = {}
        self._off_from: float | None = None
        """When the first of an unbroken row of readings of `off` began."""
        self._off_to = 0.0
        """When the last of them began."""
        self._read_at = float("-inf")
        self._ordered_on = float("-inf")
        self._raw = ""

    # --- power ---

    @property
    def off_is_sure(self) -> bool:
        """True where `off` was read twice in a row, by requests of their own that began `APART_SECONDS` apart."""
        return self._off_from is not None and self._off_to - self._off_from >= APART_SECONDS

    @property
    def turning_on(self) -> bool:
        """True where this controller has just ordered it on: `off` then says nothing."""
        return self._ordered_on + FRESH_ORDER_SECONDS > self.clock()

    def read_since(self, moment: float) -> Power | None:
        """What was read last, where that was after the moment."""
        return power_of(self._system)[0] if self._read_at >= moment else None

    @property
    def raw(self) -> str:
        """The power state in the BMC's own word, as read last."""
        return self._raw

    @property
    def system_now(self) -> Json:
        """The system's resource as read last."""
        return self._system

    async def system(self, pool: ThreadPoolExecutor, seconds: float) -> Json:
        """Read the system anew. Raises `BmcError`."""

        def read() -> tuple[float, Json]:
            return self.clock(), self._session.system()

        try:
            began, found = await self.ask(pool, read, seconds)
        except BmcError:
            self._off_from = None
            raise
        power, raw = power_of(found)
        if power != "off":
            self._off_from = None
        elif self._off_from is None or began - self._off_to > STREAK_SECONDS:
            self._off_from = began
        self._off_to = began
        self._system, self._read_at, self._raw = found, self.clock(), raw
        return found

    async def get(self, pool: ThreadPoolExecutor, path: str, seconds: float) -> Json:
        """Read another resource. Raises `BmcError`."""
        return await self.ask(pool, lambda: self._session.get(path), seconds)

    async def patch(self, pool: ThreadPoolExecutor, path: str, body: Json, seconds: float) -> None:
        """Change a resource. Raises `BmcError`."""
        await self.ask(pool, lambda: self._session.patch(path, body), seconds)

    async def post(self, pool: ThreadPoolExecutor, path: str, body: Json, seconds: float) -> None:
        """Order an action that is not one of power. Raises `BmcError`."""
        await self.ask(pool, lambda: self._session.post(path, body), seconds)

    async def order(self, pool: ThreadPoolExecutor, choices: tuple[str, ...], seconds: float, *, on: bool) -> str:
        """Order a change of power; gives what was ordered. Raises `BmcError`."""
        self._off_from = None
        system = self._system
        if on:
            self._ordered_on = self.clock()
        said = await self.ask(pool, lambda: self._session.order(system, choices), seconds)
        self._off_from = None
        if not on:  # taken: what was ordered before it is over
            self._ordered_on = float("-inf")
        return said

    # --- requests ---

    async def ask(self, pool: ThreadPoolExecutor, request: Callable[[], T], seconds: float) -> T:
        """Make a request; where the BMC refuses the credentials for the first time, once more. Raises `BmcError`."""
        try:
            return await self._call(pool, request, seconds)
        except BmcError as error:
            if error.kind != "credentials" or not error.sent or self._session.refusals != 1:
                raise
        await self.sleep(STRAY_401_SECONDS)
        return await self._call(pool, request, seconds)

    async def close(self, pool: ThreadPoolExecutor) -> None:
        """Log out. Bounded, and never raises."""
        with contextlib.suppress(BmcError):
            await self._call(pool, self._session.close, self._limits.answer)

    async def _call(self, pool: ThreadPoolExecutor, request: Callable[[], T], seconds: float) -> T:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._taken.acquire()
        except TimeoutError:
            raise BmcError("unreachable", "it did not answer an earlier request in time", sent=False) from None
        self._session.begin()
        try:
            work = pool.submit(request)
        except RuntimeError:  # the driver has ended
            self._taken.release()
            raise BmcError("unreachable", "this controller is ending", sent=False) from None
        work.add_done_callback(lambda _: self._give_back(loop))
        done = asyncio.wrap_future(work)
        try:
            # Login and request are a few answers at most; a deadline that comes earlier wins.
            async with asyncio.timeout(max(0.0, end - loop.time())):
                return await asyncio.shield(done)
        except TimeoutError:
            self._abandon(work, done)
            raise BmcError("unreachable", "it did not answer in time") from None
        except asyncio.CancelledError:
            self._abandon(work, done)
            raise

    def _abandon(self, work: Future[T], done: asyncio.Future[T]) -> None:
        if not work.cancel():
            self._session.cut()
        done.add_done_callback(_look_away)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waits
            loop.call_soon_threadsafe(self._taken.release)


def _look_away(done: asyncio.Future[T]) -> None:
    if not done.cancelled():
        done.exception()
