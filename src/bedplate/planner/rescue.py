"""Machines of confirmed dead servers, on shared disks: the same machine is started again on another server.

Over the whole fleet in one order, control planes first, then by priority; few at a time, so that the survivors and the
storage are not drowned. Machines on local disks are replaced by their owners instead.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from bedplate.model.blueprint import MachineEntry, ServerEntry
from bedplate.model.ids import ServerName, key
from bedplate.model.report import Waiting
from bedplate.model.whereabouts import ALIVE
from bedplate.planner import placement, relocation
from bedplate.planner.context import Planning

_AGAIN = 1.0
"""Seconds after which who waits for a turn is looked at again: starts take a few seconds each."""


def stranded(p: Planning) -> list[MachineEntry]:
    """Machines on shared disks whose server is dead, in the order of their recovery."""
    dead = [e.server for e in p.index.entries_of_servers() if e.standing == "dead"]
    found = [m for name in dead for m in p.index.by_server.get(name, {}).values() if recoverable(p, m)]
    return sorted(found, key=lambda m: (m.role != "control-plane", -m.priority, m.created, m.uid))


def recoverable(p: Planning, m: MachineEntry) -> bool:
    """It is to be up, its server is dead, and its disk is reached from others too. One that moves runs at the other end
    as long as that is not dead too."""
    ended = p.dead(m.server) and (not m.source or p.dead(m.source))
    return m.desired in {"run", "stop", "manual"} and ended and p.index.fleet.is_shared(m.disk_pool)


def rescue(p: Planning) -> None:
    """Give stranded machines new servers, as many as may start at once."""
    waiting = stranded(p)
    if not waiting:
        return
    starting = _starting(p)
    for m in waiting:
        reason = relocation.paused(p, m)
        if reason:
            p.wait(m.key, Waiting.PAUSED, f"its server {m.server} is dead; it would be started elsewhere, but {reason}")
        elif first := _starts_after(p, m):
            p.wait(m.key, Waiting.RECOVERY_TURN, f"its server {m.server} is dead; it starts after {first}")
            p.at(p.now + _AGAIN)
        elif starting.total() >= p.policy.recover_at_once:
            p.wait(
                m.key, Waiting.RECOVERY_TURN, f"its server {m.server} is dead; {starting.total()} others start first"
            )
            p.at(p.now + _AGAIN)
        elif target := _start_elsewhere(p, m, starting):
            starting[target] += 1


def _starting(p: Planning) -> Counter[ServerName]:
    """Machines that were given a new server and do not run there yet, by that server."""
    found: Counter[ServerName] = Counter()
    for m in p.index.carried():
        if m.source or m.desired != "run" or p.dead(m.server):
            continue
        seen = p.inventory.domain(m.server, m.uid)
        if seen is None or seen.value.boot < m.boot or seen.value.state not in ALIVE:
            found[m.server] += 1
    return found


def _start_elsewhere(p: Planning, m: MachineEntry, starting: Counter[ServerName]) -> ServerName | None:
    busy = frozenset(name for name, n in starting.items() if n >= p.policy.recover_per_server)
    place = relocation.find(p, m, busy, must=True)
    if place is None and busy:
        p.wait(m.key, Waiting.RECOVERY_TURN, f"its server {m.server} is dead; the others are starting enough already")
        p.at(p.now + _AGAIN)
        return None
    if place is None:
        placement.wait_for_room(p, m.key, relocation.request(p, m), f"its server {m.server} is dead; {m.name} is down")
        return None
    lost = p.lost(m.server)
    assert isinstance(lost, ServerEntry)
    reason = f"its server {m.server} died ({lost.by} confirmed it)"
    carried = _has_disk(p, m)
    moved = msgspec.structs.replace(
        m, server=place.server, source=ServerName(""), carried=carried, reason=reason, cpu_model=relocation.cold(p, m)
    )
    if m.desired == "run":
        moved = msgspec.structs.replace(moved, boot=m.boot + 1)
    p.put(moved, f"{m.name} is started on {place.server}: {reason}")
    return place.server


def _has_disk(p: Planning, m: MachineEntry) -> bool:
    """Its disk was made. What died before that begins anew elsewhere; making a disk keeps one that is there already."""
    seen = any(o.value.volume for o in p.inventory.domains(m.uid))
    return seen or m.joined or m.carried or p.attempt(m.key, "CreateVolume").succeeded > 0


def _starts_after(p: Planning, m: MachineEntry) -> str:
    """Whom it waits for, as its VirtualMachine says; empty: nobody, or nobody any longer."""
    v = p.spec.virtual_machines.get(m.owner)
    lost = p.lost(m.server)
    if v is None or not v.spec.after or lost is None:
        return ""
    until = lost.confirmed + p.policy.after_limit
    if p.now >= until:
        return ""
    p.at(until)
    for name in v.spec.after:
        for other in p.index.by_owner.get(key("virtualmachine", v.metadata.namespace, name), {}).values():
            seen = p.domain(other)
            up = seen is not None and seen.value.state == "running" and seen.value.boot >= other.boot
            if other.image.bootstrap == "guest-agent":
                up = up and seen is not None and seen.value.guest_agent
            if other.desired == "run" and other.uid != m.uid and not (up and p.usable(other.server)):
                return other.name
    return ""
