"""The rules asked of bare servers: what nobody released is not written or erased, one machine writes one disk.

Gives what is wrong as `(rule, sentence)`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bedplate.checks.tables import Tables
from bedplate.model.blueprint import ClusterEntry, MachineEntry, MetalEntry, RetainedDiskEntry, ServerEntry
from bedplate.model.ids import ServerName, key
from bedplate.model.lifecycle import METAL_STATES
from bedplate.model.whereabouts import role_of
from bedplate.planner.plan import PlanInput

Wrong = tuple[str, str]


def wrong(inp: PlanInput, t: Tables, old: MetalEntry | None, new: MetalEntry) -> Iterator[Wrong]:
    """What is wrong with a new or changed bare server."""
    declared = inp.spec.servers.get(key("server", new.server))
    before = old.state if old is not None else "enrolled"
    if before != new.state and not _may_follow(before, new.state):
        yield "4", f"it would go from {before} to {new.state}"
    if declared is None or not declared.spec.accepted or declared.metadata.uid != new.uid:
        yield "3", "nobody accepted it, so it is not to be booted"
    if old is not None and new.run < old.run:
        yield "5", "the number of its boot would go back"
    m = t.entries.get(key("machine", new.machine)) if new.machine else None
    mine = isinstance(m, MachineEntry) and m.server == new.server
    hosts = new.host is not None and declared is not None and role_of(declared, new) == "hypervisor"
    yield from _role(inp, t, old, new)
    if new.state in {"deploying", "deployed"} and before in {"available", "enrolled"} and not (mine or hosts):
        yield "1", "it would be written for no machine that is planned there"
    if new.host is not None and mine:
        yield "1", "it would be a hypervisor and a machine's at once"
    if new.state == "deploying":
        disk = new.hardware.disk(new.root_disk) if new.hardware is not None else None
        if disk is None:
            yield "3", f"it would be written to a disk {new.root_disk!r} that can't be told apart from others"
    if old is not None and old.underlying in {"deploying", "deployed"} and new.state in {"available", "erasing"}:
        yield from _released(inp, t, old)
        yield from _emptied(inp, t, old)
    if old is not None and old.state != "rescue" and new.state == "rescue":
        yield from _looked_into(t, old, new)
    if old is not None and old.state == "rescue" and new.state not in {"rescue", *_AFTER[old.underlying]}:
        yield "3", f"it would be {new.state} after rescue, and was {old.underlying}"
    if old is not None and old.held and not new.held and not _proven(inp, new.server):
        yield "3", "that nobody released what is on its disks would be forgotten"
    if new.state in {"available", "retired"} and not _blank(inp, old, new):
        yield "3", f"it would be {new.state} though its disks were not proven to be blank"


def _role(inp: PlanInput, t: Tables, old: MetalEntry | None, new: MetalEntry) -> Iterator[Wrong]:
    """What planning makes of servers whose role is left to it stays within what the fleet's policy allows."""
    if old is None or new.role == old.role:
        return
    declared, policy = inp.spec.servers.get(key("server", new.server)), inp.spec.fleet.roles
    if declared is None or declared.spec.role != "auto":
        yield "placement", "its role is declared, and not planning's to change"
    called_back = old.role == "free" and old.host is not None
    if old.role_since and inp.now < old.role_since + policy.settle_seconds and not called_back:
        yield "placement", "its role would change more often than the fleet's policy allows"
    if new.role == "hypervisor" and not called_back:
        count = sum(1 for e in t.entries.values() if isinstance(e, MetalEntry) and e.counts_as_host)
        if count > policy.maximum:
            yield "placement", f"{count} servers of role auto would be hypervisors, {policy.maximum} are allowed"


_AFTER = {
    "available": frozenset({"erasing", "available"}),
    "deployed": frozenset({"deploying", "erasing", "available", "quarantined"}),
    "quarantined": frozenset({"quarantined"}),
}
"""What may follow rescue, by what was before it."""


def _looked_into(t: Tables, old: MetalEntry, new: MetalEntry) -> Iterator[Wrong]:
    """A person's looking into it ends nothing that runs, and forgets nothing of what it was."""
    if new.before is None or new.before.state != old.state:
        yield "3", f"that it was {old.state} would be forgotten in rescue"
    lost = t.entries.get(key("server", old.server))
    dead = isinstance(lost, ServerEntry) and lost.standing == "dead"
    if old.host is not None and t.memory_mib[old.server] and not dead:
        yield "1", "machines are planned on it as a hypervisor"


def _proven(inp: PlanInput, server: ServerName) -> bool:
    """Its RAM system tells that every disk was read back blank."""
    told = inp.inventory.metal(server)
    return told is not None and told.value.erased is not None and told.value.erased.proven


def _blank(inp: PlanInput, old: MetalEntry | None, new: MetalEntry) -> bool:
    """Nothing of anybody is on its disks, or its user does not mind, as far as this change says."""
    if old is None or old.state == new.state or old.state in {"inspecting", "testing"}:
        return old is None or (not old.held and new.state != "retired") or old.state == new.state
    if old.state == "erasing":
        return _proven(inp, new.server)
    declared = inp.spec.servers.get(key("server", new.server))
    return new.state == "available" and declared is not None and not declared.spec.metal.erase


