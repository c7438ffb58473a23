"""Is a server alive? Evidence from several channels is weighed to well, suspect, to be fenced, or confirmed dead.

One channel alone condemns nobody. What can't be confirmed is not acted on here (rule 1), and where much of the fleet
seems to fail at once, the observer is taken for the one that fails (rule 6). What becomes of a dead server's machines
is decided elsewhere.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.model import leases
from bedplate.model.blueprint import BmcRef, MachineEntry, ServerEntry
from bedplate.model.ids import Key, MachineUid, ServerName
from bedplate.model.inventory import ClusterView, LeaseView, Observation, ServerView
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.policy import ALLOW_MANY
from bedplate.model.report import Waiting
from bedplate.model.whereabouts import domain_of
from bedplate.planner.context import Planning

MANY = 0.3
"""Rule 6: more than this share of all hypervisors unheard of without confirmation is a failure of the observer."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the channels say of a server whose agent is not heard of."""

    power: Literal["on", "off", "unknown"]
    """As read back lately from its BMC."""
    bmc_error: str = ""
    lease: Literal["none", "held", "expired", "unseen"]
    """`none`: it has no shared pool. `unseen`: no server that could tell is connected."""
    expired_at: float = 0.0
    watched: bool = False
    """Its lease says that a watchdog guards it: only then does the lease's expiry prove anything, with time."""
    nodes: Literal["none", "ready", "not-ready"]
    """What its nodes' clusters say of them."""
    local_ready: bool = False
    """A node whose disk is local to it is Ready: an expired lease says nothing of it."""
    local_unheard: bool = False
    """Nor does it of one whose cluster was not heard of yet, such as by a controller that has just begun to look."""

    def sentence(self) -> str:
        """All of it for people."""
        power = {"on": "its power is on", "off": "its power is off"}.get(self.power, "")
        power = power or f"its power can't be read ({self.bmc_error or 'it has no BMC'})"
        lease = {
            "none": "it has no lease on a shared disk pool",
            "held": "it renews its lease",
            "expired": "its lease has expired",
            "unseen": "no other server could see its lease",
        }[self.lease]
        nodes = {
            "none": "none of its nodes is known",
            "ready": "a node on it is Ready",
            "not-ready": "its nodes are NotReady",
        }[self.nodes]
        return f"its agent is not heard of, {power}, {lease}, {nodes}"


def judge(p: Planning, unit: Key) -> None:
    """Look at one server."""
    name = ServerName(unit.partition("/")[2])
    entry = p.lost(name)
    bare = p.index.metal(name)
    if bare is not None and bare.state != "deployed":
        if entry is not None and not p.busy(unit):
            p.drop(unit, f"{name} is {bare.state}: its agent comes and goes with what is done to it")
        return
    seen = p.inventory.server(name)
    if seen is not None and seen.value.connected:
        if entry is not None:
            _is_back(p, entry, seen.value)
        return
    if entry is None and (seen is None or not p.index.by_server.get(name)):
        return  # nothing is lost with it
    declared = p.spec.servers.get(unit)
    if entry is None:
        assert seen is not None
        _suspect(p, unit, declared, seen.value, seen.time)
    elif entry.standing == "dead" and _given_up(p, entry, declared):
        p.drop(unit, f"{name} is given up: it was deleted, and nothing of it is left")
    elif entry.standing == "dead":
        p.wait(unit, Waiting.DEAD, f"{name} is down: {entry.reason}")
    else:
        _weigh(p, _refreshed(p, entry, declared), declared)


def _given_up(p: Planning, entry: ServerEntry, declared: Server | None) -> bool:
    """Its user deleted it, and no machine of it is in the plan any more; as long as one was, that it is dead counts."""
    if declared is not None and not declared.metadata.deletion_timestamp:
        return False
    p.at(p.now + p.policy.silence)
    return not p.index.by_server.get(entry.server) and not p.was_used(entry.server)


def _is_back(p: Planning, entry: ServerEntry, view: ServerView) -> None:
    if not p.usable(entry.server):
        return  # it is yet to tell what runs there
    if p.busy(entry.key):
        said = f"{entry.server} is heard of again while its power is cut; that is finished first"
        p.wait(entry.key, Waiting.FENCING, said)
        return
    bmc = p.inventory.bmc(entry.server)
    connected = p.inventory.server(entry.server)
    assert connected is not None
    if bmc is not None and bmc.value.power == "off" and bmc.time > connected.time:
        # Its power was cut after it had come back: a connection ends seconds later, if nobody is left to end it.
        until = bmc.time + p.policy.silence
        if p.now < until:
            p.at(until)
            p.wait(entry.key, Waiting.FENCING, f"{entry.server} was heard of again, and its power was cut since")
            return
    said = f"{entry.server} is heard of again"
    if entry.standing == "dead" and entry.by == "power" and view.boot_id and view.boot_id == entry.boot_id:
        said = f"{said}, in the same boot, though its BMC said that its power was off: do not trust that BMC"
    p.drop(entry.key, said)


