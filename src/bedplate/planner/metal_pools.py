"""Which bare server a node pool gets: it fits, it is available; spread over failure domains, then the least wasted.

Claiming is two entries at once: the machine's, and the server's with `deploying`. One server backs one machine.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from bedplate.model import quantity
from bedplate.model.blueprint import MachineEntry, MetalEntry
from bedplate.model.ids import Key, key
from bedplate.model.kinds.infrastructure import RootDisk
from bedplate.model.labels import matches
from bedplate.model.metal import Disk
from bedplate.model.report import Rejection, Waiting
from bedplate.planner import machines
from bedplate.planner.context import Planning
from bedplate.planner.machines import Mold
from bedplate.planner.placement import Place

_SERVERS_SHOWN = 100
_MIB = 2**20


def claim(p: Planning, mold: Mold, on_domains: Counter[str], what: str, why: str) -> MachineEntry | None:
    """Claim the best server for one machine of the mold; None (and a wait on the owner) where there is none."""
    found: list[tuple[int, int, int, str, MetalEntry, Disk]] = []
    refused: dict[str, Rejection] = {}
    for entry in sorted(p.index.all_metal(), key=lambda e: e.server):
        disk = _fits(p, entry, mold)
        if isinstance(disk, Rejection):
            refused[entry.server] = disk
            continue
        assert entry.hardware is not None
        crowd = on_domains[_domain(p, entry, mold.spread)]
        found.append((crowd, entry.hardware.memory_mib, entry.hardware.threads, entry.server, entry, disk))
    if not found:
        _wait(p, mold.owner, what, refused)
        return None
    _, _, _, _, entry, disk = min(found, key=lambda f: f[:4])
    assert entry.hardware is not None
    size = machines.Size(entry.hardware.threads, entry.hardware.memory_mib, disk.size // _MIB)
    m = machines.create(
        p, msgspec.structs.replace(mold, size=size), Place(entry.server, ""), why, mac=entry.nic.mac, substrate="metal"
    )
    if m is None:
        return None
    claimed = msgspec.structs.replace(
        entry,
        state="deploying",
        since=p.now,
        run=entry.run + 1,
        tries=0,
        machine=m.uid,
        root_disk=disk.serial,
        written=False,
        reason=f"it is claimed for {m.name}",
    )
    p.put(claimed, f"{entry.server} is deploying: it is claimed for {m.name}")
    p.round_changed.add(entry.key)
    on_domains[_domain(p, entry, mold.spread)] += 1
    return m


def _domain(p: Planning, entry: MetalEntry, spread: str) -> str:
    return p.index.fleet.server(entry.server).domains.get(spread, "") if spread else ""


def _fits(p: Planning, entry: MetalEntry, mold: Mold) -> Disk | Rejection:
    """The disk that it would be written to, or why this server can't take such a machine now."""
    state = p.index.fleet.server(entry.server)
    declared = p.spec.servers.get(key("server", entry.server))
    hardware = entry.hardware
    if declared is None or entry.state != "available" or hardware is None or p.busy(entry.key):
        return Rejection.NOT_AVAILABLE
    if state.unschedulable or p.paused(declared) or declared.spec.metal.retired:
        return Rejection.UNSCHEDULABLE
    if state.in_maintenance(p.now):
        return Rejection.MAINTENANCE
    if state.failing:
        return Rejection.UNHEALTHY
    if not matches(mold.shape.match, state.labels):
        return Rejection.NO_MATCH
    if entry.nic.network != mold.network or not entry.nic.mac:
        return Rejection.NO_NETWORK
    if hardware.memory_mib < mold.size.memory_mib:
        return Rejection.NO_MEMORY
    if hardware.threads < mold.size.cpu:
        return Rejection.NO_CPU
    return root_disk(hardware.disks, declared.spec.metal.root_disk, mold.size.disk_mib) or Rejection.NO_ROOT_DISK


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


def _wait(p: Planning, owner: Key, what: str, refused: dict[str, Rejection]) -> None:
    counts = Counter(refused.values())
    shown = ", ".join(f"{n} {reason.value}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    where = f"no accepted server of {len(refused)} can take it ({shown})" if refused else "no bare server is accepted"
    first = dict(list(refused.items())[:_SERVERS_SHOWN])
    p.wait(owner, Waiting.NO_ROOM, f"{what}: {where}", rejections=dict(counts), servers=first)
