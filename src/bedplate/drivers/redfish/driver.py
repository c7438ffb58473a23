"""`ports.Bmc` over Redfish: runs steps on BMCs, follows them, and carries out people's power orders. Decides nothing.

Steps and looks have threads of their own, so that no hung BMC keeps a step from its turn; the line to each BMC takes
one request at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from bedplate.drivers.redfish.booting import Booting
from bedplate.drivers.redfish.credentials import SecretData
from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.follower import Follower
from bedplate.drivers.redfish.line import Clock, Line, Sleep
from bedplate.drivers.redfish.power import PowerControl, Reading
from bedplate.drivers.redfish.session import Session
from bedplate.drivers.redfish.states import Power
from bedplate.drivers.redfish.wire import Limits
from bedplate.model.blueprint import BmcRef, MetalEntry
from bedplate.model.ids import ServerName
from bedplate.model.inventory import BmcView, Observation
from bedplate.model.steps import (
    BmcStep,
    BootDisk,
    BootMedia,
    Done,
    Failed,
    PowerOff,
    PowerOn,
    ReadPower,
    StepResult,
    Ticket,
    Unknown,
)
from bedplate.ports import Netboot, NotOffered, Sink

log = logging.getLogger("bedplate.redfish")

PowerAction = Literal["on", "off", "cycle"]

LOOKS_AT_ONCE = 32
STEP_THREADS = 64
"""More BMCs are never asked at once by steps; a rack's worth that hangs leaves room for another's."""
PERSON_SECONDS = 120.0
"""For a person's order in all."""
_MARGIN = 1.0
"""Seconds before a ticket's deadline at which a step ends by itself."""


class PowerError(Exception):
    """A person's power order did not come to what was asked; the message says what was read back and what helps."""