def _suspect(p: Planning, unit: Key, declared: Server | None, last: ServerView, since: float) -> None:
    at = since + p.policy.suspect_after
    if p.now < at:
        p.at(at)
        return
    entry = ServerEntry(
        server=last.server,
        standing="suspect",
        since=since,
        bmc=bmc_ref(declared),
        boot_id=last.boot_id,
        reason=f"its agent was not heard of for {p.policy.suspect_after:g} s",
    )
    entry = p.put(entry, f"{last.server} is suspect: {entry.reason}")
    _weigh(p, entry, declared)


def _refreshed(p: Planning, entry: ServerEntry, declared: Server | None) -> ServerEntry:
    """Follow an edit of its BMC's address meanwhile."""
    bmc = bmc_ref(declared)
    if declared is None or bmc == entry.bmc:
        return entry
    return p.put(msgspec.structs.replace(entry, bmc=bmc), f"the BMC of {entry.server} was edited")


def bmc_ref(declared: Server | None) -> BmcRef | None:
    """How to reach the declared BMC; None where there is none."""
    if declared is None or declared.spec.bmc is None:
        return None
    bmc = declared.spec.bmc
    secret = f"{bmc.credentials.namespace}/{bmc.credentials.secret}"
    return BmcRef(address=bmc.address, secret=secret, verify_ca=bmc.verify_ca)


# --- weighing -------------------------------------------------------------------------------------------------


def _weigh(p: Planning, entry: ServerEntry, declared: Server | None) -> None:
    """Decide on a server that is not heard of and not confirmed dead."""
    e = evidence(p, entry)
    name, told = entry.server, e.sentence()
    if e.power == "off":
        if e.lease == "held":
            p.wait(
                entry.key,
                Waiting.UNCONFIRMED,
                f"{name}: {told}: one of these is not so, until they agree nothing starts",
            )
        else:
            _dead(p, entry, "power", told)
        return
    if e.lease == "expired" and e.watched and (e.power == "unknown" or e.local_ready):
        at = e.expired_at + leases.WATCHDOG + leases.MARGIN
        if at <= p.now:
            _dead(p, entry, "lease", f"{told}, and its watchdog's time is over")
            return
        p.at(at)
    reason = _why_fence(p, entry, e)
    if entry.standing == "fence":
        p.wait(entry.key, Waiting.FENCING, f"{name} is being powered off: {entry.reason}; now {told}")
    elif not reason:
        kind, what = Waiting.SUSPECT, "suspect"
        if e.lease == "held":
            kind, what = Waiting.CUT_OFF, "cut off from this controller but runs"
        p.wait(entry.key, kind, f"{name} is {what}: {told}")
    elif stop := _stopped(p, entry, declared):
        p.wait(entry.key, stop[0], f"{name} would be fenced, because {told}; {stop[1]}")
    else:
        p.put(msgspec.structs.replace(entry, standing="fence", reason=told), f"{name} is fenced: {told}")


def _why_fence(p: Planning, entry: ServerEntry, e: Evidence) -> bool:
    """True where a second channel says that it is dead, or that nobody reaches what runs there."""
    if entry.bmc is None:
        return False
    if e.lease == "expired":
        # Its guests on shared disks have ended; the others would be killed.
        return not (e.local_ready or e.local_unheard)
    if e.nodes != "not-ready":
        return False
    if e.lease == "held":
        p.at(entry.since + p.policy.isolated_after)
        return p.now >= entry.since + p.policy.isolated_after
    return True


def fence_ahead(p: Planning, entry: ServerEntry) -> bool:
    """True while a fence that may yet confirm the end of a server is to be begun, or was not tried to its end."""
    if entry.standing == "fence":
        return p.attempt(entry.key, "PowerOff").count == 0
    declared = p.spec.servers.get(entry.key)
    return _why_fence(p, entry, evidence(p, entry)) and _stopped(p, entry, declared) is None


def _stopped(p: Planning, entry: ServerEntry, declared: Server | None) -> tuple[Waiting, str] | None:
    """What keeps a fence from being begun: a person, or so many that it looks like a fault of the observer."""
    paused = p.paused(declared)
    if paused:
        return Waiting.PAUSED, paused
    policy = next((f for f in p.spec.fleet_policies.values() if f.metadata.annotations.get(ALLOW_MANY) == "true"), None)
    lost, all_ = unheard(p)
    if policy is None and lost > max(1, MANY * all_):
        said = f"{lost} of {all_} hypervisors are not heard of, so this controller may be the one that is cut off"
        remedy = f'none is fenced until a person sets the annotation {ALLOW_MANY}: "true" on FleetPolicy default'
        return Waiting.ACCEPTANCE, f"{said}; {remedy}"
    return None


