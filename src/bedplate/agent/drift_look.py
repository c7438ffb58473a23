"""One look at whether this system is as its image, as a process of its own: what it reads is gone when it ends.

`python -m bedplate.agent.drift_look [ROOT]` prints a `Drift` as JSON, or `null` where the image has no record.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from bedplate import as_built
from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import Device, devices
from bedplate.agent.ram.inspect import board_firmware, disk_firmware, network_cards
from bedplate.agent.sysfs import text
from bedplate.model.drift import Drift, changed_packages, drift
from bedplate.model.metal import Component


def look(root: Path, sysfs: Path) -> Drift | None:
    """Compare now; None where the image has no record."""
    built = as_built.read(root)
    if built is None:
        return None
    now = as_built.survey(root, os.uname().release, text(root / "proc/cmdline"), built.files)
    owners = as_built.owners(root, changed_packages(built, now))
    return drift(built, now, owners, firmware(sysfs))


def firmware(sysfs: Path) -> tuple[Component, ...]:
    """What firmware is installed now, named as `Drift` has it. Disks other than NVMe only where there is smartctl."""
    cards, disks = network_cards(sysfs, ""), _disks()
    named = {f"nic {c.name}": f"nic {c.mac}" for c in cards} | {f"disk {d.name}": f"disk {d.serial}" for d in disks}
    found = {named.get(c.name, c.name): c for c in (*board_firmware(sysfs, cards), *disk_firmware(disks))}
    for folder in sorted((sysfs / "class/nvme").glob("nvme*")):
        serial, version = text(folder / "serial"), text(folder / "firmware_rev")
        if serial and version:
            found.setdefault(f"disk {serial}", Component(name="", version=version, model=text(folder / "model")))
    return tuple(Component(name=name, version=c.version, model=c.model) for name, c in sorted(found.items()))


def _disks() -> list[Device]:
    try:
        return devices()
    except AgentFault:
        return []  # a tool that is missing hides nothing else


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("/")
    sys.stdout.buffer.write(msgspec.json.encode(look(root, Path("/sys"))))
