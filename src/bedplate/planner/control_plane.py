"""Control planes of 1, 3 or 5 with stacked etcd: placed whole or not at all, then changed one machine at a time.

etcd keeps its quorum through every change (rule 2), and the last copy of a cluster's data is never given up (rule 9).
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry
from bedplate.model.ids import Key, MachineUid
from bedplate.model.report import Waiting
from bedplate.planner import clusters, cpus, machines, maintain, placement, spare, versions
from bedplate.planner.context import Planning
from bedplate.planner.leaving import leave
from bedplate.planner.machines import Mold
from bedplate.planner.scope import Scope, quorum


def outdated(s: Scope) -> dict[str, str]:
    """The control-plane machines that are to be replaced, by uid, with why."""
    if s.entry is None or s.declared is None:
        return {}
    shape = s.declared.spec.control_plane.machine
    images = s.p.index.images
    found: dict[str, str] = {}
    fits = not shape.image or images.versions.get(shape.image) == s.entry.version
    for m in s.running(s.unit):
        what = machines.differs(m, shape, images.refs.get(shape.image), s.entry.version) if fits else ""
        if m.uid in s.p.spec.doomed_machines:
            what = "a user deleted it"
        what = what or maintain.emptying(s.p, m)
        if what:
            found[m.uid] = what
    return found


def is_current(s: Scope) -> bool:
    """No control-plane machine is of an old version or shape: workers follow their control plane."""
    return not outdated(s)


# --- shrinking ------------------------------------------------------------------------------------------------


def shrink(p: Planning, unit: Key) -> None:
    """Have one machine leave where there is one too many: of a smaller control plane, or an old one replaced."""
    s = Scope(p, unit)
    if s.entry is None or s.declared is None or not s.wanted:
        return
    run = s.running(unit)
    wanted = s.declared.spec.control_plane.replicas
    if not s.initialised:
        _shrink_unborn(p, s, run, wanted)
        return
    old = outdated(s)
    if len(run) <= wanted:
        broken = [m for m in run if m.uid in old and m.joined and not s.ready(m)]
        if broken and len(run) == wanted:
            _leave_safely(p, s, broken[0], old[broken[0].uid])
        return
    # Of a roll-out the old one goes, never the new one that has yet to join in its place.
    victim = min(
        [m for m in run if m.uid in old] or run,
        key=lambda m: (s.is_member(m) or m.joined, m.uid not in old, s.ready(m), -m.created, m.uid),
    )
    why = old.get(victim.uid, f"the control plane has {len(run)} machines, {wanted} are declared")
    _leave_safely(p, s, victim, why)


def _shrink_unborn(p: Planning, s: Scope, run: list[MachineEntry], wanted: int) -> None:
    """Before the first init there is no data and no etcd: surplus and unwanted machines just go."""
    assert s.entry is not None
    surplus = [m for m in reversed(run) if m.uid != s.entry.first_machine][: max(0, len(run) - wanted)]
    for m in run:
        if m in surplus:
            leave(p, m, f"the control plane has {len(run)} machines, {wanted} are declared")
        elif m.uid in p.spec.doomed_machines:
            leave(p, m, "a user deleted it")


def _leave_safely(p: Planning, s: Scope, victim: MachineEntry, why: str) -> None:
    """Have the machine leave unless that would touch the quorum or another change is under way."""
    reason = obstacle(s, victim)
    if reason is not None:
        p.wait(s.unit, reason[0], f"{victim.name} is to go ({why}), but {reason[1]}")
        return
    leave(p, victim, why)


def obstacle(s: Scope, victim: MachineEntry) -> tuple[Waiting, str] | None:
    """Why this machine can't leave the control plane now; None where it can."""
    others = [m for m in s.planes if m.uid != victim.uid]
    going = next((m for m in others if m.desired != "run"), None)
    if going is not None:
        return Waiting.CONTROL_PLANE_BUSY, f"{going.name} is still leaving"
    if not s.is_member(victim) and not victim.joined:
        return None
    if not s.view.api:
        return Waiting.CONTROL_PLANE, "the control plane's API does not answer"
    joining = next((m for m in others if not (m.joined and s.is_member(m))), None)
    if joining is not None:
        return Waiting.CONTROL_PLANE_BUSY, f"{joining.name} is still joining"
    members = len(s.view.etcd_members)
    alive = s.alive_without(victim)
    after = members - 1 if s.is_member(victim) else members
    if after < 1 or alive < quorum(after):
        return Waiting.QUORUM, f"{alive} of the {max(after, 0)} other etcd members are alive"
    if alive + s.ready(victim) < quorum(members):
        return Waiting.QUORUM, f"etcd has no quorum: {alive} of {members} members are alive"
    if s.ready(victim) and alive < after:
        return Waiting.QUORUM, "all other etcd members must be alive before a healthy one goes"
    return None


