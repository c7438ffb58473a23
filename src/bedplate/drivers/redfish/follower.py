"""Follows one BMC: looks about once a minute and tells what changed. Steps come before it; it decides nothing.

One bad answer is not believed: what changed is told once a second look says the same, and a BMC counts as unreachable
after three looks in vain.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from bedplate.drivers.redfish.description import DescriptionReader
from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.health import HealthReader, Json
from bedplate.drivers.redfish.line import Line
from bedplate.drivers.redfish.states import power_of
from bedplate.drivers.redfish.wire import Limits
from bedplate.model.ids import ServerName
from bedplate.model.inventory import BmcView, Observation
from bedplate.ports import Sink

log = structlog.get_logger()

INTERVAL_SECONDS = 60.0
RETRY_SECONDS = 20.0
"""After a look in vain, so that silence is known after about a minute."""
AGAIN_SECONDS = 2.0
"""From a look that differs to the one that confirms it."""
SPREAD_SECONDS = 10.0
"""First looks are spread over so long."""
LOOK_SECONDS = 90.0
"""For one look in all; parts that were not reached by then keep what was said of them before."""
MISSES = 3
DEEP_EVERY = 10
DISAGREEMENTS = 3
"""Looks in a row that contradict each other before that itself is told."""


class Follower:
    """Follows until cancelled."""

    def __init__(
        self,
        server: ServerName,
        line: Line,
        pool: ThreadPoolExecutor,
        turns: asyncio.Semaphore,
        limits: Limits,
        sink: Sink,
    ) -> None:
        self._server = server
        self._line = line
        self._pool = pool
        self._turns = turns
        self._limits = limits
        self._sink = sink
        self._health = HealthReader()
        self._description = DescriptionReader()
        self._told: BmcView | None = None
        self._looks = 0
        self._misses = 0
        self._disagreements = 0
        self._share = zlib.crc32(server.encode()) / 2**32

    @property
    def told(self) -> BmcView | None:
        """What was told last, by whomever."""
        return self._told

    async def run(self) -> None:
        """Follow for ever; trouble is told, not raised."""
        await self._line.sleep(self._share * SPREAD_SECONDS)
        while True:
            try:
                async with self._turns:
                    pause = await self._turn()
            except Exception:
                log.exception("following a BMC failed", server=self._server)
                pause = INTERVAL_SECONDS
            await self._line.sleep(pause * (0.9 + 0.2 * self._share))

    def note(self, view: BmcView) -> None:
        """A step has told this view: what differs from it is a change."""
        self._told = view
        self._misses = 0 if view.reachable else self._misses

    def tell(self, view: BmcView) -> None:
        """Deliver a view, if it differs from what was told last."""
        if view == self._told:
            return
        if self._told is not None and view.reachable != self._told.reachable:
            log.info("a BMC's reach changed", server=self._server, reachable=view.reachable, error=view.error)
        self._told = view
        now = self._line.clock()
        source = f"bmc/{self._server}"
        self._sink(source, [Observation(value=view, time=now, source=source)], full=True)

    # --- looking ---

    async def _turn(self) -> float:
        """Look, tell; gives the seconds until the next turn."""
        try:
            view = await self._sure()
        except BmcError as error:
            return self._missed(error)
        self._misses = 0
        if view is not None:
            self.tell(view)
        return INTERVAL_SECONDS

    async def _sure(self) -> BmcView | None:
        """What is told to be; None while two looks contradict each other. Raises `BmcError`."""
        before = self._told
        view = await self._look(deep=self._looks % DEEP_EVERY == 0)
        self._looks += 1
        if view == self._told or (self._told is None and view.power != "off"):
            self._disagreements = 0
            return view
        await self._line.sleep(AGAIN_SECONDS)
        again = await self._look(deep=False)
        if again == view or again == self._told:
            self._disagreements = 0
            return again
        if self._told is not before:  # a step has acted meanwhile
            return None
        self._disagreements += 1
        if self._disagreements < DISAGREEMENTS:
            return None
        said = f"its answers contradict each other: power {view.power}, then {again.power}"
        return msgspec.structs.replace(again, power="unknown", error=said)

    async def _look(self, *, deep: bool) -> BmcView:
        end = self._line.clock() + LOOK_SECONDS
        system = await self._line.system(self._pool, 3 * self._limits.answer)

        async def get(path: str) -> Json:
            left = end - self._line.clock()
            if left <= 0:
                raise BmcError("unreachable", "it did not answer in time", sent=False)
            return await self._line.get(self._pool, path, min(left, self._limits.answer))

        health, problems = await self._health.read(system, get, deep=deep)
        power, raw = power_of(system)
        if power == "off" and self._line.turning_on:
            power = "unknown"
        error = (
            f'its power state "{raw}" is none that Redfish knows'
            if power == "unknown" and raw not in {"", "Off"}
            else ""
        )
        return BmcView(
            server=self._server,
            reachable=True,
            power=power,
            health=health,
            problems=problems,
            described=await self._description.read(system, get, deep=deep),
            error=error,
        )

    def _missed(self, error: BmcError) -> float:
        self._misses += 1
        settled = error.kind in {"settings", "credentials"} and self._misses > 1  # it says itself what is wrong
        if self._misses >= MISSES or settled:
            last = self._told or BmcView(server=self._server, reachable=False)
            self.tell(msgspec.structs.replace(last, reachable=False, power="unknown", error=error.message))
            return max(INTERVAL_SECONDS, error.retry_after)
        return max(RETRY_SECONDS, error.retry_after)
