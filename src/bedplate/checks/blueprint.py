"""The rules that are never broken, asked of a planned change before it is committed.

Written apart from planning on purpose, from the rules and not from planning's code: a fault there must not be copied
here. A finding keeps the change from being committed. Only what changes is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bedplate.checks import metal
from bedplate.checks.tables import Tables, unique_things
from bedplate.model import leases, quantity
from bedplate.model.blueprint import (
    AnyEntry,
    CachedImageEntry,
    ClusterEntry,
    MachineEntry,
    MetalEntry,
    ServerEntry,
)
from bedplate.model.cpus import HOST
from bedplate.model.ids import Key, ServerName, key
from bedplate.model.inventory import ClusterView
from bedplate.model.lifecycle import STANDINGS
from bedplate.model.whereabouts import in_rescue, role_of, switched_on_since
from bedplate.planner.plan import PlanInput, PlanResult

_FIXED = ("uid", "name", "namespace", "owner", "cluster", "role", "disk_pool", "image", "version", "nic")
"""What a machine keeps for life."""


EXPIRED_FOR = leases.WATCHDOG + leases.MARGIN
"""Seconds after a lease was seen expired in which its holder's watchdog ends it."""
_STANDINGS = {*STANDINGS, ("well", "fence"), ("well", "dead")}
"""One planning may go through several: evidence that has gathered is weighed in one go."""
_ROUNDING = 1e-6
"""Seconds: sums of times are not exact."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A broken rule: of which entry, which rule, and what is wrong, in one sentence."""

    key: Key
    rule: str
    sentence: str


class Checker:
    """Checks one line of blueprints; keeps its tables from one check to the next."""

    def __init__(self) -> None:
        self._tables: Tables | None = None
        self._told: dict[Key, AnyEntry | None] = {}

    def __call__(self, inp: PlanInput, result: PlanResult) -> tuple[Finding, ...]:
        """Give what is wrong with the change; empty where nothing is."""
        tables = self._follow(inp)
        changes = {k: (tables.entries.get(k), new) for k, new in result.delta.changes.items()}
        for k, (_, new) in changes.items():
            tables.change(k, new)
        self._told = {k: old for k, (old, _) in changes.items()}
        found = [f for k, (old, new) in sorted(changes.items()) for f in _entry(inp, tables, k, old, new)]
        return (*found, *_control_planes(inp, tables, changes))

    def _follow(self, inp: PlanInput) -> Tables:
        """The tables of the parent: those of the last check where it was committed, without it where it was not."""
        tables = self._tables
        if tables is not None:
            committed = inp.parent.parent == tables.number and inp.parent.number != tables.number
            if not committed:
                for k, old in self._told.items():
                    tables.change(k, old)
            told = self._told if committed else {}
            same = len(tables.entries) == len(inp.parent.entries) and (committed or inp.parent.number == tables.number)
            same = same and all(inp.parent.entries.get(k) == tables.entries.get(k) for k in told)
            tables.number = inp.parent.number
            if same:
                return tables
        self._tables = Tables(inp.parent)
        return self._tables


def check(inp: PlanInput, result: PlanResult) -> tuple[Finding, ...]:
    """Check one change by itself."""
    return Checker()(inp, result)


# --- entries by themselves ------------------------------------------------------------------------------------


def _entry(inp: PlanInput, t: Tables, k: Key, old: AnyEntry | None, new: AnyEntry | None) -> Iterator[Finding]:
    if new is not None:
        if new.key != k:
            yield Finding(key=k, rule="1", sentence=f"the entry under {k} is that of {new.key}")
        if old is not None and new.generation <= old.generation:
            yield Finding(key=k, rule="5", sentence="its generation does not grow, so an agent would refuse it")
        for thing in unique_things(new):
            if t.taken[thing] > 1:
                what = f"{thing[0]} {thing[-1]}"
                yield Finding(key=k, rule="1", sentence=f"{what} belongs to more than one of the planned things")
    if isinstance(new, MachineEntry):
        yield from _machine(inp, t, old if isinstance(old, MachineEntry) else None, new)
    elif isinstance(new, ClusterEntry) and isinstance(old, ClusterEntry):
        yield from _cluster(old, new)
    elif isinstance(new, ServerEntry):
        yield from _server(inp, old, new)
    elif isinstance(new, MetalEntry):
        yield from _bare(inp, t, old if isinstance(old, MetalEntry) else None, new)
    elif isinstance(new, CachedImageEntry):
        yield from _cached_image(inp, t, new)
    elif new is None and isinstance(old, MetalEntry):
        yield from (Finding(key=k, rule="4", sentence=said) for said in metal.let_go(t, old))
    elif new is None and isinstance(old, MachineEntry):
        yield from _gone(inp, t, old)