# --- growing --------------------------------------------------------------------------------------------------


def grow(p: Planning, unit: Key) -> None:
    """Make the cluster with its whole control plane, or the one machine that is missing of it."""
    s = Scope(p, unit)
    c = s.declared
    if c is None or c.metadata.deletion_timestamp:
        return
    if not s.wanted:
        p.wait(unit, Waiting.DELETION, "an earlier cluster of this name is still going")
        return
    if c.spec.control_plane.machine.substrate != "vm":
        said = f"substrate {c.spec.control_plane.machine.substrate} is not supported yet; use vm"
        p.wait(unit, Waiting.NOT_BUILT, said)
        return
    run, wanted = s.running(unit), c.spec.control_plane.replicas
    if s.entry is None:
        entry = clusters.new_entry(p, unit, c)
        if entry is not None:
            _place_whole(p, s, entry, wanted)
    elif not s.initialised:
        _grow_unborn(p, s, s.entry, run, wanted)
    else:
        _grow_by_one(p, s, s.entry, run, wanted)


def _place_whole(p: Planning, s: Scope, entry: ClusterEntry, count: int) -> None:
    """Place the first control plane: all of it or nothing."""
    image = _image(p, s, entry)
    if image is None:
        return
    made = _make(p, s, entry, image, count, [], f"cluster {s.cluster} is to have {count} control-plane machines")
    if len(made) < count:
        return
    first = made[0]
    said = f"cluster {s.cluster} is created with Kubernetes {entry.version} at {entry.endpoint}:{entry.port}"
    p.put(msgspec.structs.replace(entry, first_machine=first.uid), said)


def _grow_unborn(p: Planning, s: Scope, entry: ClusterEntry, run: list[MachineEntry], wanted: int) -> None:
    """Before init there is no etcd to protect: all that is missing is made at once."""
    if len(run) < wanted:
        image = _image(p, s, entry)
        if image is not None:
            why = f"cluster {s.cluster} is to have {wanted} control-plane machines"
            _make(p, s, entry, image, wanted - len(run), s.planes, why)
    planes = Scope(p, s.unit).planes
    if any(m.uid == entry.first_machine for m in planes):
        return  # while anything is left of it, nobody else may begin a cluster of that name
    heirs = [m for m in planes if m.desired == "run"]
    first = heirs[0].uid if heirs else MachineUid("")
    if first != entry.first_machine:
        said = f"{heirs[0].name} starts the control plane" if heirs else "no machine is there to start it"
        p.put(msgspec.structs.replace(entry, first_machine=first), f"cluster {s.cluster}: {said}")


def _grow_by_one(p: Planning, s: Scope, entry: ClusterEntry, run: list[MachineEntry], wanted: int) -> None:
    """After init: one more, when all that are there are well."""
    old = outdated(s)
    healthy_old = [m for m in run if m.uid in old and s.ready(m)]
    target = wanted + (1 if healthy_old else 0)
    if len(run) >= target:
        if old and not p.is_waiting(s.unit):
            p.wait(s.unit, Waiting.CONTROL_PLANE_BUSY, f"{len(old)} control-plane machines are still to be replaced")
        return
    unsettled = _unsettled(s, run)
    if unsettled is not None:
        p.wait(s.unit, *unsettled)
        return
    image = _image(p, s, entry)
    if image is None:
        return
    stay = [m for m in run if not healthy_old or m.uid != healthy_old[0].uid]
    why = f"the control plane of {s.cluster} is to have {wanted} machines"
    if healthy_old and len(run) >= wanted:
        why = f"it stands in for {healthy_old[0].name}: {old[healthy_old[0].uid]}"
    _make(p, s, entry, image, 1, stay, why)


