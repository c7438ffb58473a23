"""What can be broken in a lab on purpose: the kinds of faults, as values. Breaks nothing itself.

A fault is kept in the lab's state before it takes effect, so that it can be undone after a crash at any point.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.lab.errors import LabError

FaultKind = Literal["power-off", "power-feed", "hang", "libvirt-hang", "partition", "slow-disk", "bmc"]
KINDS: tuple[FaultKind, ...] = ("power-off", "power-feed", "hang", "libvirt-hang", "partition", "slow-disk", "bmc")
NEED_POWER: frozenset[FaultKind] = frozenset({"hang", "libvirt-hang"})
"""Only a server that runs can have these, and they end when its power is cut: a process that is gone hangs no more."""
LEAST_RATE = 4096
"""Bytes a second: one block. Less would be no slow disk but a dead one."""


class PowerOff(msgspec.Struct, frozen=True, tag_field="kind", tag="power-off"):
    """The server has lost its power; its BMC, on a feed of its own, tells so."""


class PowerFeed(msgspec.Struct, frozen=True, tag_field="kind", tag="power-feed"):
    """The server has lost its power, and its BMC with it."""


class Hang(msgspec.Struct, frozen=True, tag_field="kind", tag="hang"):
    """All of the server's own programs stand still; its guests run on."""


class LibvirtHang(msgspec.Struct, frozen=True, tag_field="kind", tag="libvirt-hang"):
    """libvirtd alone stands still; agent and guests run on."""


class Partition(msgspec.Struct, frozen=True, tag_field="kind", tag="partition"):
    """The server's network is cut; all of it runs on."""

    storage: bool = False
    """The way to the shared disk pool is cut too."""


class SlowDisk(msgspec.Struct, frozen=True, tag_field="kind", tag="slow-disk"):
    """The server reads and writes its disks so fast and no faster; bytes a second."""

    rate: int = 1 << 20


class BmcFault(msgspec.Struct, frozen=True, tag_field="kind", tag="bmc"):
    """The BMC is slow, flaky, deaf or says what is not so."""

    delay: float = 0.0
    """Seconds before each answer."""
    drop: float = 0.0
    """Share of requests, from 0 to 1, whose connection ends unanswered. Half of them are carried out all the same."""
    error: int = 0
    """Every request is answered with this HTTP status."""
    lie: Literal["", "on", "off"] = ""
    """What it gives as the power state, whatever that is."""
    deaf: bool = False
    """It accepts power orders and does nothing."""
    health: Literal["", "Warning", "Critical"] = ""
    problem: str = ""
    """What it says is wrong."""


Fault = PowerOff | PowerFeed | Hang | LibvirtHang | Partition | SlowDisk | BmcFault


class KeptFault(msgspec.Struct, frozen=True):
    """A fault as the lab's state keeps it."""

    fault: Fault
    since: float
    """Seconds since the epoch."""


def kind(fault: Fault) -> FaultKind:
    """Give a fault's kind."""
    return type(fault).__struct_config__.tag  # type: ignore[return-value]


def check(fault: Fault) -> None:
    """Raise LabError for a fault that can't be."""
    if isinstance(fault, SlowDisk) and fault.rate < LEAST_RATE:
        raise LabError(f"a disk of {fault.rate} bytes a second is none: give at least {LEAST_RATE}")
    if not isinstance(fault, BmcFault):
        return
    if fault == BmcFault():
        raise LabError("say what is wrong with the BMC: --delay, --drop, --error, --lie, --deaf or --health")
    if not 0 <= fault.drop <= 1:
        raise LabError(f"{fault.drop:.0%} of the requests can't be dropped: give 0% to 100%")
    if fault.error and not 400 <= fault.error <= 599:
        raise LabError(f"{fault.error} is no HTTP status of an error: give 400 to 599")
    if not 0 <= fault.delay <= 3600:
        raise LabError(f"a delay of {fault.delay:g} s can't be: give at most an hour")
    if fault.problem and not fault.health:
        raise LabError("a problem needs a health: --health Warning or --health Critical")


def describe(fault: Fault) -> str:
    """Give a fault as a few words for eyes, such as `partition (with storage)`."""
    words: list[str] = []
    match fault:
        case Partition(storage=True):
            words = ["with storage"]
        case SlowDisk(rate=rate):
            words = [f"{rate >> 10} KiB/s"]
        case BmcFault():
            words = _bmc_words(fault)
        case _:
            pass
    return f"{kind(fault)} ({', '.join(words)})" if words else kind(fault)


def _bmc_words(fault: BmcFault) -> list[str]:
    return [
        words
        for there, words in (
            (fault.delay, f"{fault.delay:g} s late"),
            (fault.drop, f"drops {fault.drop:.0%}"),
            (fault.error, f"answers {fault.error}"),
            (fault.lie, f"says {fault.lie}"),
            (fault.deaf, "deaf"),
            (fault.health, fault.health + (f": {fault.problem}" if fault.problem else "")),
        )
        if there
    ]
