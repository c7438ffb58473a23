"""A physical server as its RAM system found it: hardware, tests, what was written, what was erased."""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.model.ids import Digest, Generation, MachineUid


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk by what stays with it; its name in the running kernel says nothing after the next boot."""

    serial: str
    """As the disk says itself; empty: it has none, and Bedplate never writes it."""
    wwn: str = ""
    model: str = ""
    size: int
    """Bytes."""
    transport: str = ""
    """`nvme`, `sata`, `sas`, `virtio`, `usb` ..., as udev has it."""
    rotational: bool = False
    name: str = ""
    """`nvme0n1` in the boot in which it was inspected: for eyes."""
    health: Literal["", "ok", "failing"] = ""
    """Its own word (SMART, NVMe log); empty: it does not say."""
    content: tuple[str, ...] = ()
    """Signatures found on it, such as `gpt`, `ext4 root`; empty: it looks blank."""


class NetworkCard(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface."""

    mac: str
    name: str = ""
    speed: int = 0
    """Mbit/s; 0: unknown or no carrier."""
    carrier: bool = False
    boot: bool = False
    """The RAM system reached the controller by it."""
    neighbour: str = ""
    """`switch port`, as LLDP told it."""


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the server with its own software."""

    name: str
    """`bios`, `bmc`, `nic eno1`, `disk nvme0n1` ..."""
    version: str
    model: str = ""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What the RAM system found in a server."""

    vendor: str = ""
    product: str = ""
    serial: str = ""
    cpu_model: str = ""
    sockets: int = 0
    cores: int = 0
    threads: int = 0
    numa_nodes: int = 0
    memory_mib: int = 0
    memory_banks: tuple[str, ...] = ()
    """One for each module: `DIMM_A1 32768 MiB 3200 MT/s`."""
    disks: tuple[Disk, ...] = ()
    nics: tuple[NetworkCard, ...] = ()
    gpus: tuple[str, ...] = ()
    firmware: tuple[Component, ...] = ()
    secure_boot: bool | None = None
    """None: it can't be told."""
    problems: tuple[str, ...] = ()
    """What is wrong, one sentence each: a disk without a serial number, two of one, no carrier anywhere."""

    def disk(self, serial: str) -> Disk | None:
        """The one disk of that serial number; None where there is none, or more than one."""
        found = [d for d in self.disks if d.serial == serial]
        return found[0] if serial and len(found) == 1 else None


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A server as its BMC describes it, before anything is booted there; empty and 0: it does not say."""

    vendor: str = ""
    product: str = ""
    serial: str = ""
    bios: str = ""
    """Version."""
    cpu_model: str = ""
    sockets: int = 0
    threads: int = 0
    memory_mib: int = 0
    macs: tuple[str, ...] = ()
    """Of its network cards, in lower case."""


Verdict = Literal["passed", "degraded", "failed"]
Suite = Literal["quick", "burn-in"]


class ServerTest(msgspec.Struct, frozen=True, kw_only=True):
    """How one test ended."""

    name: str
    """`cpu`, `memory`, `disk <serial>`, `network <mac>`."""
    verdict: Verdict
    value: float = 0.0
    unit: str = ""
    detail: str = ""


class ServerTests(msgspec.Struct, frozen=True, kw_only=True):
    """How a suite ended; times in seconds since the epoch."""

    suite: Suite
    tests: tuple[ServerTest, ...]
    began: float
    ended: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        found = {t.verdict for t in self.tests}
        return "failed" if "failed" in found else "degraded" if "degraded" in found else "passed"


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What stands on the server's disk, by the marker that was written last."""

    uid: MachineUid
    generation: Generation
    digest: Digest
    serial: str
    """Of the disk."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """One disk's certificate of erasure."""

    serial: str
    wwn: str = ""
    model: str = ""
    size: int = 0
    method: str = ""
    """`nvme format --ses=1`, `blkdiscard -z`, `overwrite`: the strongest that the disk has and that read back clean."""
    erased: bool
    """True: what was read back afterwards, `checked` bytes of it, is blank."""
    checked: int = 0
    detail: str = ""
    began: float = 0.0
    ended: float = 0.0


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure of a server's disks: proven where every disk's is."""

    machine: MachineUid
    """The machine that was there last; empty: none that is known."""
    disks: tuple[Erasure, ...]

    @property
    def proven(self) -> bool:
        """True where every disk was read back blank, and there was one."""
        return bool(self.disks) and all(d.erased for d in self.disks)