def _unsettled(s: Scope, run: list[MachineEntry]) -> tuple[Waiting, str] | None:
    """What must settle before another machine may join; None: nothing."""
    if not s.view.api:
        return Waiting.CONTROL_PLANE, "the control plane's API does not answer"
    for m in s.planes:
        if m.desired != "run" and (s.is_member(m) or s.node(m) is not None):
            return Waiting.CONTROL_PLANE_BUSY, f"{m.name} is still leaving"
    for m in run:
        if not m.joined or not s.is_member(m):
            return Waiting.CONTROL_PLANE_BUSY, f"{m.name} is still joining"
        if not s.ready(m):
            return Waiting.QUORUM, f"{m.name} is not Ready; another member would put the quorum at risk"
    if len(s.view.etcd_members) > len(run):
        return Waiting.CONTROL_PLANE_BUSY, "etcd has a member that is no machine of this cluster"
    return None


# --- making ---------------------------------------------------------------------------------------------------


def _image(p: Planning, s: Scope, entry: ClusterEntry) -> ImageRef | None:
    assert s.declared is not None
    return versions.node_image(p, s.unit, s.declared.spec.control_plane.machine.image, entry.version)


def _make(
    p: Planning, s: Scope, entry: ClusterEntry, image: ImageRef, count: int, beside: list[MachineEntry], why: str
) -> list[MachineEntry]:
    """Make machines apart from each other and from those `beside`; all of them or none."""
    assert s.declared is not None
    plane = s.declared.spec.control_plane
    if entry.endpoint_type == "vrrp" and s.entry is None:
        p.index.network(entry.network).take(entry.endpoint)  # not for a machine
    mold = Mold(
        owner=s.unit,
        namespace=s.declared.metadata.namespace,
        prefix=f"{s.declared.metadata.name}-cp",
        cluster=s.cluster,
        role="control-plane",
        shape=plane.machine,
        size=machines.size_of(plane.machine, image),
        image=image,
        version=entry.version,
        network=entry.network,
        cpu_model=cpus.chosen(p, plane.machine.cpu_model),
        spread=plane.spread,
        drain_timeout=float(plane.rollout.drain_timeout_seconds),
        ssh_keys=s.declared.spec.ssh_keys,
    )
    made = _place_all(p, mold, count, beside, why)
    if entry.endpoint_type == "vrrp" and s.entry is None:
        p.index.network(entry.network).take(entry.endpoint, -1)
    return made


def _place_all(p: Planning, mold: Mold, count: int, beside: list[MachineEntry], why: str) -> list[MachineEntry]:
    on_servers, in_domains = machines.siblings(p, beside, mold.spread)
    order = placement.eligible(p, machines.request(mold, on_servers, in_domains))
    total = count + len(beside)
    servers, domains = len(order.servers), len(order.domains(mold.spread)) if mold.spread else 0
    limit = -(-total // max(servers, 1))
    if limit > 1 and servers:
        why = f"{why}; there are only {servers} servers for {total}, so some share one"
    made: list[MachineEntry] = []
    for i in range(count):
        r = machines.request(mold, on_servers, in_domains, limit, -(-total // domains) if domains else None)
        what = f"{count - i} of {total} control-plane machines are not placed"
        place = spare.place(p, mold.owner, r, what, replaces=bool(beside))
        m = machines.create(p, mold, place, why) if place is not None else None
        if m is None:
            for entry in made:
                p.undo(entry.key)
            return []
        made.append(m)
        on_servers[m.server] += 1
        in_domains[p.index.fleet.server(m.server).domains.get(mold.spread, "")] += 1
    return made
