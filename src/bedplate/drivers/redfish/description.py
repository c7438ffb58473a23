"""What a server is, as its BMC describes it: nothing is booted for that. Looks, changes nothing.

All but the network cards stands in the system itself, which is read each time anyway.
"""

from __future__ import annotations

from typing import Any

from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.health import Get, Json, collection
from bedplate.model.metal import Described

_LONGEST = 80
CARDS = "EthernetInterfaces"


class DescriptionReader:
    """Reads one server's, and remembers its cards, which are asked for now and then."""

    def __init__(self) -> None:
        self._macs: tuple[str, ...] = ()

    async def read(self, system: Json, get: Get, *, deep: bool) -> Described:
        """`deep`: ask for the cards as well. What can't be read is left as it was known."""
        if deep:
            try:
                cards = await collection(system, CARDS, get)
                self._macs = tuple(sorted({m for c in cards if (m := _mac(c))}))
            except BmcError as error:
                if error.kind in {"missing", "forbidden"}:
                    self._macs = ()
        return described(system, self._macs)


def described(system: Json, macs: tuple[str, ...] = ()) -> Described:
    """What Redfish's `ComputerSystem` says; empty and 0 where it does not."""
    processors, memory = _part(system, "ProcessorSummary"), _part(system, "MemorySummary")
    return Described(
        vendor=_text(system, "Manufacturer"),
        product=_text(system, "Model"),
        serial=_text(system, "SerialNumber"),
        bios=_text(system, "BiosVersion"),
        cpu_model=_text(processors, "Model"),
        sockets=int(_number(processors, "Count")),
        threads=int(_number(processors, "LogicalProcessorCount")),
        memory_mib=int(_number(memory, "TotalSystemMemoryGiB") * 1024),
        macs=macs,
    )


def _mac(card: Json) -> str:
    return (_text(card, "PermanentMACAddress") or _text(card, "MACAddress")).lower().replace("-", ":")


def _part(system: Json, name: str) -> Json:
    found: Any = system.get(name)
    return found if isinstance(found, dict) else {}


def _text(resource: Json, name: str) -> str:
    found = resource.get(name)
    text = "".join(c for c in found if c.isprintable()).strip() if isinstance(found, str) else ""
    return text[:_LONGEST]


def _number(resource: Json, name: str) -> float:
    found = resource.get(name)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and found > 0 else 0.0
