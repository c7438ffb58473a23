"""What a lab is made of, and the file that remembers it. Knows no process and no interface; only names and numbers.

The state file is written before each effect, so it may name things that are not there yet, but never misses one that
is.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from bedplate.lab.errors import LabError
from bedplate.lab.faults import FaultKind, KeptFault

STATE_VERSION = 1
STATE_FILE = "state.json"
MOST_HYPERVISORS = 32
MOST_SERVERS = 32
LEAST_MEMORY, MOST_MEMORY = 512, 65536
"""MiB of a bare server: UEFI itself needs 256, and a system that is all in memory more."""
MOST_FOLDER_BYTES = 70
"""The longest path of a lab's folder: a Unix socket's path may have 107 bytes, and the longest below it needs 36."""
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")

Power = Literal["on", "off", "frozen"]
Link = Literal["up", "down"]


class LabNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The addresses inside the lab. The offsets count from the network's own address."""

    cidr: str = "10.88.0.0/24"
    mtu: int = 1500
    first_hypervisor: int = 11
    machines: tuple[int, int] = (100, 199)
    """First and last offset for virtual machines: what the `Network` object's range should name."""
    vips: tuple[int, int] = (200, 219)
    """First and last offset for control-plane addresses."""

    def check(self) -> None:
        """Raise LabError when the network is none that a lab can use."""
        try:
            net = ipaddress.IPv4Network(self.cidr)
        except ValueError as error:
            raise LabError(
                f"the lab's network {self.cidr!r} is no IPv4 network: {error}; 10.88.0.0/24 is one"
            ) from None
        if net.num_addresses < 256:
            raise LabError(f"the lab's network {self.cidr} is too small: it needs a prefix of /24 or shorter")
        if not 1280 <= self.mtu <= 9000:
            raise LabError(f"the lab's MTU {self.mtu} must be between 1280 and 9000")

    @property
    def prefix(self) -> int:
        """Length of the network's prefix."""
        return ipaddress.IPv4Network(self.cidr).prefixlen

    def at(self, offset: int) -> str:
        """Give the address at that offset."""
        return str(ipaddress.IPv4Network(self.cidr)[offset])

    @property
    def gateway(self) -> str:
        """Address of the switch namespace: gateway of the guests, where agents dial the controller."""
        return self.at(1)

    @property
    def machine_range(self) -> str:
        """`FIRST-LAST` for machines."""
        return f"{self.at(self.machines[0])}-{self.at(self.machines[1])}"

    @property
    def vip_range(self) -> str:
        """`FIRST-LAST` for control-plane addresses."""
        return f"{self.at(self.vips[0])}-{self.at(self.vips[1])}"


class ProcessId(msgspec.Struct, frozen=True):
    """One process for certain: its id, when it was started (clock ticks since boot), and in which boot of the host."""

    pid: int
    started: int
    boot: str


class BmcState(msgspec.Struct):
    """A hypervisor's BMC as remembered."""

    port: int
    """On the host's loopback; kept, for the controller knows it."""
    process: ProcessId | None = None


class HypervisorState(msgspec.Struct):
    """One hypervisor as remembered."""

    name: str
    address: str
    mac: str
    host_uuid: str
    power: Power = "off"
    uplink: Link = "up"
    process: ProcessId | None = None
    bmc: BmcState | None = None
    watchdog: ProcessId | None = None
    faults: dict[FaultKind, KeptFault] = {}


class MetalDisk(msgspec.Struct, frozen=True):
    """One disk of a bare server: a sparse file of the lab."""

    bus: Literal["virtio", "sata", "nvme"]
    size: int
    """Bytes."""
    serial: str


BootTarget = Literal["None", "Pxe", "Cd", "Hdd"]
"""Redfish's words for what a server boots from first."""


class MetalState(msgspec.Struct):
    """One bare server as remembered. Whether it has power nobody remembers: it has while its process runs."""

    name: str
    host_uuid: str
    macs: tuple[str, ...]
    disks: tuple[MetalDisk, ...]
    memory: int = 2048
    """MiB."""
    cpus: int = 2
    boot: BootTarget = "None"
    """The override of its boot order."""
    boot_once: bool = False
    """Whether the next boot ends the override."""
    medium: str = ""
    """URL that the medium in its CD drive came from; empty: no medium."""
    dark: bool = False
    """Whether it ran when a fault took its power, and nobody has switched it off since."""
    process: ProcessId | None = None
    bmc: BmcState | None = None
    faults: dict[FaultKind, KeptFault] = {}