def _bare(inp: PlanInput, t: Tables, old: MetalEntry | None, new: MetalEntry) -> Iterator[Finding]:
    for rule, said in metal.wrong(inp, t, old, new):
        yield Finding(key=new.key, rule=rule, sentence=f"{new.server}: {said}")


def _machine(inp: PlanInput, t: Tables, old: MachineEntry | None, new: MachineEntry) -> Iterator[Finding]:
    def finding(rule: str, sentence: str) -> Finding:
        return Finding(key=new.key, rule=rule, sentence=f"{new.name}: {sentence}")

    if new.substrate == "metal":
        yield from (finding(rule, said) for rule, said in metal.misplaced(inp, t, old, new))
    elif old is None or new.memory_mib > old.memory_mib or new.cpu > old.cpu or new.server != old.server:
        yield from (finding("placement", said) for said in _overfull(inp, t, new.server))
    if old is None:
        if new.substrate == "vm":
            yield from (finding("placement", said) for said in _misplaced(inp, new))
        return
    for field in _FIXED:
        if getattr(old, field) != getattr(new, field):
            yield finding("1", f"its {field} would change from {getattr(old, field)} to {getattr(new, field)}")
    if old.desired in {"drain", "remove"} and new.desired in {"run", "stop", "manual"}:
        yield finding("1", "it was given up and would be taken back; its steps may have run already")
    if old.joined and not new.joined:
        yield finding("4", "that it joined would be forgotten, and it would be bootstrapped again")
    if old.retain_disk and not new.retain_disk:
        yield finding("9", "its disk would no longer be kept")
    if new.boot < old.boot:
        yield finding("1", "its boot number would go back")
    yield from (finding("1", said) for said in _elsewhere(inp, t, old, new))
    if new.boot > old.boot and not _may_start_again(inp, t, old, new):
        yield finding("1", "it would be started again though it is not confirmed that it ended")
    if new.out_of_service and not old.out_of_service:
        yield from (finding("1", f"its pods would be freed though {said}") for said in _may_hold_pods(inp, t, old))


def _may_hold_pods(inp: PlanInput, t: Tables, m: MachineEntry) -> Iterator[str]:
    """Why pods of the machine may run: nothing confirms its end, its server's death or what runs there instead."""
    lost = t.entries.get(key("server", m.server))
    if in_rescue(inp.inventory, inp.parent.metal(m.server), m, usable=_usable(inp, m.server)):
        return
    if not _ended_with(inp, t, m.server, m):
        yield f"the end of {m.server} is not confirmed"
    elif isinstance(lost, ServerEntry) and switched_on_since(lost, inp.attempts.get(lost.key, {})):
        yield f"{m.server} was switched on since"


def _elsewhere(inp: PlanInput, t: Tables, old: MachineEntry, new: MachineEntry) -> Iterator[str]:
    """What is wrong with a change of the machine's server (rule 1)."""
    if old.source and new.source == old.server and _has_arrived(inp, t, old):
        old = msgspec.structs.replace(old, source=ServerName(""))  # its next move follows in the same plan
    if new.server == old.server and new.source == old.source:
        return
    if new.server != old.server and not _shared(inp, old.disk_pool):
        yield f"it would move to {new.server}, but its disk is local to {old.server}"
    if new.source and new.server != old.server and not _goes_on(inp, new):
        yield f"it would move live to {new.server}, with whose CPU its guest could not go on"
    if new.source and new.source != (old.source or old.server):
        yield f"it would move from {new.source}, but it is on {old.source or old.server}"
    elif new.source and old.source:
        if not (_dead(t, old.server) or _has_ended(inp, old.server, old)):
            yield f"its move to {old.server} would be turned to {new.server} though it may run there"
    elif old.source and not new.source and new.server not in {old.server, old.source}:
        for end in (old.server, old.source):
            if not (_dead(t, end) or _has_ended(inp, end, old)):
                yield f"it would be started on {new.server} though its end on {end} is not confirmed"
    elif old.source and new.server == old.source:
        # What a server said before its end was confirmed is of the past.
        if not _dead(t, old.server) and (_runs(inp, old.server, old) or not _usable(inp, old.server)):
            yield f"its move to {old.server} would be called off though it may run there"
    elif old.source and not new.source and new.server == old.server:
        known = _runs(inp, old.server, old) or _usable(inp, old.server) or _dead(t, old.server)
        ended = _dead(t, old.source) or _has_ended(inp, old.source, old)
        if not (known and ended):
            yield f"its end on {old.source} is not confirmed"
    elif not new.source and not _dead(t, old.server) and not _has_ended(inp, old.server, old):
        yield f"it would be started on {new.server} though its end on {old.server} is not confirmed"


