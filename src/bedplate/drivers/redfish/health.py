"""A server's health as its BMC tells it: the roll-up, and what is wrong in one sentence each. Looks, changes nothing.

The roll-ups of system and chassis are read each time. Parts are looked at where one of them is not well, and now and
then anyway, as not every roll-up rolls up everything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

from bedplate.drivers.redfish.faults import BmcError

Health = Literal["", "ok", "warning", "critical"]
Json = dict[str, Any]
Get = Callable[[str], Awaitable[Json]]
"""Reads a resource by its path. Raises `BmcError`."""

PROBLEMS_LIMIT = 20
MEMBERS_LIMIT = 64
"""Of one collection: as many DIMMs as a server has."""
CHASSIS_LIMIT = 4
_ORDER: tuple[Health, ...] = ("", "ok", "warning", "critical")
_WORDS: dict[Health, str] = {"warning": "needs attention", "critical": "is critical"}


class HealthReader:
    """Reads one server's health and remembers what was wrong with parts that don't answer this time."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[str, ...]] = {}

    async def read(self, system: Json, get: Get, *, deep: bool) -> tuple[Health, tuple[str, ...]]:
        """Give the roll-up and the problems; `deep`: look at all parts, however well the roll-up is."""
        chassis = [c for link in _links(system, "Chassis")[:CHASSIS_LIMIT] if (c := await _try(get, link)) is not None]
        rolled = worst(_health(part) for part in (system, *chassis))
        if deep or rolled in {"warning", "critical"}:
            await self._look(system, chassis, get)
        problems = [sentence for part in self._parts.values() for sentence in part]
        if rolled in {"warning", "critical"} and not problems:
            problems = [f"The server {_WORDS[rolled]}; its BMC does not say why."]
        return rolled, tuple(dict.fromkeys(problems))[:PROBLEMS_LIMIT]

    async def _look(self, system: Json, chassis: list[Json], get: Get) -> None:
        await self._part("processors", self._members(system, "Processors", "Processor", get))
        await self._part("memory", self._members(system, "Memory", "Memory module", get))
        await self._part("storage", self._storage(system, get))
        await self._part("fans", self._air(chassis, get))
        await self._part("power", self._supplies(chassis, get))

    async def _part(self, name: str, looking: Awaitable[list[str]]) -> None:
        try:
            self._parts[name] = tuple(await looking)
        except BmcError as error:
            # What it said before stands, unless it says that it has no such part or may not show it.
            if error.kind in {"missing", "forbidden"}:
                self._parts.pop(name, None)

    async def _members(self, parent: Json, name: str, label: str, get: Get) -> list[str]:
        """Members of a collection, each read; but not where a summary says that all are well."""
        summary = parent.get(f"{name.removesuffix('s')}Summary")
        if isinstance(summary, dict) and _health(summary) == "ok":
            return []
        return [s for member in await collection(parent, name, get) if (s := _sentence(label, member))]

    async def _storage(self, system: Json, get: Get) -> list[str]:
        found: list[str] = []
        if not _ref(system.get("Storage")):  # older BMCs have nothing but the list of drives
            for simple in await collection(system, "SimpleStorage", get):
                found += _listed("Drive", simple, "Devices")
        for storage in await collection(system, "Storage", get):
            controllers = storage.get("StorageControllers")
            for part in [storage, *(controllers if isinstance(controllers, list) else [])]:
                if isinstance(part, dict) and (sentence := _sentence("Storage", part)):
                    found.append(sentence)
            if _health(storage) == "ok":
                continue
            for link in _refs(storage.get("Drives"))[:MEMBERS_LIMIT]:
                drive = await get(link)
                if sentence := _sentence("Drive", drive):
                    found.append(sentence)
                elif drive.get("FailurePredicted") is True:
                    found.append(f"Drive {_name(drive)} predicts its own failure.")
        return found

    async def _air(self, chassis: list[Json], get: Get) -> list[str]:
        found: list[str] = []
        for c in chassis:
            if (link := _ref(c.get("Thermal"))) and (thermal := await get(link)):
                found += _listed("Fan", thermal, "Fans") + _listed("Temperature", thermal, "Temperatures")
            elif (link := _ref(c.get("ThermalSubsystem"))) and _health(thermal := await get(link)) != "ok":
                found += [s for m in await collection(thermal, "Fans", get) if (s := _sentence("Fan", m))]
        return found

    async def _supplies(self, chassis: list[Json], get: Get) -> list[str]:
        found: list[str] = []
        for c in chassis:
            if (link := _ref(c.get("Power"))) and (power := await get(link)):
                found += _listed("Power supply", power, "PowerSupplies")
            elif (link := _ref(c.get("PowerSubsystem"))) and _health(power := await get(link)) != "ok":
                members = await collection(power, "PowerSupplies", get)
                found += [s for m in members if (s := _sentence("Power supply", m))]
        return found


def worst(healths: Iterable[Health]) -> Health:
    """The worst of them; empty where none tells."""
    found: Health = ""
    for health in healths:
        found = health if _ORDER.index(health) > _ORDER.index(found) else found
    return found


def _health(resource: Json) -> Health:
    status = resource.get("Status")
    if not isinstance(status, dict):
        return ""
    # The emulator of sushy-tools writes HealthRollUp, the standard HealthRollup.
    told = (status.get(name) for name in ("Health", "HealthRollup", "HealthRollUp"))
    known: dict[Any, Health] = {"OK": "ok", "Warning": "warning", "Critical": "critical"}
    return worst(known.get(t, "") for t in told if isinstance(t, str))


def _sentence(label: str, resource: Json) -> str:
    """What is wrong with a part, or nothing; an empty socket is no fault."""
    status = resource.get("Status")
    state = str(status.get("State") or "") if isinstance(status, dict) else ""
    health = _health(resource)
    if health not in _WORDS or state == "Absent":
        return ""
    more = f" ({state[:40]})" if state and state != "Enabled" else ""
    return f"{label} {_name(resource)} {_WORDS[health]}{more}."


def _name(resource: Json) -> str:
    for field in ("Name", "FanName", "MemberId", "Id"):
        value = resource.get(field)
        if isinstance(value, str) and value.strip():
            return "".join(c for c in value.strip() if c.isprintable())[:80]
    return "of unknown name"


def _listed(label: str, resource: Json, field: str) -> list[str]:
    members = resource.get(field)
    parts = members if isinstance(members, list) else []
    return [s for part in parts[:MEMBERS_LIMIT] if isinstance(part, dict) and (s := _sentence(label, part))]


async def collection(parent: Json, field: str, get: Get) -> list[Json]:
    """The members of a collection that a resource names, `MEMBERS_LIMIT` at most, each read. Raises `BmcError`."""
    link = _ref(parent.get(field))
    if not link:
        return []
    members = _refs((await get(link)).get("Members"))
    return [await get(member) for member in members[:MEMBERS_LIMIT]]


async def _try(get: Get, link: str) -> Json | None:
    try:
        return await get(link)
    except BmcError:
        return None


def _links(resource: Json, field: str) -> list[str]:
    links = resource.get("Links")
    return _refs(links.get(field)) if isinstance(links, dict) else []


def _refs(values: object) -> list[str]:
    return [r for v in values if (r := _ref(v))] if isinstance(values, list) else []


def _ref(value: object) -> str:
    link = value.get("@odata.id") if isinstance(value, dict) else None
    return link if isinstance(link, str) and link.startswith("/") else ""
