"""The server's disks as the kernel shows them now, and the one disk that a serial number means."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.model.metal_protocol import MEDIUM_LABEL

_COLUMNS = "NAME,PATH,TYPE,SERIAL,WWN,MODEL,SIZE,TRAN,ROTA,RO,LOG-SEC,MOUNTPOINTS,FSTYPE,LABEL"
TOOL_SECONDS = 60.0
"""For a tool that only looks: a disk that is dying may keep it for some tens of seconds."""
_SYSFS = Path("/sys/block")


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A disk in this boot."""

    name: str
    """`nvme0n1`."""
    path: str
    serial: str = ""
    wwn: str = ""
    model: str = ""
    size: int = 0
    """Bytes."""
    transport: str = ""
    rotational: bool = False
    read_only: bool = False
    sector: int = 512
    """Bytes of its logical sector."""
    used: str = ""
    """By what it is in use here: `mounted at /mnt`, `the RAM system's medium`; empty: by nothing."""


def devices() -> list[Device]:
    """All disks with a size, by name; no disc drives, no disks in memory. Raises `AgentFault`."""
    out = run_tool(["lsblk", "--json", "--bytes", "--output", _COLUMNS])
    try:
        rows = json.loads(out)["blockdevices"]
    except (ValueError, KeyError) as error:
        raise AgentFault("ToolFailed", f"lsblk gave no list of disks: {error!r}") from error
    found = [_device(row) for row in rows if row.get("type") == "disk" and int(row.get("size") or 0)]
    return sorted((d for d in found if not d.name.startswith(("zram", "ram"))), key=lambda d: d.name)


def writable(serial: str, found: Sequence[Device]) -> Device:
    """The one disk with this serial number, free to be written.

    Raises:
        AgentFault: there is none, more than one, or it is in use; nothing may be written then.
    """
    if not serial:
        raise AgentFault("NoRootDisk", "no disk is named by its serial number: inspect the server first")
    named = [d for d in found if d.serial == serial]
    if not named:
        have = ", ".join(sorted(d.serial for d in found if d.serial)) or "none"
        raise AgentFault("DiskMissing", f"no disk has the serial number {serial} (there are: {have}); inspect it again")
    if len(named) > 1:
        names = " and ".join(d.name for d in named)
        message = f"{names} have the same serial number {serial}, so that neither can be told apart: none is written"
        raise AgentFault("DiskAmbiguous", message, permanent=True)
    disk = named[0]
    if disk.used:
        raise AgentFault("DiskInUse", f"disk {serial} ({disk.name}) is in use: {disk.used}; it is not written")
    if disk.read_only:
        raise AgentFault("DiskReadOnly", f"disk {serial} ({disk.name}) can only be read: replace it")
    return disk


def open_alone(disk: Device, flags: int) -> int:
    """Open a disk so that the kernel refuses where anything else on this server holds it (a mount, a RAID, swap).

    Raises:
        AgentFault: it is held.
        OSError: it can't be opened.
    """
    try:
        return os.open(disk.path, flags | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == 16:  # EBUSY
            raise AgentFault("DiskInUse", f"disk {disk.serial} ({disk.name}) is in use by this system") from error
        raise


def signatures(disk: Device) -> tuple[str, ...]:
    """What tables and file systems a disk and its partitions show, such as `gpt`, `ext4 root`; empty: none."""
    paths = [disk.path]
    with suppress(OSError):
        folder = _SYSFS / disk.name
        parts = sorted(p.name for p in folder.iterdir() if (p / "partition").exists())
        paths += [f"/dev/{p}" for p in parts]
    found: list[str] = []
    for path in paths:
        with suppress(AgentFault, ValueError, KeyError):
            for row in json.loads(run_tool(["wipefs", "--json", "--no-act", path]) or "{}").get("signatures", ()):
                kind = str(row.get("type") or "").lower()
                word = " ".join(w for w in (kind, str(row.get("label") or "")) if w)
                if word and kind != "pmbr" and word not in found:
                    found.append(word)
    return tuple(found)


def run_tool(argv: Sequence[str], *, seconds: float = TOOL_SECONDS, any_code: bool = False) -> str:
    """As `tool_output`, as text."""
    return tool_output(argv, seconds=seconds, any_code=any_code).decode(errors="replace")


def tool_output(argv: Sequence[str], *, seconds: float = TOOL_SECONDS, any_code: bool = False) -> bytes:
    """Run a tool that is there in the RAM system and give what it printed. `any_code`: however it ended.

    Raises:
        AgentFault: it is missing, failed or did not end in time.
    """
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except FileNotFoundError as error:
        raise AgentFault("ToolMissing", f"{argv[0]} is missing in this system", permanent=True) from error
    except subprocess.TimeoutExpired as error:
        raise AgentFault("ToolHung", f"{argv[0]} did not end within {seconds:.0f} s") from error
    if done.returncode != 0 and not any_code:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:] or ["nothing was said"]
        raise AgentFault("ToolFailed", f"{' '.join(argv[:3])} failed ({done.returncode}): {said[0]}")
    return done.stdout


def _device(row: dict[str, Any]) -> Device:
    name = str(row["name"])
    return Device(
        name=name,
        path=str(row.get("path") or f"/dev/{name}"),
        serial=str(row.get("serial") or _attribute(name, "serial", "device/serial")).strip(),
        wwn=str(row.get("wwn") or _attribute(name, "wwid", "device/wwid")).strip(),
        model=" ".join(str(row.get("model") or _attribute(name, "device/model")).split()),
        size=int(row["size"]),
        transport=str(row.get("tran") or ("virtio" if name.startswith("vd") else "")),
        rotational=bool(row.get("rota")),
        read_only=bool(row.get("ro")),
        sector=int(row.get("log-sec") or 512),
        used=_use(row),
    )


def _use(row: dict[str, Any]) -> str:
    if row.get("label") == MEDIUM_LABEL:
        return "it is the RAM system's medium"
    mounted = [m for m in row.get("mountpoints") or () if m]
    if mounted:
        return f"mounted at {mounted[0]}"
    for child in row.get("children") or ():
        if child.get("type") not in {"part", None}:
            return f"part of {child.get('name')}"
        below = _use(child)
        if below:
            return below
    return ""


def _attribute(name: str, *files: str) -> str:
    for file in files:
        with suppress(OSError):
            return (_SYSFS / name / file).read_text(errors="replace").strip()
    return ""
