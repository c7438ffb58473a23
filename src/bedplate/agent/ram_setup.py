"""Before the RAM system's agent: takes a server's settings from the medium's copy and brings its network up by them.

`python -m bedplate.agent.ram_setup` ends once the settings lie where the agent reads them and the network is set; it
may be run again. Touches no disk.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bedplate.agent.enrol import split_address
from bedplate.model.metal_protocol import RamSettings, read_settings

log = logging.getLogger("bedplate.ram")

MEDIUM_COPY = Path("/run/bedplate/medium")
"""The medium's settings as they were read at the start; `ram-init` leaves them here."""
SETTINGS_FILE = Path("/run/bedplate/settings.json")
NETWORK_FILE = Path("/run/systemd/network/10-bedplate.network")

INTERFACE_SECONDS = 60.0
"""How long the named interface is waited for: cards with much firmware take tens of seconds to appear."""
ANSWER_SECONDS = 25.0
"""How long the controller is tried by one interface: a switch port may block for 15 s after its link comes up, and DHCP
takes a few more."""
PAUSE_SECONDS = 0.5


class Interface(msgspec.Struct, frozen=True):
    """A physical network interface as the kernel has it now."""

    name: str
    mac: str
    carrier: bool


def network_file(settings: RamSettings, interface: str) -> str:
    """Configuration of systemd-networkd for one interface."""
    lines = ["[Match]", f"Name={interface}", "", "[Link]", f"MTUBytes={settings.mtu}", "", "[Network]"]
    lines += [f"Address={settings.address}"] if settings.address else ["DHCP=yes"]
    lines += [f"Gateway={settings.gateway}"] if settings.gateway else []
    lines += [f"DNS={server}" for server in settings.name_servers]
    return "\n".join(lines) + "\n"


def named(interfaces: Iterable[Interface], mac: str) -> Interface | None:
    """The interface with this hardware address."""
    return next((i for i in interfaces if mac and i.mac == mac.lower()), None)


def physical(links: Iterable[dict[str, object]], devices: Path = Path("/sys/class/net")) -> list[Interface]:
    """Those of `ip -json link` that are hardware, by name."""
    found: list[Interface] = []
    for link in links:
        name = str(link.get("ifname", ""))
        if (devices / name / "device").exists():
            # The address that the card was made with: the present one may be a bond's or a user's.
            mac = str(link.get("permaddr") or link.get("address") or "")
            flags = link.get("flags")
            found.append(Interface(name, mac.lower(), isinstance(flags, list) and "LOWER_UP" in flags))
    return sorted(found, key=lambda i: i.name)


def used(file: Path = NETWORK_FILE) -> str:
    """Name of the interface that is configured already; empty: none."""
    lines = file.read_text().splitlines() if file.exists() else []
    return next((x.removeprefix("Name=") for x in lines if x.startswith("Name=")), "")


def keep_settings(medium: Path = MEDIUM_COPY, target: Path = SETTINGS_FILE) -> RamSettings:
    """Write the settings where only root reads them. Raises `ValueError` where the medium has none."""
    settings = read_settings(medium.read_bytes())
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(settings))
    part.replace(target)
    return settings


def bring_up(settings: RamSettings) -> Interface:
    """Set up the network by the interface that is named, else by the first that the controller answers on."""
    interface = _awaited(settings.mac) if settings.mac else None
    if interface is not None:
        _use(settings, interface)
        return interface
    if settings.mac:
        log.warning("no interface has the address %s: all with a link are tried", settings.mac)
    for tries in itertools.count():
        # The one that it was before comes first: a restart of the agent must not take its network away.
        for interface in sorted(_with_link(), key=lambda i: i.name != used()):
            log.info("trying %s (%s)", interface.name, interface.mac)
            _use(settings, interface)
            if _answers(settings.enrol.controller):
                return interface
        log.warning("the controller at %s answers on no interface (try %d)", settings.enrol.controller, tries + 1)
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("it is tried for ever")


def _awaited(mac: str) -> Interface | None:
    deadline = time.monotonic() + INTERFACE_SECONDS
    while (found := named(_interfaces(), mac)) is None and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    return found


def _with_link() -> list[Interface]:
    """Interfaces with a link; all are switched on for that, and some take seconds to tell."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        interfaces = _interfaces()
        for interface in interfaces:
            subprocess.run(["ip", "link", "set", interface.name, "up"], check=False)
        found = [i for i in interfaces if i.carrier]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(PAUSE_SECONDS)


def _interfaces() -> list[Interface]:
    done = subprocess.run(["ip", "-json", "link", "show"], capture_output=True, check=True)
    return physical(json.loads(done.stdout or b"[]"))


def _use(settings: RamSettings, interface: Interface) -> None:
    content = network_file(settings, interface.name)
    if NETWORK_FILE.exists() and NETWORK_FILE.read_text() == content:
        return
    NETWORK_FILE.parent.mkdir(parents=True, exist_ok=True)
    NETWORK_FILE.write_text(content)
    NETWORK_FILE.chmod(0o644)
    for other in _interfaces():
        if other.name != interface.name:
            subprocess.run(["ip", "address", "flush", "dev", other.name], check=False)
    subprocess.run(["systemctl", "restart", "systemd-networkd.service"], check=True)


def _answers(controller: str) -> bool:
    host, port = split_address(controller)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=3):
                return True
        except OSError:
            time.sleep(PAUSE_SECONDS)
    return False


def main() -> int:
    """Do it; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        settings = keep_settings()
    except (OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    interface = bring_up(settings)
    log.info("server %s, run %d: the network is up by %s", settings.enrol.server, settings.run, interface.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
