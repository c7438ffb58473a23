"""The end of a machine: drained, removed, and its entry dropped once nothing of it is left in the world.

Who leaves is decided elsewhere; here it only takes its course, and what can't be seen is waited for.
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import MachineEntry, RetainedDiskEntry
from bedplate.model.ids import Key, ServerName, key
from bedplate.model.inventory import DomainView
from bedplate.model.report import Waiting
from bedplate.model.whereabouts import left_as_learner, left_on_pool
from bedplate.planner import metal
from bedplate.planner.context import Planning
from bedplate.planner.scope import Scope

_DRAIN_SLACK = 60.0
"""Seconds past the drain's own limit before the machine goes undrained: the driver ends the drain by itself first."""


def leave(
    p: Planning, m: MachineEntry, sentence: str, *, retain_disk: bool = False, drain: bool = True
) -> MachineEntry:
    """Begin a machine's end: through a drain where it is a node, else at once."""
    desired = "drain" if drain and m.is_node and m.joined else "remove"
    entry = msgspec.structs.replace(m, desired=desired, retain_disk=m.retain_disk or retain_disk, reason=sentence)
    return p.put(entry, f"{m.name} is to go: {sentence}")


def advance_cluster(p: Planning, unit: Key) -> None:
    """Take a cluster's leaving machines as far as they can go now."""
    s = Scope(p, unit)
    for m in s.machines:
        if m.desired == "drain":
            m = _drained(p, s, m)
        if m.desired == "remove":
            _removed(p, s, m)


def advance_machines(p: Planning, unit: Key) -> None:
    """The same for a user's own virtual machine."""
    for m in list(p.index.by_owner.get(unit, {}).values()):
        if m.desired == "remove":
            _removed(p, None, m)


# --- draining -------------------------------------------------------------------------------------------------


def _drained(p: Planning, s: Scope, m: MachineEntry) -> MachineEntry:
    """Give the machine with `remove` where its drain is over, or say on what that waits."""
    member = s.entry is not None and s.is_member(m)
    if s.entry is None or s.entry.desired == "absent":
        return _to_remove(p, m, "its cluster is deleted")
    if m.role == "control-plane" and m.joined and s.initialised and not s.view.api:
        return _kept_for_quorum(p, s, m)
    if s.node_gone(m) and not member:
        return _to_remove(p, m, "it has left its cluster")
    if s.ended(m):
        return _to_remove(p, m, "it ended while it was drained")
    limit = _drain_limit(p, m)
    if limit <= p.now and not member:
        return _to_remove(p, m, f"its drain did not end within {m.drain_timeout:.0f} s")
    p.at(limit)
    if member and limit <= p.now:
        p.wait(m.key, Waiting.QUORUM, "its drain is over; it stays until it has left etcd")
    elif not s.view.api:
        p.wait(m.key, Waiting.CONTROL_PLANE, "it can be drained once its cluster's API answers")
    else:
        p.wait(m.key, Waiting.DRAIN, "its pods are moving away")
    return m


def _kept_for_quorum(p: Planning, s: Scope, m: MachineEntry) -> MachineEntry:
    """While the API does not answer, nobody knows whether etcd can do without it: it stays, and is started again on its
    own disk where it ended (rules 2 and 9)."""
    recent = tuple(t for t in m.restarts if t > p.now - p.policy.boot_window)
    seen = p.domain(m)
    if s.ended(m) and seen is not None and seen.value.volume and seen.value.boot >= m.boot:
        if len(recent) < p.policy.boot_limit:
            again = msgspec.structs.replace(m, boot=m.boot + 1, restarts=(*recent, p.now))
            return p.put(again, f"{m.name} is started again: its cluster may have no quorum without it")
        p.at(recent[0] + p.policy.boot_window)
    p.wait(m.key, Waiting.QUORUM, "its cluster's API does not answer, so it may be what etcd's quorum lacks; it stays")
    return m


def _drain_limit(p: Planning, m: MachineEntry) -> float:
    """When the drain is over whatever happens; infinity before its first try."""
    history = p.attempt(m.key, "DrainNode")
    begun = history.first or history.succeeded
    if not begun or history.generation not in {0, m.generation}:
        return float("inf")
    return begun + m.drain_timeout + _DRAIN_SLACK


def _to_remove(p: Planning, m: MachineEntry, sentence: str) -> MachineEntry:
    return p.put(msgspec.structs.replace(m, desired="remove"), f"{m.name} is removed: {sentence}")


# --- removing -------------------------------------------------------------------------------------------------


