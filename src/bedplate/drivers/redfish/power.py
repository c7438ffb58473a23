"""Power on, off and read, each judged by what is read back. The reply to an order counts for nothing.

`off` is off only when read twice in a row, by requests of their own at least a second apart: BMCs lie for a moment.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from bedplate.drivers.redfish import quirks
from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.line import APART_SECONDS, Line
from bedplate.drivers.redfish.states import Power, power_of
from bedplate.drivers.redfish.wire import Limits

POLL_SECONDS = 1.0
"""Between two readings: a BMC needs some tenths of a second for one, and a power-off a second or two."""
ORDER_AGAIN_SECONDS = 10.0
"""An order that shows nothing is given again: busy BMCs drop it, and to cut the power twice does no harm."""
RECENT_SECONDS = 10.0
"""A server that was read as on so lately is not read again before it is ordered off: a slow BMC takes 5 s for it."""
READ_SECONDS = 40.0
"""For one `read` in all: whoever weighs a suspect server wants to know soon that its BMC is silent."""
REST_SECONDS = 5.0
"""Between off and on of a cycle, so that capacitors are empty and devices really start anew."""
PATIENCE_SECONDS = 15.0
"""No longer than this is waited for a BMC that asks to come back later, while a server is to be off."""
ONCE = "it said once that the power is off, and could not be asked again"
_READ_TRIES = 3
_AGAIN_SECONDS = APART_SECONDS + 0.1
"""From one reading of `off` to the next, with room for a thread to begin."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What came of reading or ordering."""

    power: Power
    answered: bool
    """False: no answer in the end; `error` says why."""
    error: str = ""
    ordered: bool = False
    """An order may have reached the BMC."""
    after_order: bool = False
    """`power` was read after an order."""
    raw: str = ""
    """The BMC's own word for its power state."""
    reply: str = ""
    """How the BMC replied to the order; for people only."""
    settings: bool = False
    """It can't be spoken to as it was declared; asking again does not help."""


class PowerControl:
    """Acts on one server's power."""

    def __init__(self, line: Line, pool: ThreadPoolExecutor, limits: Limits) -> None:
        self._line = line
        self._pool = pool
        self._limits = limits

    async def read(self, until: float) -> Reading:
        """Read the power state; a few tries, as one request in ten may be lost. Takes `READ_SECONDS` at most.

        `until` is on the line's clock.
        """
        line = self._line
        until = min(until, line.clock() + READ_SECONDS)
        left, error = _READ_TRIES, "there was no time left to ask"
        while left > 0 and line.clock() < until:
            asked = line.clock()
            try:
                power = await self._power(until)
            except BmcError as fault:
                error = fault.message
                if fault.kind == "settings":
                    return Reading(power="unknown", answered=False, error=error, settings=True)
                left -= {"unreachable": 2, "busy": 0}.get(fault.kind, 1)
                if line.clock() + fault.retry_after > until:
                    break
                if left > 0:
                    await self._wait(max(POLL_SECONDS, fault.retry_after), until)
                continue
            if power == "off" and not line.off_is_sure:
                error = ONCE
                await self._wait(asked + _AGAIN_SECONDS - line.clock(), until)
                continue
            if power == "off" and line.turning_on:
                said = "it says off, but was just ordered to power on"
                return Reading(power="unknown", answered=True, error=said, raw=line.raw)
            said = "" if power != "unknown" else self._unknown()
            return Reading(power=power, answered=True, error=said, raw=line.raw)
        return Reading(power="unknown", answered=False, error=error)

    async def off(self, until: float) -> Reading:
        """Cut the power and read back until it is surely off, or `until`. What is off already is off."""
        line = self._line
        line.fences += 1
        line.fences_begun += 1
        try:
            return await _Change(self, "off", until).run()
        finally:
            line.fences -= 1

    async def on(self, until: float) -> Reading:
        """Power on and read back until it is on, or `until`. Gives up where the server is being fenced."""
        return await _Change(self, "on", until).run()

    async def rest(self, until: float) -> None:
        """Wait between off and on."""
        await self._wait(REST_SECONDS, until)

    # --- for `_Change` ---

    @property
    def line(self) -> Line:
        """The line to the BMC."""
        return self._line

    async def order(self, to: Literal["on", "off"], until: float) -> str:
        """Give the order; tells how it was replied to. Raises `BmcError`."""
        choices = quirks.ON if to == "on" else quirks.OFF
        said = await self._line.order(self._pool, choices, self._seconds(until), on=to == "on")
        return f"{said} was taken"

    async def power(self, until: float) -> Power:
        """Read once. Raises `BmcError`."""
        return await self._power(until)

    async def wait(self, seconds: float, until: float) -> None:
        """Wait, but not past `until`."""
        await self._wait(seconds, until)

    async def _power(self, until: float) -> Power:
        return power_of(await self._line.system(self._pool, self._seconds(until)))[0]

    def _seconds(self, until: float) -> float:
        return min(until - self._line.clock(), 3 * self._limits.answer)  # a login may come first

    async def _wait(self, seconds: float, until: float) -> None:
        await self._line.sleep(max(0.0, min(seconds, until - self._line.clock())))

    def _unknown(self) -> str:
        raw = self._line.raw
        return f'its power state "{raw}" is none that Redfish knows' if raw else "it does not tell its power state"