def unheard(p: Planning) -> tuple[int, int]:
    """How many hypervisors are not heard of without their end being confirmed, and how many there are."""
    if p.unheard is None:
        hypervisors = [s.name for s in p.index.fleet.servers.values() if s.hypervisor]
        silent = [name for name in hypervisors if not p.heard(name)]
        with_machines = [name for name in silent if p.index.by_server.get(name)]
        lost = sum(1 for name in with_machines if not p.dead(name))
        p.unheard = (lost, len(hypervisors) - len(silent) + len(with_machines))
    return p.unheard


def _dead(p: Planning, entry: ServerEntry, by: Literal["power", "lease"], told: str) -> None:
    dead = msgspec.structs.replace(entry, standing="dead", confirmed=p.now, by=by, reason=told)
    p.unheard = None
    p.put(dead, f"{entry.server} is dead: {told}")
    p.wait(entry.key, Waiting.DEAD, f"{entry.server} is down: {told}")


# --- evidence -------------------------------------------------------------------------------------------------


def evidence(p: Planning, entry: ServerEntry) -> Evidence:
    """All that is known of a server whose agent is not heard of. What was said before it was lost says nothing."""
    power, error = _power(p, entry)
    lease, expired_at = _lease(p, entry.server)
    nodes = _nodes(p, entry)
    machines = p.index.by_server.get(entry.server, {}).values()
    local = {m.uid for m in machines if not p.index.fleet.is_shared(m.disk_pool)}
    # A clean end of an agent leaves its guests running and says so in each lease: one such word is enough.
    watched = all(o.value.guarded for o in _witnessed(p, entry.server))
    return Evidence(
        power=power,
        bmc_error=error,
        lease=lease,
        expired_at=expired_at,
        watched=watched,
        nodes="none" if not nodes else "ready" if any(nodes.values()) else "not-ready",
        local_ready=any(nodes.get(uid, False) for uid in local),
        local_unheard=any(_unheard_of(p, m) for m in machines if m.uid in local and m.is_node and m.joined),
    )


def _power(p: Planning, entry: ServerEntry) -> tuple[Literal["on", "off", "unknown"], str]:
    if entry.bmc is None:
        return "unknown", ""
    seen = p.inventory.bmc(entry.server)
    if seen is None or seen.time < entry.since:
        return "unknown", "it was not read yet"
    if seen.time + p.policy.power_fresh > p.now:
        p.at(seen.time + p.policy.power_fresh)
    elif seen.value.power == "off":
        return "unknown", "what it said is too old"
    return (seen.value.power, seen.value.error) if seen.value.reachable else ("unknown", seen.value.error)


def _lease(p: Planning, name: ServerName) -> tuple[Literal["none", "held", "expired", "unseen"], float]:
    """What connected servers see of its leases; one pool on which it is renewed is enough to be held."""
    told = p.inventory.leases(name)
    if not told:
        return "none", 0.0
    expired: dict[str, float] = {}
    for o in _witnessed(p, name):
        if o.value.held:
            return "held", 0.0
        # Whoever saw it expire first is enough: another may have begun to look later.
        expired[o.value.disk_pool] = min(expired.get(o.value.disk_pool, float("inf")), o.time)
    if {o.value.disk_pool for o in told} <= set(expired):
        return "expired", max(expired.values())
    return "unseen", 0.0


def _witnessed(p: Planning, name: ServerName) -> list[Observation[LeaseView]]:
    """What others that are heard of see of its leases. Its own word is of the past."""
    return [o for o in p.inventory.leases(name) if o.value.witness != name and p.usable(o.value.witness)]


def _just_silent(p: Planning, view: Observation[ClusterView]) -> bool:
    """A cluster's API fell silent a moment ago: one that restarts says nothing of its nodes."""
    until = view.time + p.policy.api_silence
    if until > p.now:
        p.at(until)
    return until > p.now


def _unheard_of(p: Planning, m: MachineEntry) -> bool:
    """Nothing was told of the machine's node, and its cluster may yet tell."""
    view = p.inventory.cluster(m.cluster)
    if view is None:
        return True
    if f"cluster/{m.cluster}" in p.inventory.synced and p.inventory.node(m.cluster, m.name) is not None:
        return False
    return not view.value.api and _just_silent(p, view)


def _nodes(p: Planning, entry: ServerEntry) -> dict[MachineUid, bool]:
    """Which of its nodes are Ready, as their clusters say, or said until their APIs fell silent a moment ago."""
    found: dict[MachineUid, bool] = {}
    for m in p.index.by_server.get(entry.server, {}).values():
        if not m.is_node or not m.joined or m.source or m.server != entry.server:
            continue
        domain = domain_of(p.inventory, m)
        view = p.inventory.cluster(m.cluster)
        node = p.inventory.node(m.cluster, m.name)
        if view is None or node is None or not node.value.present or node.value.machine not in {"", m.uid}:
            continue
        if domain is None and not node.value.ready:
            continue  # its agent was never heard of: that its node is Ready tells of it, that it is not says nothing
        if not view.value.api and not _just_silent(p, view):
            continue
        if f"cluster/{m.cluster}" in p.inventory.synced:
            found[m.uid] = node.value.ready
    return found
