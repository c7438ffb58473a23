"""What hardware a bare server has, as its kernel, its firmware tables, its disks and its switches tell. Writes nothing.

A part that can't be asked is left empty, never guessed; what is wrong is said in `problems`. Blocking.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.hardware_health import passed
from bedplate.agent.ram.devices import Device, devices, run_tool, signatures
from bedplate.agent.ram.lldp import neighbours
from bedplate.agent.sysfs import number, text
from bedplate.model.metal import Component, Disk, Hardware, NetworkCard

LLDP_SECONDS = 35.0
"""Switches say who they are every 30 s."""
_NO_SERIAL = {"", "0", "none", "unknown", "n/a", "not specified", "to be filled by o.e.m.", "default string"}
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def inspect(
    boot_address: str,
    *,
    listen: float = LLDP_SECONDS,
    sysfs: Path = Path("/sys"),
    procfs: Path = Path("/proc"),
    look: Callable[[], list[Device]] = devices,
    progress: Callable[[float], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Hardware:
    """Look at everything.

    Args:
        boot_address: The server's own address in the connection to the controller; empty: it is not known.
        listen: Seconds at most to hear the switches.
        sysfs: For tests.
        procfs: For tests.
        look: Gives the disks.
        progress: Is told how far it is, 0 to 1.
        stop: Set from outside to have it end without the switches' word.

    Raises:
        AgentFault: the disks can't be listed.
    """
    found = look()
    disks = tuple(disk_of(d) for d in found)
    progress(0.2)
    cards = network_cards(sysfs, boot_address)
    heard = neighbours([c.name for c in cards if c.carrier and not _virtual(sysfs, c.name)], listen, stop)
    progress(0.8)
    cards = tuple(_with_neighbour(c, heard) for c in cards)
    cpus = cpu_facts(procfs / "cpuinfo")
    tables = memory_banks(_tool("dmidecode", "--type", "17"))
    return Hardware(
        vendor=_dmi(sysfs, "sys_vendor"),
        product=_dmi(sysfs, "product_name"),
        serial=_dmi(sysfs, "product_serial"),
        cpu_model=cpus[0],
        sockets=cpus[1],
        cores=cpus[2],
        threads=os.cpu_count() or 0,
        numa_nodes=len(list((sysfs / "devices/system/node").glob("node[0-9]*"))),
        memory_mib=(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20,
        memory_banks=tables,
        disks=disks,
        nics=cards,
        gpus=gpus(_tool("lspci", "-mm", "-D")),
        firmware=(*board_firmware(sysfs, cards), *disk_firmware(found)),
        secure_boot=secure_boot(sysfs),
        problems=problems(disks, cards),
    )


def problems(disks: Sequence[Disk], cards: Sequence[NetworkCard]) -> tuple[str, ...]:
    """What is wrong with what was found, one sentence each."""
    found: list[str] = []
    if not disks:
        found.append("no disk is there")
    for disk in disks:
        if not disk.serial:
            found.append(f"disk {disk.name} ({disk.model or 'no model'}) has no serial number: it is never written")
        if disk.health == "failing":
            found.append(f"disk {disk.serial or disk.name} says that it is failing: replace it")
    for serial, times in sorted(Counter(d.serial for d in disks if d.serial).items()):
        if times > 1:
            names = ", ".join(d.name for d in disks if d.serial == serial)
            found.append(f"disks {names} have the same serial number {serial}: none of them is ever written")
    if not any(c.carrier for c in cards):
        found.append("no network interface has a link")
    return tuple(found)


# --- disks ----------------------------------------------------------------------------------------------------------


def disk_of(device: Device) -> Disk:
    """A disk with its own word on its health, and what it holds."""
    return Disk(
        serial="" if device.serial.lower() in _NO_SERIAL else device.serial,
        wwn=device.wwn,
        model=device.model,
        size=device.size,
        transport=device.transport,
        rotational=device.rotational,
        name=device.name,
        health=health(_tool("smartctl", "--health", "--json", device.path, any_code=True)),
        content=signatures(device),
    )


def health(said: str) -> Literal["", "ok", "failing"]:
    """What `smartctl --health --json` says; empty where the disk does not tell."""
    try:
        verdict = passed(json.loads(said or "{}"))
    except (ValueError, AttributeError):
        return ""
    return "" if verdict is None else "ok" if verdict else "failing"


# --- network --------------------------------------------------------------------------------------------------------


def network_cards(sysfs: Path, boot_address: str) -> tuple[NetworkCard, ...]:
    """The physical interfaces, by name."""
    addresses = _addresses()
    found: list[NetworkCard] = []
    for folder in sorted((sysfs / "class/net").glob("*")):
        if not (folder / "device").exists():
            continue
        link = addresses.get(folder.name, {})
        own = {str(a.get("local")) for a in link.get("addr_info", ())}
        carrier = text(folder / "carrier") == "1"
        speed = number(text(folder / "speed"))
        found.append(
            NetworkCard(
                mac=str(link.get("permaddr") or text(folder / "address")).lower(),
                name=folder.name,
                speed=speed if carrier and 0 < speed < 10**7 else 0,
                carrier=carrier,
                boot=bool(boot_address) and boot_address in own,
            )
        )
    return tuple(found)


def _virtual(sysfs: Path, name: str) -> bool:
    """A virtual machine's interface: the bridge that it is on says nothing by LLDP."""
    with suppress(OSError):
        return "virtio" in os.readlink(sysfs / "class/net" / name / "device/driver")
    return False


