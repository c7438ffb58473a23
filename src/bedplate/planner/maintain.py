"""Servers in maintenance are emptied: live where that can be, one after the other; the rest says why it stays.

Nodes on local disks are rolled out by their pools and control planes, which ask `emptying`.
"""

from __future__ import annotations

from collections import Counter

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ServerName, key
from bedplate.model.report import Waiting
from bedplate.planner import moves, placement, relocation
from bedplate.planner.context import Planning


def emptying(p: Planning, m: MachineEntry) -> str:
    """Why this machine can't stay where it is though it is well, and can't move live; empty: it may stay, or moves."""
    if p.index.fleet.is_shared(m.disk_pool) or not p.index.fleet.server(m.server).in_maintenance(p.now):
        return ""
    if p.paused(p.spec.servers.get(key("server", m.server))):
        return ""
    return f"server {m.server} is in maintenance and its disk is local to it"


def maintain(p: Planning) -> None:
    """Move what can move away from each server in maintenance, within the bounds."""
    servers = [s for s in p.index.fleet.servers.values() if s.maintenance_until > 0.0]
    for s in sorted(servers, key=lambda s: s.name):
        if s.maintenance_until != float("inf"):
            p.at(s.maintenance_until)
        if s.in_maintenance(p.now):
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
        p.wait(key("server", name), Waiting.MAINTENANCE, f"{len(leaving)} machines are still on it: {said}")


def _move(p: Planning, m: MachineEntry) -> str:
    """Have one machine go; where it can't now, say why and give that in few words."""
    if m.desired not in {"run", "stop", "manual"}:
        return "are leaving for good"
    if not p.index.fleet.is_shared(m.disk_pool):
        if m.is_node:
            return "are replaced by their owners, since their disks are local"
        p.wait(m.key, Waiting.NOT_MOVABLE, f"its disk is local to {m.server}, which is in maintenance: shut it down")
        return "have local disks and stay: shut them down, or delete them"
    if not p.usable(m.server) or p.busy(m.key):
        return "wait for a step on them to end"
    if reason := relocation.paused(p, m):
        p.wait(m.key, Waiting.PAUSED, f"it would move away from {m.server}, but {reason}")
        return "are paused"
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
    moves.begin(p, m, place.server, f"server {m.server} is in maintenance")
    return ""