def _may_follow(before: str, after: str) -> bool:
    """The table's, or several of its steps in one planning."""
    seen, ahead = {before}, [before]
    while ahead:
        at = ahead.pop()
        for old, new in METAL_STATES:
            if old == at and new == after:
                return True
            if old == at and new not in seen and new not in {"quarantined", "retired", "rescue"}:
                seen.add(new)
                ahead.append(new)
    return False


def _released(inp: PlanInput, t: Tables, old: MetalEntry) -> Iterator[Wrong]:
    """Rule 3: what a machine wrote is erased only where its user let the machine go, and it has left its cluster."""
    m = t.entries.get(key("machine", old.machine))
    if not isinstance(m, MachineEntry):
        return  # it was dropped, which was checked then
    if m.desired != "remove":
        yield "3", f"{m.name} is still wanted there"
    elif m.retain_disk:
        yield "9", f"the disk of {m.name}, which was given up after a failure, would not be kept"
    cluster = t.entries.get(key("cluster", m.cluster))
    node = inp.inventory.node(m.cluster, m.name)
    there = node is not None and node.value.present and node.value.machine in {"", m.uid}
    present = isinstance(cluster, ClusterEntry) and cluster.desired == "present"
    if present and m.joined and there and not _drained(inp, m):
        yield "7", f"{m.name} is still a node of its cluster, and its drain has time left"


def _drained(inp: PlanInput, m: MachineEntry) -> bool:
    """It was drained for as long as a drain may last, or ended meanwhile: what is left of it there is left behind."""
    before = inp.parent.entries.get(m.key)
    if not isinstance(before, MachineEntry) or before.desired == "run":
        return False
    asked, domain = inp.attempts.get(m.key, {}).get("DrainNode"), inp.inventory.domain(m.server, m.uid)
    over = asked is not None and asked.first > 0.0 and inp.now >= asked.first + m.drain_timeout
    return before.desired == "remove" or over or domain is None or domain.value.state != "running"


def _emptied(inp: PlanInput, t: Tables, old: MetalEntry) -> Iterator[Wrong]:
    """Rule 3: what a hypervisor holds of others has left it."""
    if old.host is None:
        return
    if t.memory_mib[old.server]:
        yield "3", "machines are planned on it as a hypervisor"
    for entry in t.entries.values():
        if isinstance(entry, RetainedDiskEntry) and entry.server == old.server:
            pool = inp.spec.disk_pools.get(key("diskpool", entry.disk_pool))
            if pool is None or pool.spec.type != "shared":
                yield "9", f"the retained disk of {entry.name} is on it"


def misplaced(inp: PlanInput, t: Tables, old: MachineEntry | None, new: MachineEntry) -> Iterator[Wrong]:
    """What is wrong with where a machine on a bare server is."""
    entry = t.entries.get(key("metal", new.server))
    if old is not None:
        if old.server != new.server or new.source:
            yield "1", f"it would move from {old.server}: a bare server's machine never moves"
        return
    if not isinstance(entry, MetalEntry) or entry.machine != new.uid or entry.state != "deploying":
        yield "placement", f"bare server {new.server} is not claimed for it"
    declared = inp.spec.servers.get(key("server", new.server))
    bare = entry if isinstance(entry, MetalEntry) else None
    if declared is None or role_of(declared, bare) == "hypervisor" or declared.spec.unschedulable:
        yield "placement", f"server {new.server} does not take nodes"


def still_there(inp: PlanInput, t: Tables, old: MachineEntry) -> Iterator[Wrong]:
    """What keeps the entry of a bare server's machine: it may still run."""
    entry = t.entries.get(key("metal", old.server))
    if not isinstance(entry, MetalEntry) or entry.machine != old.uid:
        return
    before = inp.parent.entries.get(entry.key)  # what the evidence speaks of: the next state may begin in this plan
    since, run = (before.since, before.run) if isinstance(before, MetalEntry) else (entry.since, entry.run)
    seen, bmc = inp.inventory.server(old.server), inp.inventory.bmc(old.server)
    other = seen is not None and seen.value.connected and seen.value.system == "ram" and seen.value.run >= run
    off = bmc is not None and bmc.value.power == "off" and bmc.time >= since
    lost = t.entries.get(key("server", old.server))
    dead = isinstance(lost, ServerEntry) and lost.standing == "dead" and lost.by == "power"
    if entry.state in {"deploying", "deployed"} or not (other or off or dead):
        yield "1", f"that it does not run on {old.server} any more is not confirmed"
    if any(a.running for a in inp.attempts.get(old.key, {}).values()):
        yield "4", "a step on it is still running"


def let_go(t: Tables, old: MetalEntry) -> Iterator[str]:
    """What keeps the entry of a bare server."""
    m = t.entries.get(key("machine", old.machine)) if old.machine else None
    if isinstance(m, MachineEntry) and m.server == old.server:
        yield f"{old.server} still has machine {m.name}"