class _Change:
    """One change of power, from the first look to the end."""

    def __init__(self, control: PowerControl, to: Literal["on", "off"], until: float) -> None:
        self._control = control
        self._line = control.line
        self._to: Literal["on", "off"] = to
        self._until = until
        self._fences = self._line.fences_begun
        self._ordered = False
        self._order_at = float("-inf")
        """When the next order is due."""
        self._reply = ""
        self._last: Power | None = None
        self._read_after_order = False
        self._error = "there was no time left to ask"

    async def run(self) -> Reading:
        line, control = self._line, self._control
        known = line.read_since(line.clock() - RECENT_SECONDS)
        look = not (self._to == "off" and (known == "on" or line.turning_on))
        while (asked := line.clock()) < self._until:
            pause = POLL_SECONDS
            if look:
                try:
                    self._last = await control.power(self._until)
                    self._read_after_order = self._read_after_order or self._ordered
                    self._error = ""
                except BmcError as fault:
                    self._error = fault.message
                    pause = max(pause, min(fault.retry_after, PATIENCE_SECONDS))
                    if fault.kind == "settings":
                        return self._reading(answered=False, settings=True)
                    self._last = None
                if self._reached():
                    return self._reading(answered=True)
            look = True
            open_ = self._last != self._to or (self._to == "off" and line.turning_on)
            if open_ and line.clock() >= self._order_at:
                if self._to == "on" and (line.fences or line.fences_begun != self._fences):
                    self._error = "it was fenced meanwhile; power it on once it is confirmed to be down"
                    return self._reading(answered=self._last is not None)
                pause = max(pause, await self._give_order())
            once = self._last == self._to == "off" and not line.off_is_sure
            await control.wait(asked + _AGAIN_SECONDS - line.clock() if once else pause, self._until)
        return self._reading(answered=self._last is not None)

    def _reached(self) -> bool:
        if self._last != self._to:
            return False
        if self._to == "on":
            return self._line.raw == "On"
        return self._line.off_is_sure and not self._line.turning_on

    async def _give_order(self) -> float:
        """Order; gives the seconds that the BMC asks to be left alone."""
        self._order_at = self._line.clock() + ORDER_AGAIN_SECONDS
        try:
            self._reply = await self._control.order(self._to, self._until)
            self._ordered = True
        except BmcError as fault:
            self._reply = fault.message
            self._ordered = self._ordered or fault.sent
            wait = min(fault.retry_after, PATIENCE_SECONDS)
            if fault.kind == "busy":
                self._order_at = self._line.clock() + wait
            return wait
        return 0.0

    def _reading(self, *, answered: bool, settings: bool = False) -> Reading:
        sure = self._last != "off" or (self._line.off_is_sure and not self._line.turning_on)
        return Reading(
            power=(self._last or "unknown") if sure else "unknown",
            answered=answered,
            error=self._error or ("" if sure else ONCE),
            ordered=self._ordered,
            after_order=self._read_after_order,
            raw=self._line.raw,
            reply=self._reply,
            settings=settings,
        )