class LabState(msgspec.Struct):
    """All that a lab remembers."""

    uid: str
    network: LabNetwork
    version: int = STATE_VERSION
    phase: Literal["rising", "up", "falling"] = "rising"
    kvm: bool = False
    socks_port: int = 0
    relays: dict[str, int] = {}
    """Port at the lab's gateway address -> port on the host's loopback."""
    switch: ProcessId | None = None
    gateway: ProcessId | None = None
    hypervisors: dict[str, HypervisorState] = {}
    servers: dict[str, MetalState] = {}
    """Bare servers."""


def default_root() -> Path:
    """Folder of all labs of this user."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(state) / "bedplate" / "lab"


def check_name(name: str) -> None:
    """Raise LabError when a lab cannot be called so."""
    if not NAME.fullmatch(name):
        raise LabError(f"a lab cannot be named {name!r}: at most 20 lower-case letters, digits and '-' inside")


def check_ports(relays: Mapping[int, int]) -> None:
    """Raise LabError for a number that is no port."""
    for port in (*relays.keys(), *relays.values()):
        if not 1 <= port <= 65535:
            raise LabError(f"{port} is no port: a port is a number from 1 to 65535")


def check_folder(folder: Path) -> None:
    """Raise LabError when the folder's path is too long for the sockets below it."""
    if len(os.fsencode(folder)) > MOST_FOLDER_BYTES:
        raise LabError(
            f"the lab's folder {folder} has a path of more than {MOST_FOLDER_BYTES} bytes, too long for the sockets in"
            " it: name a shorter one (XDG_STATE_HOME)"
        )


def cgroup_name(folder: Path, name: str) -> str:
    """Name of the lab's cgroup; it follows from the folder, so that it is found even without a state file."""
    return f"bedplate-lab-{name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def new_hypervisor(state: LabState, index: int) -> HypervisorState:
    """Name, address and identity of the hypervisor with that index (from 0)."""
    name = f"hv{index + 1}"
    digest = hashlib.sha256(f"{state.uid}/{name}".encode()).digest()
    return HypervisorState(
        name=name,
        address=state.network.at(state.network.first_hypervisor + index),
        mac="02:bd:" + ":".join(f"{byte:02x}" for byte in digest[:4]),
        host_uuid=str(uuid.uuid5(uuid.UUID(state.uid), name)),
    )


def new_server(state: LabState, index: int, memory: int = 2048) -> MetalState:
    """Name, identity, cards and disks of the bare server with that index (from 0); `memory` in MiB."""
    name = f"metal{index + 1}"
    digest = hashlib.sha256(f"{state.uid}/{name}".encode()).digest()
    tail = ":".join(f"{byte:02x}" for byte in digest[:3])
    return MetalState(
        name=name,
        host_uuid=str(uuid.uuid5(uuid.UUID(state.uid), name)),
        macs=(f"02:be:00:{tail}", f"02:be:01:{tail}"),
        disks=(
            MetalDisk("virtio", 12 << 30, f"BP{digest[3:7].hex().upper()}A"),
            MetalDisk("nvme", 4 << 30, f"BP{digest[3:7].hex().upper()}B"),
        ),
        memory=memory,
    )


def load(folder: Path) -> LabState | None:
    """Read the state file; None when there is none."""
    path = folder / STATE_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = msgspec.json.decode(data, type=LabState)
    except msgspec.MsgspecError as error:
        raise LabError(f"{path} cannot be read ({error}): `bedplate lab down` removes this lab all the same") from None
    if state.version != STATE_VERSION:
        raise LabError(
            f"{path} has version {state.version} and this Bedplate knows {STATE_VERSION}: end that lab with"
            " `bedplate lab down`, then bring it up anew"
        )
    return state


def save(folder: Path, state: LabState) -> None:
    """Replace the state file, so that a reader or a crash sees the old or the new one, whole."""
    handle, temporary = tempfile.mkstemp(prefix=".state-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=2))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / STATE_FILE)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
