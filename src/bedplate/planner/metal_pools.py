"""Which bare server a node pool gets: it fits, it is available; spread over failure domains, then one whose
tests are not degraded, then the least wasted.

Claiming is two entries at once: the machine's, and the server's with `deploying`. One server backs one machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from bedplate.model import quantity
from bedplate.model.blueprint import MetalEntry
from bedplate.model.ids import key
from bedplate.model.kinds.infrastructure import RootDisk
from bedplate.model.labels import matches
from bedplate.model.metal import Disk
from bedplate.model.report import Rejection, Wanted
from bedplate.model.whereabouts import role_of
from bedplate.planner import machines, peers, placement
from bedplate.planner.context import Planning
from bedplate.planner.machines import Mold
from bedplate.planner.placement import Place

_MIB = 2**20


class _Fit(NamedTuple):
    """A server that fits: well ones first, then by how little it wastes."""

    degraded: bool
    memory_mib: int
    threads: int
    server: str
    entry: MetalEntry
    disk: Disk


def claim(p: Planning, mold: Mold, count: int, on_domains: Counter[str], what: Callable[[int], str], why: str) -> None:
    """Claim the best servers for so many machines of the mold; waits on the owner where there are too few.

    `what` says what is not done where so many are left.
    """
    fitting: dict[str, list[_Fit]] = {}
    refused: dict[str, Rejection] = {}
    for entry in p.index.all_metal():
        fit = _fits(p, entry, mold)
        if isinstance(fit, Rejection):
            refused[entry.server] = fit
        else:
            fitting.setdefault(_domain(p, entry, mold.spread), []).append(fit)
    for fits in fitting.values():
        fits.sort(key=lambda f: f[:4], reverse=True)  # the best is the last
    for left in range(count, 0, -1):
        if not fitting:
            nobody = "no bare server is accepted"
            placement.refused(
                p, mold.owner, what(left), dict(sorted(refused.items())), _wanted(mold), "accepted server", nobody
            )
            return
        domain = min(fitting, key=lambda d: (on_domains[d], fitting[d][-1][:4]))
        best = fitting[domain].pop()
        if not fitting[domain]:
            del fitting[domain]
        if not _claim(p, mold, best, why):
            return
        refused[best.server] = Rejection.NOT_AVAILABLE
        on_domains[domain] += 1


def _wanted(mold: Mold) -> Wanted:
    size, match = mold.size, mold.shape.match
    return Wanted(substrate="metal", cpu=size.cpu, memory_mib=size.memory_mib, network=mold.network, match=match)


def _claim(p: Planning, mold: Mold, fit: _Fit, why: str) -> bool:
    """False (and a wait on the owner) where the network is full."""
    entry = fit.entry
    size = machines.Size(fit.threads, fit.memory_mib, fit.disk.size // _MIB)
    m = machines.create(
        p, msgspec.structs.replace(mold, size=size), Place(entry.server, ""), why, mac=entry.nic.mac, substrate="metal"
    )
    if m is None:
        return False
    claimed = msgspec.structs.replace(
        entry,
        state="deploying",
        since=p.now,
        run=entry.run + 1,
        tries=0,
        machine=m.uid,
        root_disk=fit.disk.serial,
        written=False,
        reason=f"it is claimed for {m.name}",
    )
    p.put(claimed, f"{entry.server} is deploying: it is claimed for {m.name}")
    p.round_changed.add(entry.key)
    return True


def _domain(p: Planning, entry: MetalEntry, spread: str) -> str:
    return p.index.fleet.server(entry.server).domains.get(spread, "") if spread else ""


def _fits(p: Planning, entry: MetalEntry, mold: Mold) -> _Fit | Rejection:
    """The server with the disk that it would be written to, or why it can't take such a machine now."""
    state = p.index.fleet.server(entry.server)
    declared = p.spec.servers.get(key("server", entry.server))
    hardware = entry.hardware
    host = declared is not None and role_of(declared, entry) == "hypervisor"
    if declared is None or host or entry.state != "available" or hardware is None or p.busy(entry.key):
        return Rejection.NOT_AVAILABLE
    if state.unschedulable or p.paused(declared) or declared.spec.metal.retired:
        return Rejection.UNSCHEDULABLE
    if state.in_maintenance(p.now):
        return Rejection.MAINTENANCE
    if state.failing:
        return Rejection.UNHEALTHY
    degraded = bool(peers.degraded(entry.tests))
    if degraded and not p.spec.fleet.metal.claim_degraded:
        return Rejection.DEGRADED
    if not matches(mold.shape.match, state.labels):
        return Rejection.NO_MATCH
    if entry.nic.network != mold.network or not entry.nic.mac:
        return Rejection.NO_NETWORK
    if hardware.memory_mib < mold.size.memory_mib:
        return Rejection.NO_MEMORY
    if hardware.threads < mold.size.cpu:
        return Rejection.NO_CPU
    disk = root_disk(hardware.disks, declared.spec.metal.root_disk, mold.size.disk_mib)
    if disk is None:
        return Rejection.NO_ROOT_DISK
    return _Fit(degraded, hardware.memory_mib, hardware.threads, entry.server, entry, disk)


def root_disk(disks: tuple[Disk, ...], hints: RootDisk, room_mib: int) -> Disk | None:
    """The disk to write to: told apart for certain, well, large enough, as the hints say; the smallest of these."""
    serials = Counter(d.serial for d in disks)
    least = max(quantity.parse_mib(hints.min_size) if hints.min_size else 0, room_mib) * _MIB
    fitting = [
        d
        for d in disks
        if d.serial
        and serials[d.serial] == 1
        and d.health != "failing"
        and d.transport != "usb"
        and d.size >= least
        and hints.serial in {"", d.serial}
        and hints.wwn in {"", d.wwn}
        and hints.transport in {"", d.transport}
        and hints.model in d.model
    ]
    return min(fitting, key=lambda d: (d.rotational, d.size, d.serial), default=None)
