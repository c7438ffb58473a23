"""What a server itself says of its hardware, beside its BMC: memory errors, disks, arrays of disks.

`MemoryErrors` and the readers of what tools say compute and read no clock; `HealthWatch` looks now and then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import run_tool
from bedplate.agent.sysfs import number, text

log = logging.getLogger("bedplate.agent.health")

Severity = Literal["warning", "critical"]
LOOK_SECONDS = 120.0
"""Between two looks: disks answer in a fraction of a second and do not like to be asked all the time."""
WINDOW_SECONDS = 86_400.0
CORRECTED_LIMIT = 10
"""Corrected errors of one memory module within `WINDOW_SECONDS` from which it is not trusted any more: mcelog's default
(`[dimm] ce-error-threshold = 10 / 24h`, https://github.com/andikleen/mcelog/blob/master/mcelog.conf)."""
UNREADABLE = {197: "pending", 198: "uncorrectable"}
"""SMART attributes of sectors that can't be read; drives that fail have them (Backblaze, "What SMART Stats Tell Us
About Hard Drives", 2016)."""


class Problem(NamedTuple):
    """What is wrong, as a sentence."""

    severity: Severity
    sentence: str


class MemoryErrors:
    """Errors of memory modules, as the kernel counts them from its start on (EDAC)."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def add(self, now: float, corrected: Mapping[str, int], uncorrected: Mapping[str, int]) -> list[Problem]:
        """Take the counters of each module in; give what is wrong.

        Args:
            now: Seconds of any clock that goes on.
        """
        found = [
            Problem("critical", f"memory {module}: {count} errors that could not be corrected: replace it")
            for module, count in sorted(uncorrected.items())
            if count > 0
        ]
        for module, count in sorted(corrected.items()):
            seen = self._seen.setdefault(module, deque())
            if seen and count < seen[-1][1]:
                seen.clear()  # counted from zero again
            seen.append((now, count))
            while seen[0][0] < now - WINDOW_SECONDS:
                seen.popleft()
            fresh = count - seen[0][1]
            if fresh >= CORRECTED_LIMIT:
                found.append(Problem("warning", f"memory {module}: {fresh} corrected errors within a day"))
        return found


def memory_counters(edac: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The kernel's counters of corrected and uncorrected errors, by module as its label says, or by controller where
    the driver tells of no modules. Empty where there is no driver."""
    corrected: dict[str, int] = {}
    uncorrected: dict[str, int] = {}
    for controller in sorted(edac.glob("mc[0-9]*")):
        modules = sorted(controller.glob("dimm[0-9]*")) or sorted(controller.glob("rank[0-9]*"))
        for module in modules:
            label = text(module / "dimm_label") or module.name
            corrected[f"{controller.name} {label}"] = number(text(module / "dimm_ce_count"))
            uncorrected[f"{controller.name} {label}"] = number(text(module / "dimm_ue_count"))
        if not modules:
            corrected[controller.name] = number(text(controller / "ce_count"))
            uncorrected[controller.name] = number(text(controller / "ue_count"))
    return corrected, uncorrected


def passed(said: Mapping[str, Any]) -> bool | None:
    """The disk's own verdict in `smartctl --health --json`; None where it does not tell."""
    verdict = said.get("smart_status")
    found = verdict.get("passed") if isinstance(verdict, dict) else None
    return found if isinstance(found, bool) else None


def disk_problems(said: Mapping[str, Any]) -> list[Problem]:
    """What `smartctl --health --attributes --info --json` says is wrong with one disk."""
    name = f"disk {said.get('serial_number') or said.get('device', {}).get('name', 'of no name')}"
    if passed(said) is False:
        return [Problem("critical", f"{name} says that it is failing: replace it")]
    table = said.get("ata_smart_attributes", {}).get("table", ())
    found = {a.get("id"): a.get("raw", {}).get("value", 0) for a in table}
    return [
        Problem("warning", f"{name} has {found[number]} sectors that can't be read ({what})")
        for number, what in UNREADABLE.items()
        if isinstance(found.get(number), int) and found[number] > 0
    ]


def array_problems(block: Path) -> list[Problem]:
    """Arrays of disks (md) that lack a disk."""
    return [
        Problem("warning", f"array {path.parent.parent.name} lacks {missing} of its disks")
        for path in sorted(block.glob("md*/md/degraded"))
        if (missing := number(text(path))) > 0
    ]


def worst(problems: list[Problem]) -> Literal["", "warning", "critical"]:
    """The worst of them; empty where there is none."""
    severities = {p.severity for p in problems}
    return "critical" if "critical" in severities else "warning" if severities else ""


def _disks() -> list[Problem]:
    with suppress(AgentFault, ValueError, TypeError, AttributeError):
        scanned = json.loads(run_tool(("smartctl", "--scan", "--json"), any_code=True) or "{}")
        names = [str(d["name"]) for d in scanned.get("devices", ()) if "name" in d]
        return [problem for name in names for problem in _disk(name)]
    return []


def _disk(name: str) -> list[Problem]:
    with suppress(AgentFault, ValueError, TypeError, AttributeError):
        asked = ("smartctl", "--health", "--attributes", "--info", "--json", name)
        return disk_problems(json.loads(run_tool(asked, any_code=True) or "{}"))
    return []


class HealthWatch:
    """Looks at this server's hardware, until cancelled."""

    def __init__(self, changed: Callable[[list[Problem]], Awaitable[None]], sysfs: Path = Path("/sys")) -> None:
        self._changed = changed
        self._sysfs = sysfs
        self._memory = MemoryErrors()
        self._found: list[Problem] = []

    async def run(self) -> None:
        """Look every `LOOK_SECONDS`."""
        while True:
            await self._changed(await asyncio.to_thread(self._look))
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> list[Problem]:
        counters = memory_counters(self._sysfs / "devices/system/edac/mc")
        found = [*self._memory.add(time.monotonic(), *counters), *array_problems(self._sysfs / "block"), *_disks()]
        for problem in found:
            if problem not in self._found:
                log.warning("hardware: %s", problem.sentence)
        self._found = found
        return found