def _goes_on(inp: PlanInput, m: MachineEntry) -> bool:
    """The server that it moves live to has what its guest knows of the CPU; one that tells nothing of its CPU may."""
    here, there = inp.inventory.server(m.source), inp.inventory.server(m.server)
    if there is None or not there.value.cpu:
        return True
    if m.cpu_model == HOST:
        return here is None or here.value.cpu in {"", there.value.cpu}
    return m.cpu_model in there.value.cpu_models


def _has_arrived(inp: PlanInput, t: Tables, m: MachineEntry) -> bool:
    """Its live move is over: it runs where it was to go, and nothing of it where it came from."""
    return _runs(inp, m.server, m) and (_dead(t, m.source) or _has_ended(inp, m.source, m))


def _may_start_again(inp: PlanInput, t: Tables, old: MachineEntry, new: MachineEntry) -> bool:
    """It ended, or its agent ends it before it starts it (a guest that hangs), or its server is confirmed dead."""
    if new.server == old.server and not new.source and _runs(inp, old.server, old):
        node, cluster = inp.inventory.node(old.cluster, old.name), inp.inventory.cluster(old.cluster)
        if cluster is not None and cluster.value.api:
            hangs = node is not None and not node.value.ready
        else:
            domain = inp.inventory.domain(old.server, old.uid)
            hangs = domain is not None and not domain.value.guest_agent
        if not hangs:
            return False
    ends = [end for end in (old.server, old.source, new.server) if end]
    return all(_ended_with(inp, t, end, old) or _usable(inp, end) for end in ends)


def _server(inp: PlanInput, old: AnyEntry | None, new: ServerEntry) -> Iterator[Finding]:
    """A server counts as dead only on evidence: read-back power, or its leases' expiry with time for its watchdog."""
    before = old.standing if isinstance(old, ServerEntry) else "well"
    if before != new.standing and (before, new.standing) not in _STANDINGS:
        yield Finding(key=new.key, rule="1", sentence=f"{new.server} would go from {before} to {new.standing}")
    if new.standing != "dead" or (isinstance(old, ServerEntry) and old.standing == "dead"):
        return
    would = f"{new.server} would count as dead"
    seen = inp.inventory.server(new.server)
    if seen is not None and seen.value.connected:
        yield Finding(key=new.key, rule="1", sentence=f"{would}, but its agent is connected")
    told = [
        o for o in inp.inventory.leases(new.server) if _usable(inp, o.value.witness) and o.value.witness != new.server
    ]
    if any(o.value.held for o in told):
        yield Finding(key=new.key, rule="1", sentence=f"{would}, but it renews its lease")
    bmc = inp.inventory.bmc(new.server)
    if new.by == "power" and (bmc is None or bmc.value.power != "off" or bmc.time < new.since):
        yield Finding(key=new.key, rule="1", sentence=f"{would}, but its power was not read as off")
    if new.by == "lease":
        pools = {o.value.disk_pool for o in inp.inventory.leases(new.server)}
        over = {o.value.disk_pool for o in told if not o.value.held and o.time + EXPIRED_FOR <= inp.now + _ROUNDING}
        if any(not o.value.guarded for o in told):
            yield Finding(key=new.key, rule="1", sentence=f"{would}, but no watchdog would have ended its guests")
        if not pools or pools - over:
            yield Finding(key=new.key, rule="1", sentence=f"{would} before its watchdog's time is over")


