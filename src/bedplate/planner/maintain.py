"""Servers in maintenance, with failing hardware or soon with another role are emptied: live where it can be, in turns.

What can't go says why. Nodes on local disks are rolled out by their pools and control planes, which ask `emptying`.
"""

from __future__ import annotations

from collections import Counter

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ServerName, key
from bedplate.model.report import Waiting, still_there
from bedplate.planner import moves, placement, relocation
from bedplate.planner.context import Planning
from bedplate.planner.servers import MANY


def emptying(p: Planning, m: MachineEntry) -> str:
    """Why this machine can't stay where it is though it is well, and can't move live; empty: it may stay, or moves."""
    server = p.index.fleet.emptied.get(m.server)
    why = server.emptied_because(p.now) if server is not None else ""
    if not why or p.index.fleet.is_shared(m.disk_pool) or p.paused(p.spec.servers.get(key("server", m.server))):
        return ""
    return f"server {m.server} {why} and its disk is local to it"


def maintain(p: Planning) -> None:
    """Move what can move away from each server in maintenance, within the bounds."""
    servers = list(p.index.fleet.emptied.values())
    critical = [s for s in servers if s.failing == "critical" and not s.in_maintenance(p.now)]
    hypervisors = p.index.fleet.hypervisors
    many = len(critical) > max(1, MANY * hypervisors)
    for s in sorted(servers, key=lambda s: s.name):
        if s.maintenance_until != float("inf"):
            p.at(s.maintenance_until)
        if many and s in critical:
            said = f"{len(critical)} of {hypervisors} servers say that their hardware fails, which may not be so"
            p.wait(key("server", s.name), Waiting.ACCEPTANCE, f"{said}: it is not emptied by itself; use maintenance")
        elif s.emptied_because(p.now):
            _empty(p, s.name)


def _empty(p: Planning, name: ServerName) -> None:
    declared = p.spec.servers.get(key("server", name))
    leaving = [m for m in p.index.by_server.get(name, {}).values() if m.server == name and not m.source]
    if paused := p.paused(declared):
        if leaving:
            p.wait(key("server", name), Waiting.PAUSED, f"{len(leaving)} machines would move away; {paused}")
        return
    stuck: Counter[str] = Counter()
    for m in sorted(leaving, key=lambda m: (m.role == "control-plane", m.memory_mib, m.uid)):
        why = _move(p, m)
        if why:
            stuck[why] += 1
    if leaving:
        said = "; ".join(f"{n} {why}" for why, n in sorted(stuck.items())) or "the last ones are moving"
        p.wait(key("server", name), Waiting.MAINTENANCE, f"{still_there(len(leaving))}: {said}")


def _move(p: Planning, m: MachineEntry) -> str:
    """Have one machine go; where it can't now, say why and give that in few words."""
    if m.desired not in {"run", "stop", "manual"}:
        return "are leaving for good"
    if not p.index.fleet.is_shared(m.disk_pool):
        if m.is_node:
            return "are replaced by their owners, since their disks are local"
        why = p.index.fleet.server(m.server).emptied_because(p.now)
        p.wait(m.key, Waiting.NOT_MOVABLE, f"its disk is local to {m.server}, which {why}: shut it down")
        return "have local disks and stay: shut them down, or delete them"
    if not p.usable(m.server) or p.busy(m.key):
        return "wait for a step on them to end"
    if reason := relocation.paused(p, m):
        p.wait(m.key, Waiting.PAUSED, f"it would move away from {m.server}, but {reason}")
        return "are paused"
    if reason := moves.failed_lately(p, m):
        p.wait(m.key, Waiting.NOT_MOVABLE, f"it can't leave {m.server} now: {reason}")
        return "could not be moved and run on"
    limit = p.policy.moves_per_server
    if p.index.fleet.server(m.server).moving >= limit:
        return "wait for their turn to move"
    full = frozenset(s.name for s in p.index.fleet.servers.values() if s.moving >= limit)
    place = relocation.find(p, m, full)
    if place is None and full - {m.server}:
        return "wait for their turn to move"
    if place is None:
        placement.wait_for_room(p, m.key, relocation.request(p, m), f"{m.name} can't leave {m.server}")
        return "find no room elsewhere"
    moves.begin(p, m, place.server, f"server {m.server} {p.index.fleet.server(m.server).emptied_because(p.now)}")
    return ""
