"""What a server boots next: a medium inserted and booted once, or its disk; then the power off and on again.

Each request may be lost, and each is one that can be made again; what counts is what is read back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from bedplate.drivers.redfish import quirks
from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.line import Line
from bedplate.drivers.redfish.power import POLL_SECONDS, PowerControl, Reading
from bedplate.drivers.redfish.session import Json
from bedplate.drivers.redfish.wire import Limits

T = TypeVar("T")
Target = Literal["Cd", "Pxe", "Hdd"]

TRIES = 5
"""Of a request that fails, one in ten being lost: five in a row are lost once in a hundred thousand times."""
CD = frozenset({"CD", "DVD"})
INSERT_SECONDS = 120.0
"""For a BMC to have a medium inserted; some fetch all of it first."""
EJECT_SECONDS = 20.0
"""For emptying the drive of a server that is off: what waits for its power is told of it only then."""


class NoDrive(BmcError):
    """It has no drive that virtual media could go into."""


class Booting:
    """Has one server boot something else. All methods raise `BmcError`."""

    def __init__(self, control: PowerControl, pool: ThreadPoolExecutor, limits: Limits) -> None:
        self._control = control
        self._line: Line = control.line
        self._pool = pool
        self._seconds = 3 * limits.answer
        self._fences = self._line.fences_begun

    async def media(self, url: str, until: float) -> Reading:
        """Boot the medium of that URL, once; gives what was read back of the power at the end."""
        system = await self._again(lambda s: self._line.system(self._pool, s), until)
        await self._insert(await self._drive(system, until), url, until)
        await self._boot_from(system, "Cd", until)
        return await self._restart(until)

    async def network(self, until: float) -> Reading:
        """Boot from its network card, once; gives what was read back of the power at the end."""
        system = await self._again(lambda s: self._line.system(self._pool, s), until)
        await self._boot_from(system, "Pxe", until)
        return await self._restart(until)

    async def disk(self, until: float) -> Reading:
        """Boot its disk from now on, by the firmware's own order with nothing else to boot; gives what was read back of
        the power at the end."""
        system = await self._again(lambda s: self._line.system(self._pool, s), until)
        await self._emptied(system, until)
        await self._boot_from(system, "Hdd", until)
        return await self._restart(until)

    async def clear(self, until: float) -> None:
        """Take out what is in its drive; nothing is booted. Takes `EJECT_SECONDS` at most."""
        until = min(until, self._line.clock() + EJECT_SECONDS)
        await self._emptied(await self._again(lambda s: self._line.system(self._pool, s), until), until)

    async def _emptied(self, system: Json, until: float) -> None:
        """Nothing is in its drive; one without a drive boots from the network."""
        try:
            drive = await self._drive(system, until)
        except NoDrive:
            return
        await self._eject(drive, until)

    # --- the drive ------------------------------------------------------------------------------------------------

    async def _drive(self, system: Json, until: float) -> Json:
        """The drive that takes CDs: under the system, else under what manages it."""
        for owner in (system, *await self._managers(system, until)):
            path = _link(owner.get("VirtualMedia"))
            if not path:
                continue
            try:
                members = (await self._get(path, until)).get("Members")
            except BmcError as error:
                if error.kind == "missing":
                    continue
                raise
            for member in _list(members):
                drive = await self._get(_link(member), until)
                if CD & {str(t).upper() for t in _list(drive.get("MediaTypes"))}:
                    return drive
        said = "it has no virtual CD drive, or no licence for one: set spec.metal.boot to network to boot without it"
        raise NoDrive("failed", said)

    async def _managers(self, system: Json, until: float) -> list[Json]:
        found = system.get("Links")
        links = cast(Json, found) if isinstance(found, dict) else {}
        managed = _list(links.get("ManagedBy")) or _list(links.get("Managers"))  # some name them so
        return [await self._get(path, until) for m in managed if (path := _link(m))]

    async def _insert(self, drive: Json, url: str, until: float) -> None:
        if drive.get("Inserted") and drive.get("Image") == url:
            return
        path = _link(drive)
        await self._eject(drive, until)
        if drive.get("VerifyCertificate") is True:
            await self._again(lambda s: self._line.patch(self._pool, path, {"VerifyCertificate": False}, s), until)
        action = _action(drive, "InsertMedia")
        body: Json = {"Image": url, "Inserted": True, "WriteProtected": True}
        fault: BmcError | None = None
        end = min(until, self._line.clock() + INSERT_SECONDS)
        while self._line.clock() < end:
            try:
                if action:
                    await self._line.post(self._pool, action, body, self._left(end))
                else:
                    await self._line.patch(self._pool, path, body, self._left(end))
                fault = None
            except BmcError as error:
                fault = error
                if wanted := {n: v for n, v in _described(url).items() if n in error.wants and n not in body}:
                    body |= wanted
                elif error.kind == "failed":  # some refuse to be told more than they need
                    body = {n: v for n, v in body.items() if n not in {"Inserted", "WriteProtected"}}
            now = await self._get(path, until)
            if holds(now, url):
                return
            if now.get("Inserted"):  # somebody else's, or what the BMC kept: ours does not go in beside it
                fault = BmcError("failed", "another medium is in it")
                await self._eject(now, until)
            await self._control.wait(POLL_SECONDS, end)
        why = f": {fault.message}" if fault is not None else ""
        raise BmcError("failed", f"the medium is not in its drive after {INSERT_SECONDS:.0f} s{why}")

    async def _eject(self, drive: Json, until: float) -> None:
        path = _link(drive)
        for _ in range(TRIES):
            if not drive.get("Inserted") and not drive.get("Image"):
                return
            action = _action(drive, "EjectMedia")
            try:
                if action:
                    await self._line.post(self._pool, action, {}, self._left(until))
                else:
                    body: Json = {"Image": None, "Inserted": False}
                    await self._line.patch(self._pool, path, body, self._left(until))
            except BmcError as error:
                await self._pause(error, until)
            drive = await self._get(path, until)
        raise BmcError("failed", "what is in its CD drive can't be taken out")

    # --- boot and power -------------------------------------------------------------------------------------------

    async def _boot_from(self, system: Json, target: Target, until: float) -> None:
        """Cd, Pxe: once. Hdd: no override any more, or for good where one can't be ended."""
        pending = await self._pending(system, until)

        async def look() -> Json:
            if pending:
                return _boot(await self._get(pending, until))
            return _boot(await self._again(lambda s: self._line.system(self._pool, s), until))

        read = await look() if pending else _boot(system)
        wanted: Json = {"BootSourceOverrideEnabled": "Disabled"}
        if target != "Hdd":
            source = quirks.boots_media_by(system) if target == "Cd" else target
            wanted = {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": source}
            if _MODE in read:
                wanted[_MODE] = "UEFI"
        for _ in range(TRIES):
            try:
                await self._line.patch(self._pool, pending or _link(system), {"Boot": wanted}, self._left(until))
            except BmcError as error:
                if error.kind == "failed" and _MODE in wanted:
                    del wanted[_MODE]  # some take it, and refuse to be told what it is already
                await self._pause(error, until)
            read = await look()
            if boots_from(read, target):
                return
            if target == "Hdd":  # in turns: a request may have been lost, or the BMC knows no such override
                ended = "BootSourceOverrideTarget" in wanted
                wanted = {"BootSourceOverrideEnabled": "Disabled"} if ended else dict(_DISK_FOR_GOOD)
            if "BootSourceOverrideTarget" in wanted and not _by_uefi(read):
                wanted[_MODE] = "UEFI"
        told = (*_DISK_FOR_GOOD, _MODE)
        now = ", ".join(f"{name.removeprefix('BootSourceOverride')} {read.get(name)}" for name in told)
        raise BmcError("failed", f"it does not take that the next boot is from {target}: it reads {now}")

    async def _pending(self, system: Json, until: float) -> str:
        """Path of the settings that wait for the next start, where it is these that take the override (Nokia's, by
        sushy's samples); empty where it is the system itself."""
        settings = system.get("@Redfish.Settings")
        path = _link(cast(Json, settings).get("SettingsObject")) if isinstance(settings, dict) else ""
        if not path:
            return ""
        try:
            found = await self._get(path, until)
        except BmcError as error:
            if error.kind in {"missing", "forbidden"}:
                return ""
            raise
        return path if "BootSourceOverrideTarget" in _boot(found) else ""

    async def _restart(self, until: float) -> Reading:
        """Off, as read back, then on: a restart by one order shows nothing that could be read back."""
        self._not_fenced(self._fences)
        off = await self._control.off(until)
        if not (off.answered and off.power == "off"):
            why = f'its BMC reads "{off.raw}"' if off.answered else off.error
            raise BmcError("failed", f"it could not be switched off to start anew: {why or off.reply}")
        await self._control.rest(until)
        self._not_fenced(self._fences + 1)  # that was ours
        return await self._control.on(until)

    def _not_fenced(self, begun: int) -> None:
        """Whoever was fenced since this began stays off. Raises `BmcError`."""
        if self._line.fences or self._line.fences_begun != begun:
            raise BmcError("failed", "it was fenced meanwhile; it is not started before it is confirmed to be down")

    # --- requests -------------------------------------------------------------------------------------------------

    async def _get(self, path: str, until: float) -> Json:
        return await self._again(lambda s: self._line.get(self._pool, path, s), until)

    async def _again(self, request: Callable[[float], Awaitable[T]], until: float) -> T:
        """Make a request that may be made again, a few times where it fails."""
        for left in range(TRIES - 1, -1, -1):
            try:
                return await request(self._left(until))
            except BmcError as error:
                if error.kind in {"settings", "missing", "forbidden"} or not left or self._line.clock() >= until:
                    raise
                await self._pause(error, until)
        raise AssertionError("the last try gives or raises")

    async def _pause(self, error: BmcError, until: float) -> None:
        if error.kind in {"settings", "forbidden"}:
            raise error
        await self._control.wait(max(POLL_SECONDS, error.retry_after), until)

    def _left(self, until: float) -> float:
        return min(until - self._line.clock(), self._seconds)


_DISK_FOR_GOOD: Json = {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}
_MODE = "BootSourceOverrideMode"


def _boot(system: Json) -> Json:
    boot = system.get("Boot")
    return cast(Json, boot) if isinstance(boot, dict) else {}


def boots_from(boot: Json, target: Target) -> bool:
    """Whether the next boot is from there, by UEFI, as the system's `Boot` was read back.

    `Continuous` is as good as `Once` for a medium, which is ejected before anything else is booted, and for the
    network, where nobody is answered then: some BMCs know nothing else, such as sushy-tools' emulator. Without an
    override the mode says nothing.
    """
    enabled, source = boot.get("BootSourceOverrideEnabled"), boot.get("BootSourceOverrideTarget")
    if target != "Hdd":
        right = {"Cd", "UsbCd"} if target == "Cd" else {target}
        return source in right and enabled in {"Once", "Continuous"} and _by_uefi(boot)
    return enabled == "Disabled" or source == "None" or (source == "Hdd" and _by_uefi(boot))


def _by_uefi(boot: Json) -> bool:
    """Not where it reads as the other mode; many do not tell, having no other."""
    return boot.get(_MODE) != "Legacy"


def _described(url: str) -> Json:
    """What a BMC may want to be told of a medium beside its URL."""
    return {**quirks.WANTED, "TransferProtocolType": urlsplit(url).scheme.upper()}


def holds(drive: Json, url: str) -> bool:
    """Whether the medium of that URL is in the drive, as the drive was read back.

    BMCs show the URL as they like: with another host, as a share (`//10.0.0.2/media/x/ram.iso`), by its name only, or
    not at all, which is taken. An HTTP URL with another path is another medium.
    """
    shown = drive.get("Image")
    if not isinstance(shown, str) or not shown:
        return drive.get("Inserted") is True
    if drive.get("Inserted", True) is False:
        return False
    ours, theirs = urlsplit(url).path, urlsplit(shown).path
    if urlsplit(shown).scheme in {"http", "https"}:
        return theirs == ours
    return theirs.rpartition("/")[2].casefold() == ours.rpartition("/")[2].casefold()


def _link(thing: object) -> str:
    """The path that a resource, or a link to one, names; empty where it names none."""
    path: Any = cast(Json, thing).get("@odata.id") if isinstance(thing, dict) else None
    return path if isinstance(path, str) else ""


def _list(thing: object) -> list[Any]:
    return cast(list[Any], thing) if isinstance(thing, list) else []


def _action(resource: Json, name: str) -> str:
    """Where an action is ordered; empty where the resource has it not."""
    actions = resource.get("Actions")
    found = cast(Json, actions).get(f"#VirtualMedia.{name}") if isinstance(actions, dict) else None
    target: Any = cast(Json, found).get("target") if isinstance(found, dict) else None
    return target if isinstance(target, str) else ""