def _removed(p: Planning, s: Scope | None, m: MachineEntry) -> None:
    """Drop the entry where nothing of the machine is left, or say what still is."""
    if m.substrate == "metal":
        _given_back(p, m)
        return
    if p.dead(m.server) and _given_up_with(p, m):
        p.drop(m.key, f"{m.name} is gone: {m.server} died and was deleted")
        return
    if not p.usable(m.server):
        said = f"server {m.server} is not connected, so the end of its machine can't be confirmed"
        if p.dead(m.server):
            said = f"server {m.server} is dead; what is left of the machine there goes when it is back"
            said = f"{said}, or is given up when the Server is deleted"
        p.wait(m.key, Waiting.UNCONFIRMED, said)
        return
    if (where := _disk_elsewhere(p, m)) is not None:
        there = msgspec.structs.replace(m, server=where, source=ServerName(""), carried=False)
        p.put(there, f"{m.name} is removed on {where}, where its disk is: it never came to {m.server}")
        return
    left = _left(p, s, m)
    if left:
        p.wait(m.key, Waiting.STEP, left)
        return
    if m.retain_disk and _is_retained(p, m):
        _retain(p, m)
    p.drop(m.key, f"{m.name} is gone from {m.server}")


def _given_back(p: Planning, m: MachineEntry) -> None:
    """A bare server's machine is gone once the server is known to run something else, or nothing."""
    if p.busy(m.key):
        p.wait(m.key, Waiting.STEP, "a step on it is still running")
    elif metal.ended(p, m) and metal.has_left(p, m):
        p.drop(m.key, f"{m.name} is gone from {m.server}")
        metal.keep_address(p, m)
    else:
        p.round_changed.add(key("metal", m.server))
        p.wait(m.key, Waiting.METAL, f"it goes once {m.server} is known not to run it any more")


def _given_up_with(p: Planning, m: MachineEntry) -> bool:
    """A person deleted the dead server: with it goes whatever lies on its disks, and nothing of it is waited for."""
    declared = p.spec.servers.get(key("server", m.server))
    return declared is None or bool(declared.metadata.deletion_timestamp)


def _disk_elsewhere(p: Planning, m: MachineEntry) -> ServerName | None:
    """The server that still holds the disk of a machine that was given up before the one that it was to go to took the
    disk over; None where there is none, or where anything of the machine may still run."""
    if p.busy(m.key):
        return None
    known = [o.value for o in p.inventory.domains(m.uid)]
    if any(d.state != "absent" or (d.server == m.server and d.volume) for d in known):
        return None
    return next((d.server for d in known if d.volume and p.usable(d.server)), None)


def _left(p: Planning, s: Scope | None, m: MachineEntry) -> str:
    """What of the machine is still there, in words; empty where nothing is."""
    if p.busy(m.key):
        return "a step on it is still running"
    for seen in p.inventory.domains(m.uid):
        d: DomainView = seen.value
        if d.state != "absent":
            return f"its domain is {d.state} on {d.server}"
        if d.volume and not (d.server != m.server and m.carried and p.dead(d.server)):  # taken from there, see below
            return f"its disk is still on {d.server}"
    if left_on_pool(m, p.attempts.get(m.key, {})):
        return f"{m.server} is yet to take its disk over"
    if s is None or s.entry is None or s.entry.desired == "absent":
        return ""
    if s.is_member(m):
        return "it is still a member of etcd"
    if left_as_learner(s.entry, m, p.attempts.get(m.key, {})):
        return "etcd may know it as a learner still"
    return "" if s.node_gone(m) else "its Node is still there"


# --- what stays -----------------------------------------------------------------------------------------------


def _is_retained(p: Planning, m: MachineEntry) -> bool:
    """Its disk was kept; a disk that was lost is nothing to list."""
    seen = p.inventory.retained_disk(m.server, m.uid)
    if seen is not None:
        return seen.value.present
    return p.attempt(m.key, "RetainVolume").succeeded > 0


def _retain(p: Planning, m: MachineEntry) -> None:
    pool = p.index.fleet.disk_pools.get(m.disk_pool)
    hours = pool.spec.retention_hours if pool is not None else 72.0
    entry = RetainedDiskEntry(
        uid=m.uid,
        name=m.name,
        namespace=m.namespace,
        server=m.server,
        disk_pool=m.disk_pool,
        reason=m.reason,
        expires=p.now + hours * 3600.0,
    )
    p.put(entry, f"the disk of {m.name} is kept for {hours:g} h: {m.reason}")
    p.round_changed.add(key("retained-disk", m.uid))