def _with_neighbour(card: NetworkCard, heard: dict[str, str]) -> NetworkCard:
    return msgspec.structs.replace(card, neighbour=heard.get(card.name, ""))


def _addresses() -> dict[str, dict[str, Any]]:
    with suppress(ValueError):
        return {str(link["ifname"]): link for link in json.loads(_tool("ip", "-json", "address", "show") or "[]")}
    return {}


# --- processors, memory, cards, firmware ------------------------------------------------------------------------------


def cpu_facts(cpuinfo: Path) -> tuple[str, int, int]:
    """The processors' model, and the numbers of sockets and cores."""
    model, packages, cores = "", set[str](), set[tuple[str, str]]()
    package = ""
    for line in text(cpuinfo).splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        match name:
            case "model name":
                model = value
            case "physical id":
                package = value
                packages.add(value)
            case "core id":
                cores.add((package, value))
            case _:
                pass
    return model, len(packages), len(cores)


def memory_banks(said: str) -> tuple[str, ...]:
    """One line for each memory module of `dmidecode --type 17`: place, MiB, speed."""
    found: list[str] = []
    for block in said.split("Memory Device")[1:]:
        facts = {n.strip(): v.strip() for n, _, v in (line.partition(":") for line in block.splitlines()) if v.strip()}
        amount = re.fullmatch(r"(\d+) ([MG])i?B", facts.get("Size", ""))
        if amount is None:
            continue  # an empty place
        mib = int(amount[1]) * (1024 if amount[2] == "G" else 1)
        speed = facts.get("Configured Memory Speed", facts.get("Speed", ""))
        place = facts.get("Locator", "?")
        found.append(" ".join([place, f"{mib} MiB", *([speed] if speed and speed != "Unknown" else [])]))
    return tuple(found)


def gpus(said: str) -> tuple[str, ...]:
    """GPUs and other accelerators in `lspci -mm -D`; a plain display adapter is none."""
    found: list[str] = []
    for line in said.splitlines():
        words = re.findall(r'"([^"]*)"', line)
        if len(words) < 3:
            continue
        shows = words[0] == "VGA compatible controller" and words[1].startswith(_GPU_MAKERS)
        if shows or words[0] in {"3D controller", "Processing accelerators"}:
            found.append(f"{words[1]} {words[2]}".strip())
    return tuple(found)


_GPU_MAKERS = ("NVIDIA", "Advanced Micro Devices")
"""Makers of cards that both show pictures and compute; a BMC's own display is of another."""


def secure_boot(sysfs: Path) -> bool | None:
    """Whether the firmware lets only signed programs boot; None where it can't be told."""
    for folder in ("firmware/efi/efivars", "firmware/efi/vars"):
        with suppress(OSError):
            value = (sysfs / folder / _SECURE_BOOT).read_bytes()
            if len(value) >= 5:
                return value[4] == 1
    return None


def board_firmware(sysfs: Path, cards: Sequence[NetworkCard]) -> list[Component]:
    """Versions that the board and the network cards tell."""
    found: list[Component] = []
    version = _dmi(sysfs, "bios_version")
    if version:
        found.append(Component(name="bios", version=version, model=_dmi(sysfs, "bios_vendor")))
    for card in cards:
        lines = (line.partition(":") for line in _tool("ethtool", "-i", card.name).splitlines())
        own = {name.strip(): value.strip() for name, _, value in lines}
        if own.get("firmware-version", "N/A") not in {"", "N/A"}:
            model = own.get("driver", "")
            found.append(Component(name=f"nic {card.name}", version=own["firmware-version"], model=model))
    return found


def disk_firmware(found: Sequence[Device]) -> list[Component]:
    """Versions that the disks tell smartctl."""
    made: list[Component] = []
    for disk in found:
        with suppress(ValueError):
            said = json.loads(_tool("smartctl", "--info", "--json", disk.path, any_code=True) or "{}")
            version = str(said.get("firmware_version") or said.get("revision") or "")
            if version:
                made.append(Component(name=f"disk {disk.name}", version=version, model=disk.model))
    return made


def _dmi(sysfs: Path, name: str) -> str:
    value = text(sysfs / "class/dmi/id" / name)
    return "" if value.lower() in _NO_SERIAL else value


def _tool(*argv: str, any_code: bool = False) -> str:
    """What a tool says; empty where it is missing or fails. `any_code`: its exit code is part of what it says."""
    try:
        return run_tool(argv, any_code=any_code)
    except AgentFault:
        return ""