class RedfishDriver:
    """`ports.Bmc`."""

    def __init__(
        self,
        secrets: SecretData,
        sink: Sink,
        *,
        netboot: Netboot | None = None,
        limits: Limits | None = None,
        clock: Clock = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Make a driver that follows nothing yet.

        Args:
            secrets: Where users' Secrets are read, in a thread.
            sink: Takes what is seen.
            netboot: Offers the medium that bare servers boot; None: they are not booted.
            limits: Seconds that a BMC may take for a request.
            clock: Seconds since the epoch.
            sleep: Waits for seconds on that clock.
        """
        # It repeats what BMCs answer, as errors, with each request.
        logging.getLogger("sushy").setLevel(logging.CRITICAL)
        self._secrets = secrets
        self._sink = sink
        self._netboot = netboot
        self._limits = limits or Limits()
        self._clock = clock
        self._sleep = sleep
        self._steps = ThreadPoolExecutor(STEP_THREADS, thread_name_prefix="bmc-step")
        self._looks = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="bmc-look")
        self._turns = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._lines: dict[tuple[ServerName, BmcRef], Line] = {}
        self._followed: dict[ServerName, tuple[BmcRef, Follower, asyncio.Task[None]]] = {}
        self._unusable: dict[ServerName, BmcRef] = {}
        self._closing: set[asyncio.Task[None]] = set()

    # --- steps ------------------------------------------------------------------------------------------------

    async def run(self, step: BmcStep, ticket: Ticket) -> StepResult:
        """Run a step. Never raises for a fault of the world, and never says Done of what it learnt too late."""
        end = self._clock() + ticket.deadline
        entry = step.entry
        if entry.bmc is None:
            return self._without_bmc(step)
        try:
            control = self._control(entry.server, entry.bmc)
        except BmcError as error:
            if isinstance(step, ReadPower):
                return self._told(
                    self._view(entry.server, Reading(power="unknown", answered=False, error=error.message))
                )
            return Failed(reason="BmcSettings", message=f"{entry.server}: {error.message}")
        match step:
            case ReadPower():
                reading = await control.read(end - _MARGIN)
                if self._clock() > end:
                    reading = Reading(power="unknown", answered=False, error="its answer came too late")
                return self._told(self._view(entry.server, reading))
            case PowerOff():
                result = self._changed(entry.server, "off", await control.off(end - _MARGIN), end)
                if isinstance(result, Done) and isinstance(entry, MetalEntry):
                    await self._cleared(entry.server, Booting(control, self._steps, self._limits), end)
                return result
            case PowerOn():
                if busy := self._taken(control):
                    return busy
                return self._changed(entry.server, "on", await control.on(end - _MARGIN), end)
            case BootMedia() | BootDisk():
                return self._taken(control) or await self._boot(step, control, end)

    def _taken(self, control: PowerControl) -> Failed | None:
        """A fence or a person's order goes before what brings a server up."""
        if control.line.fences or control.line.in_use:
            return Failed(reason="PowerBusy", message="another power order is in progress; it is finished first")
        return None

    async def _boot(self, step: BootMedia | BootDisk, control: PowerControl, end: float) -> StepResult:
        server, booting = step.entry.server, Booting(control, self._steps, self._limits)
        try:
            if isinstance(step, BootDisk):
                return self._changed(server, "on", await booting.disk(end - _MARGIN), end)
            if self._netboot is None:
                raise NotOffered("this controller gives out no media")
            url = await self._netboot.offer(step.entry)
            if step.entry.boots_from == "network":
                return self._changed(server, "on", await booting.network(end - _MARGIN), end)
            return self._changed(server, "on", await booting.media(url, end - _MARGIN), end)
        except NotOffered as error:
            return Failed(reason="NoMedium", message=f"{server} can't be booted: {error}")
        except BmcError as error:
            if self._clock() > end:
                return Unknown(message=f"{server}: {error.message}; time is over")
            reason = {"settings": "BmcSettings", "unreachable": "BmcUnreachable"}.get(error.kind, "BootFailed")
            return Failed(reason=reason, message=f"{server}: {error.message}")

    async def _cleared(self, server: ServerName, booting: Booting, end: float) -> None:
        """Nothing is to run on a bare server: what it booted from is taken out and given out no more. Its being off is
        what counts, so it is no fault where that can't be done: the next boot ejects it."""
        if self._netboot is not None:
            await self._netboot.withdraw(server)
        try:
            await booting.clear(end - _MARGIN)
        except BmcError as error:
            log.info("%s is off; its drive was not emptied: %s", server, error.message)

    def _changed(self, server: ServerName, to: Literal["on", "off"], r: Reading, end: float) -> StepResult:
        """What a change of power came to, by what was read back."""
        if self._clock() > end:
            return Unknown(message=f"the BMC of {server} answered too late; its power must be read again")
        if r.answered and r.power == to:
            return self._told(self._view(server, r), f"read back as {to}" + (f" ({r.reply})" if r.reply else ""))
        if r.settings:
            return Failed(reason="BmcSettings", message=f"{server}: {r.error}")
        replied = f"; the order's reply: {r.reply}" if r.reply else ""
        if to == "off" and r.answered and r.after_order and r.power == "on":
            return Failed(reason="PowerStillOn", message=f'{server} is still on: its BMC reads "{r.raw}"{replied}')
        if r.ordered or r.answered:
            why = r.error or r.raw or "no answer"
            return Unknown(message=f"whether {server} is {to} could not be read back: {why}{replied}")
        return Failed(reason="BmcUnreachable", message=f"the BMC of {server} can't be asked: {r.error}{replied}")

    def _without_bmc(self, step: BmcStep) -> StepResult:
        said = f"server {step.entry.server} has no BMC declared; set spec.bmc"
        if isinstance(step, ReadPower):
            return Done(views=(BmcView(server=step.entry.server, reachable=False, error=said),))
        return Failed(reason="NoBmc", message=said, permanent=True)

    def _view(self, server: ServerName, r: Reading) -> BmcView:
        """What a reading says, with the health as it was known before."""
        follower = self._follower(server)
        known = follower.told if follower is not None else None
        base = known or BmcView(server=server, reachable=False)
        power = r.power if r.answered else "unknown"
        return msgspec.structs.replace(base, reachable=r.answered, power=power, error=r.error)

    def _told(self, view: BmcView, message: str = "") -> Done:
        if (follower := self._follower(view.server)) is not None:
            follower.note(view)
        return Done(views=(view,), message=message)

    # --- people -----------------------------------------------------------------------------------------------

    async def power(self, server: ServerName, bmc: BmcRef, action: PowerAction) -> BmcView:
        """Carry out a person's order; gives what was read back.

        Raises:
            PowerError: it was not reached, or another order or a fence is in progress.
        """
        try:
            control = self._control(server, bmc)
        except BmcError as error:
            raise PowerError(f"server {server}: {error.message}") from None
        line = control.line
        if line.fences or line.in_use:
            raise PowerError(f"another power order for server {server} is in progress; wait until it has ended")
        line.in_use = True
        try:
            wanted, reading = await self._ordered(control, action)
        finally:
            line.in_use = False
        view = self._view(server, reading)
        if (follower := self._follower(server)) is not None:
            follower.tell(view)
        if reading.answered and reading.power == wanted:
            return view
        was = f'its BMC reads "{reading.raw}"' if reading.answered and reading.raw else "its power can't be read back"
        why = "; ".join(dict.fromkeys(w for w in (reading.error, reading.reply) if w))
        raise PowerError(
            f"server {server} is not surely {wanted}: {was}{f' ({why})' if why else ''}; try again, or look at its BMC"
        )

    async def read(self, server: ServerName, bmc: BmcRef) -> BmcView:
        """Read the power for a person."""
        try:
            control = self._control(server, bmc)
        except BmcError as error:
            return BmcView(server=server, reachable=False, error=error.message)
        view = self._view(server, await control.read(self._clock() + PERSON_SECONDS))
        if (follower := self._follower(server)) is not None:
            follower.tell(view)
        return view

    async def _ordered(self, control: PowerControl, action: PowerAction) -> tuple[Power, Reading]:
        """Give the last state that was to be reached, and what came of it."""
        until = self._clock() + PERSON_SECONDS
        if action == "on":
            return "on", await control.on(until)
        reading = await control.off(until)
        if action == "off" or not (reading.answered and reading.power == "off"):
            return "off", reading
        await control.rest(until)
        return "on", await control.on(until)

    # --- following --------------------------------------------------------------------------------------------

    def follow(self, servers: Mapping[ServerName, BmcRef]) -> None:
        """Watch exactly these BMCs from now on. Called from the event loop; does not block."""
        for server, (ref, _, task) in list(self._followed.items()):
            if servers.get(server) != ref:
                del self._followed[server]
                task.cancel()
        for server, ref in list(self._lines):
            if servers.get(server) != ref:
                self._drop(server, ref)
        for server, ref in servers.items():
            if server not in self._followed:
                self._begin(server, ref)

    def _begin(self, server: ServerName, ref: BmcRef) -> None:
        try:
            line = self._line(server, ref)
        except BmcError as error:
            if self._unusable.get(server) != ref:
                self._unusable[server] = ref
                view = BmcView(server=server, reachable=False, error=error.message)
                source = f"bmc/{server}"
                self._sink(source, [Observation(value=view, time=self._clock(), source=source)], full=True)
            return
        self._unusable.pop(server, None)
        follower = Follower(server, line, self._looks, self._turns, self._limits, self._sink)
        self._followed[server] = (ref, follower, asyncio.create_task(follower.run()))

    async def stop(self) -> None:
        """Follow nothing, log out everywhere, end."""
        self.follow({})
        for server, ref in list(self._lines):
            self._drop(server, ref, even_in_use=True)
        await asyncio.gather(*self._closing)
        self._steps.shutdown(wait=False, cancel_futures=True)
        self._looks.shutdown(wait=False, cancel_futures=True)

    # --- lines ------------------------------------------------------------------------------------------------

    def _control(self, server: ServerName, ref: BmcRef) -> PowerControl:
        return PowerControl(self._line(server, ref), self._steps, self._limits)

    def _line(self, server: ServerName, ref: BmcRef) -> Line:
        """The line to that BMC. Raises `BmcError`."""
        line = self._lines.get((server, ref))
        if line is None:
            session = Session(ref, self._secrets, self._limits, self._clock)
            line = self._lines[(server, ref)] = Line(session, self._limits, self._clock, self._sleep)
        return line

    def _drop(self, server: ServerName, ref: BmcRef, *, even_in_use: bool = False) -> None:
        line = self._lines[(server, ref)]
        if (line.fences or line.in_use) and not even_in_use:
            return
        del self._lines[(server, ref)]
        task = asyncio.get_running_loop().create_task(line.close(self._looks))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _follower(self, server: ServerName) -> Follower | None:
        followed = self._followed.get(server)
        return None if followed is None else followed[1]