def _cluster(old: ClusterEntry, new: ClusterEntry) -> Iterator[Finding]:
    if old.initialised and not new.initialised:
        yield Finding(key=new.key, rule="9", sentence="that it was initialised would be forgotten, and its data lost")
    if old.initialised and old.first_machine != new.first_machine:
        yield Finding(key=new.key, rule="9", sentence="an initialised cluster would be initialised again elsewhere")
    if old.desired == "absent" and new.desired == "present":
        yield Finding(key=new.key, rule="4", sentence="it is being deleted and would be taken back")
    for field in ("uid", "endpoint", "port", "vrrp_id", "network", "pod_cidr", "service_cidr", "secrets"):
        if getattr(old, field) != getattr(new, field):
            yield Finding(key=new.key, rule="4", sentence=f"its {field} would change; a cluster keeps it for life")


def _gone(inp: PlanInput, t: Tables, old: MachineEntry) -> Iterator[Finding]:
    """A machine's entry may only be dropped when nothing of it is left where it was."""

    def finding(rule: str, sentence: str) -> Finding:
        return Finding(key=old.key, rule=rule, sentence=f"{old.name}: {sentence}")

    if old.substrate == "metal":
        yield from (finding(rule, said) for rule, said in metal.still_there(inp, t, old))
        return
    declared = inp.spec.servers.get(key("server", old.server))
    if _dead(t, old.server) and (declared is None or declared.metadata.deletion_timestamp):
        return  # its user gave the dead server up with all that is on it
    if not _usable(inp, old.server):
        yield finding("1", f"its end on {old.server} is not confirmed: the server's agent is not connected")
    for seen in inp.inventory.domains(old.uid):
        if seen.value.state != "absent":
            yield finding("1", f"its domain is {seen.value.state} on {seen.value.server}")
        elif seen.value.volume:
            yield finding("9", f"its disk is still on {seen.value.server}")
    if any(a.running for a in inp.attempts.get(old.key, {}).values()):
        yield finding("4", "a step on it is still running")


def _cached_image(inp: PlanInput, t: Tables, new: CachedImageEntry) -> Iterator[Finding]:
    """An image's file may only be deleted where no disk stands on it and nothing may want it (rule 9)."""
    if new.desired != "absent":
        return
    would = f"image file {new.digest} would be deleted from disk pool {new.disk_pool} of {new.server}"
    if t.image_files[new.digest] > 0:
        yield Finding(key=new.key, rule="9", sentence=f"{would}, but a machine was made from it")
    for image in inp.spec.images.values():
        if new.digest in {image.spec.disk.digest, image.spec.kernel.digest, image.spec.initrd.digest}:
            yield Finding(key=new.key, rule="9", sentence=f"{would}, but image {image.metadata.name} is declared")
    seen = inp.inventory.server(new.server)
    pool = seen.value.pool(new.disk_pool) if seen is not None else None
    if pool is None or new.digest not in pool.unused or not _usable(inp, new.server):
        yield Finding(key=new.key, rule="9", sentence=f"{would}, but its agent does not say that no disk stands on it")


# --- servers --------------------------------------------------------------------------------------------------


def _usable(inp: PlanInput, name: ServerName | None) -> bool:
    """The server's agent is connected, has told all it knows, and lately."""
    if name is None:
        return False
    seen = inp.inventory.server(name)
    return seen is not None and seen.value.connected and seen.fresh(inp.now) and f"agent/{name}" in inp.inventory.synced


def _dead(t: Tables, name: str) -> bool:
    """The server's end is confirmed in the blueprint that is checked; `_server` has checked that."""
    entry = t.entries.get(key("server", name))
    return isinstance(entry, ServerEntry) and entry.standing == "dead"


def _ended_with(inp: PlanInput, t: Tables, name: ServerName, m: MachineEntry) -> bool:
    """The machine ended with its server: by its power, or by its lease where its disk is on a shared pool."""
    entry = t.entries.get(key("server", name))
    if not isinstance(entry, ServerEntry) or entry.standing != "dead":
        return False
    return entry.by == "power" or _shared(inp, m.disk_pool)


def _shared(inp: PlanInput, pool: str) -> bool:
    declared = inp.spec.disk_pools.get(key("diskpool", pool))
    return declared is not None and declared.spec.type == "shared"


def _runs(inp: PlanInput, server: ServerName, m: MachineEntry) -> bool:
    seen = inp.inventory.domain(server, m.uid)
    return seen is not None and seen.value.state in {"running", "paused"}


def _has_ended(inp: PlanInput, server: ServerName, m: MachineEntry) -> bool:
    return _usable(inp, server) and not _runs(inp, server, m)


def _overfull(inp: PlanInput, t: Tables, name: ServerName) -> Iterator[str]:
    declared = inp.spec.servers.get(key("server", name))
    seen = inp.inventory.server(name)
    if declared is None or seen is None:
        yield f"server {name} is not declared or was never seen"
        return
    reserved = declared.spec.reservation
    memory = seen.value.memory_mib - int(quantity.parse(reserved.memory) // quantity.MIB)
    cpus = (seen.value.cpus - reserved.cpu) * declared.spec.cpu_overcommit
    if t.memory_mib[name] > memory:
        yield f"server {name} would have {t.memory_mib[name]} MiB of {memory} MiB allocated"
    if t.cpus[name] > cpus:
        yield f"server {name} would have {t.cpus[name]} CPUs of {cpus:g} allocated"


def _misplaced(inp: PlanInput, m: MachineEntry) -> Iterator[str]:
    declared = inp.spec.servers.get(key("server", m.server))
    seen = inp.inventory.server(m.server)
    if declared is None or seen is None:
        return
    role = role_of(declared, inp.parent.metal(m.server))
    if role != "hypervisor" or declared.spec.unschedulable or declared.metadata.deletion_timestamp:
        yield f"server {m.server} does not take machines"
    if not seen.value.connected or not seen.fresh(inp.now):
        yield f"server {m.server} is not connected"
    if seen.value.system != "hypervisor":
        yield f"server {m.server} runs no hypervisor"
    if m.nic.bridge not in seen.value.bridges:
        yield f"server {m.server} has no bridge {m.nic.bridge}"
    if seen.value.pool(m.disk_pool) is None:
        yield f"server {m.server} has no disk pool {m.disk_pool}"


# --- control planes -------------------------------------------------------------------------------------------


def _control_planes(
    inp: PlanInput, t: Tables, changes: dict[Key, tuple[AnyEntry | None, AnyEntry | None]]
) -> Iterator[Finding]:
    """Rules 2 and 9: one at a time, with a quorum before and after, and never the last copy."""
    leaving: dict[Key, list[MachineEntry]] = {}
    for old, new in changes.values():
        if not isinstance(old, MachineEntry) or old.role != "control-plane" or old.desired != "run":
            continue
        if not isinstance(new, MachineEntry) or new.desired != "run":
            leaving.setdefault(key("cluster", old.cluster), []).append(old)
    for k, machines in sorted(leaving.items()):
        cluster = t.entries.get(k)
        before = inp.parent.entries.get(k)
        if not isinstance(cluster, ClusterEntry) or cluster.desired == "absent":
            continue  # deleted by its user: the whole of it goes
        if isinstance(before, ClusterEntry):
            yield from _quorum(inp, t, before, machines)


def _quorum(inp: PlanInput, t: Tables, cluster: ClusterEntry, leaving: list[MachineEntry]) -> Iterator[Finding]:
    seen = inp.inventory.cluster(cluster.cluster)
    view = seen.value if seen is not None else ClusterView(cluster=cluster.cluster)
    if not (cluster.initialised or view.initialised):
        return
    counting = [m for m in leaving if m.joined or m.name in view.etcd_members]
    if not counting:
        return
    names = ", ".join(m.name for m in counting)
    if len(counting) > 1:
        yield Finding(key=cluster.key, rule="2", sentence=f"{names} would leave the control plane at once")
    if len(view.etcd_members) < 2:
        yield Finding(key=cluster.key, rule="9", sentence=f"{names} may hold the only copy of the cluster's data")
        return
    stay = [m for m in t.planes[cluster.cluster].values() if m.desired == "run" and m.name in view.etcd_members]
    alive = sum(1 for m in stay if _ready(inp, m))
    after = len(set(view.etcd_members) - {m.name for m in counting})
    if alive < after // 2 + 1:
        said = f"without {names} {alive} of {after} etcd members would be alive, which is no quorum"
        yield Finding(key=cluster.key, rule="2", sentence=said)


def _ready(inp: PlanInput, m: MachineEntry) -> bool:
    node = inp.inventory.node(m.cluster, m.name)
    return node is not None and node.value.present and node.value.ready
