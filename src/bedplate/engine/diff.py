"""From the blueprint and the inventory to the steps that may run now. Pure: what runs is decided by data alone.

`next_for` looks at one entry and gives its one next step, or what it waits on. There is no workflow state: after a
crash the same look gives the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal

import msgspec

from bedplate.model.attempts import Attempt, AttemptsByTarget
from bedplate.model.blueprint import (
    BASE_ADDON,
    Blueprint,
    ClusterEntry,
    MachineEntry,
    MetalEntry,
    RetainedDiskEntry,
    ServerEntry,
)
from bedplate.model.ids import ClusterKey, Key, ServerName
from bedplate.model.inventory import ClusterView, DomainView, Inventory, NodeView, Observation
from bedplate.model.report import Waiting
from bedplate.model.steps import (
    BootDisk,
    BootMedia,
    Bootstrap,
    ClearOutOfService,
    CreateVolume,
    DefineDomain,
    DeleteNode,
    DeleteRetained,
    DeleteVolume,
    DrainNode,
    DropSecrets,
    ForgetDomain,
    InstallAddons,
    MakeSecrets,
    MarkOutOfService,
    MigrateDomain,
    PowerOff,
    PowerOn,
    PullImage,
    ReadPower,
    ReceiveDomain,
    RemoveDomain,
    RemoveEtcdMember,
    RetainVolume,
    StartDomain,
    Step,
    StopDomain,
)
from bedplate.model.whereabouts import domain_of, strays


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry needs: a step with its reason, or something it waits on, or nothing (both None)."""

    step: Step | None = None
    reason: str = ""
    waiting: Waiting | None = None


class World(msgspec.Struct, frozen=True, kw_only=True):
    """All that the diff reads."""

    blueprint: Blueprint
    inventory: Inventory
    attempts: AttemptsByTarget
    now: float
    control_planes: Mapping[Key, tuple[MachineEntry, ...]]
    """Control-plane entries by their cluster's key, in the order of their creation."""
    members: Mapping[ClusterKey, Set[Key]]
    """Keys of all entries of a cluster, its own included."""
    joins_at_once: int
    """As in `Policy`."""
    power_fresh: float = 5.0
    """As in `Policy`."""


SATISFIED = Next()


def _wait(waiting: Waiting, reason: str) -> Next:
    return Next(waiting=waiting, reason=reason)


def next_for(world: World, key: Key) -> Next:
    """Give what the entry of that key needs next; `SATISFIED` where the key has no entry."""
    entry = world.blueprint.entries.get(key)
    match entry:
        case MachineEntry():
            return _machine(world, entry)
        case ClusterEntry():
            return _cluster(world, entry)
        case RetainedDiskEntry():
            return _retained_disk(world, entry)
        case ServerEntry():
            return _server(world, entry)
        case MetalEntry() | None:
            return SATISFIED


def beside(world: World, key: Key) -> Next:
    """Give the step of another lane that the entry of that key needs whatever `next_for` says; else `SATISFIED`."""
    entry = world.blueprint.entries.get(key)
    if isinstance(entry, MachineEntry) and entry.desired == "run":
        return _pods_held(world, entry) or SATISFIED
    return SATISFIED


# --- machines -------------------------------------------------------------------------------------------------


def _machine(world: World, m: MachineEntry) -> Next:
    if m.desired != "run" and (held := _pods_held(world, m)) is not None:
        return held
    if (left := _taint_left(world, m)) is not None:
        return left
    stray = _forget_strays(world, m)
    if stray is not None:
        return stray
    if not _usable(world, m.server):
        return _without_server(world, m)
    if m.source and m.desired in {"run", "stop", "manual"}:
        return _moving(world, m)
    domain = _domain(world, m)
    match m.desired:
        case "run":
            return _run(world, m, domain)
        case "stop":
            return _stop(m, domain)
        case "manual":
            return _ready_to_start(world, m, domain) or SATISFIED
        case "drain":
            return _drain(world, m, domain)
        case "remove":
            return _remove(world, m, domain)


def _usable(world: World, server: ServerName) -> bool:
    """The server's agent is connected and has told all it knows."""
    seen = world.inventory.server(server)
    return seen is not None and seen.value.connected and f"agent/{server}" in world.inventory.synced


def _domain(world: World, m: MachineEntry) -> DomainView:
    seen = world.inventory.domain(m.server, m.uid)
    return seen.value if seen is not None else DomainView(server=m.server, uid=m.uid)


def _without_server(world: World, m: MachineEntry) -> Next:
    """What can be done for a machine whose server is not heard of: one that is given up leaves its cluster, where the
    server's end is confirmed; before that its Node stays as it is, with its volumes."""
    dead = _ended_with_server(world, m)
    cluster = world.blueprint.cluster(m.cluster)
    if dead and m.desired == "remove" and m.is_node and cluster is not None and cluster.desired == "present":
        return _leave_behind(world, cluster, m) or _wait(Waiting.SERVER, f"server {m.server} is dead")
    return _wait(Waiting.SERVER, f"server {m.server} is {'dead' if dead else 'not connected'}")


def _ended_with_server(world: World, m: MachineEntry) -> bool:
    """The server is confirmed dead and not back, and that confirms the machine's end: an expired lease says so only of
    guests whose disks are on the pool."""
    lost, seen = world.blueprint.server(m.server), world.inventory.server(m.server)
    if lost is None or lost.standing != "dead" or (seen is not None and seen.value.connected):
        return False
    return lost.by == "power" or any(o.value.disk_pool == m.disk_pool for o in world.inventory.leases(m.server))


def _forget_strays(world: World, m: MachineEntry) -> Next | None:
    """End what other servers still know of the machine, before anything is begun where it should be."""
    for seen in strays(world.inventory, m):
        server = seen.value.server
        if _usable(world, server):
            return Next(step=ForgetDomain(server=server, machine=m), reason=f"it is no longer on {server}")
    return None


def _moving(world: World, m: MachineEntry) -> Next:
    """A live migration, from what both ends show."""
    if not _usable(world, m.source):
        return _wait(Waiting.UNCONFIRMED, f"it moves from {m.source}, which is not connected")
    seen = world.inventory.domain(m.source, m.uid)
    there, here = (seen.value.state if seen is not None else "absent"), _domain(world, m)
    if there == "running" and here.state == "running":
        return _wait(Waiting.UNCONFIRMED, "it shows as running at both ends of its move; one view is old")
    if there == "running" and here.generation < m.generation:
        return Next(step=ReceiveDomain(machine=m), reason=f"{m.server} is to take it over")
    if there == "running":
        target = world.inventory.server(m.server)
        address = target.value.address if target is not None else ""
        return Next(step=MigrateDomain(machine=m, address=address), reason=m.reason)
    return _wait(Waiting.MIGRATION, f"it moves from {m.source}; planning looks at how that ended")


def _pods_held(world: World, m: MachineEntry) -> Next | None:
    """Free the pods of a node whose machine's end is confirmed."""
    found = _node_at_api(world, m) if m.out_of_service else None
    if found is None or found[1].out_of_service or _runs(world, m):
        return None
    if not _usable(world, m.server) and not _ended_with_server(world, m):
        return None
    step = MarkOutOfService(cluster=found[0], machine=m)
    return Next(step=step, reason="its end is confirmed, so its pods are freed")


def _taint_left(world: World, m: MachineEntry) -> Next | None:
    """Take the taint off a node that is back."""
    found = _node_at_api(world, m)
    if found is None or not (found[1].out_of_service and found[1].ready and _runs(world, m)):
        return None
    return Next(step=ClearOutOfService(cluster=found[0], machine=m), reason="its node is back")


def _node_at_api(world: World, m: MachineEntry) -> tuple[ClusterEntry, NodeView] | None:
    """The machine's own Node, where its cluster's API can be asked to change it."""
    cluster = world.blueprint.cluster(m.cluster) if m.is_node else None
    if cluster is None or cluster.desired == "absent" or not _cluster_view(world, cluster).api:
        return None
    node = world.inventory.node(m.cluster, m.name)
    return (cluster, node.value) if node is not None and is_node_of(node, m) else None


def _runs(world: World, m: MachineEntry) -> bool:
    """It is seen running, in the boot that is wanted."""
    d = _domain(world, m)
    return d.state == "running" and d.boot >= m.boot and _usable(world, m.server)


def _run(world: World, m: MachineEntry, d: DomainView) -> Next:
    if d.state == "paused":
        return _wait(Waiting.UNCONFIRMED, "the domain is paused; resume it on its server")
    if d.state == "running" and d.boot < m.boot and m.joined:
        return Next(step=StopDomain(machine=m, grace=10.0), reason="it hangs and is to be started anew")
    if d.state == "running":
        return _joined(world, m, d) if m.is_node else _up(m, d)
    unfinished = _ready_to_start(world, m, d)
    if unfinished is not None:
        return unfinished
    if d.boot < m.boot:
        return Next(step=StartDomain(machine=m), reason=f"it is to run (boot {m.boot})")
    return _wait(Waiting.BOOT, f"the domain ended after boot {d.boot}; planning decides on another")


def _ready_to_start(world: World, m: MachineEntry, d: DomainView) -> Next | None:
    """What is missing before it can be started, by whomever; None: nothing, or it runs."""
    if d.state in {"running", "paused"}:
        return None
    if (hidden := _without_pool(world, m)) is not None:
        return hidden
    if m.carried and d.generation < m.generation:
        return Next(step=DefineDomain(machine=m), reason=f"{m.server} takes its disk over")
    if not d.volume:
        if m.joined or m.carried or attempt(world, m.key, "CreateVolume").succeeded:
            # An empty disk in its place would make a machine that is nobody's: planning replaces it.
            return _wait(Waiting.UNCONFIRMED, "its disk is gone; planning decides what becomes of it")
        return _volume(world, m)
    if d.state == "absent" or d.generation < m.generation:
        return Next(step=DefineDomain(machine=m), reason="its domain is not defined as planned")
    return None


def _without_pool(world: World, m: MachineEntry) -> Next | None:
    """Nothing can be done about a disk whose pool its server does not show."""
    view = world.inventory.server(m.server)
    if view is not None and view.value.pool(m.disk_pool) is not None:
        return None
    return _wait(Waiting.SERVER, f"server {m.server} does not show disk pool {m.disk_pool}")


def _volume(world: World, m: MachineEntry) -> Next:
    view = world.inventory.server(m.server)
    pool = view.value.pool(m.disk_pool) if view is not None else None
    if pool is None:
        return _wait(Waiting.SERVER, f"server {m.server} does not show disk pool {m.disk_pool}")
    wanted = {digest for digest in (m.image.disk, m.image.kernel, m.image.initrd) if digest}
    if not wanted <= set(pool.images):
        step = PullImage(server=m.server, disk_pool=m.disk_pool, image=m.image)
        return Next(step=step, reason=f"image {m.image.name} is not in disk pool {m.disk_pool}")
    return Next(step=CreateVolume(machine=m), reason="it has no disk yet")


def _up(m: MachineEntry, d: DomainView) -> Next:
    if m.image.bootstrap == "guest-agent" and not d.guest_agent:
        return _wait(Waiting.BOOT, "its guest is starting")
    return SATISFIED


def _joined(world: World, m: MachineEntry, d: DomainView) -> Next:
    node = world.inventory.node(m.cluster, m.name)
    if is_node_of(node, m):
        assert node is not None
        return SATISFIED if node.value.ready else _wait(Waiting.JOIN, "its node is not Ready yet")
    if m.joined:
        return _wait(Waiting.JOIN, "its node is not seen at the cluster's API")
    if not d.guest_agent:
        return _wait(Waiting.BOOT, "its guest is starting")
    if d.bootstrap == "running":
        return _wait(Waiting.JOIN, "kubeadm is at work in it")
    if d.bootstrap == "done":
        return _wait(Waiting.JOIN, "kubeadm ended well; its node is not seen yet")
    return _bootstrap(world, m)


def _bootstrap(world: World, m: MachineEntry) -> Next:
    cluster = world.blueprint.cluster(m.cluster)
    if cluster is None:
        return _wait(Waiting.CONTROL_PLANE, "its cluster is not planned")
    view = _cluster_view(world, cluster)
    if not view.secrets:
        return _wait(Waiting.SECRETS, "the cluster's certificate authorities are being made")
    first = cluster.first_machine == m.uid
    if first and not cluster.initialised and not view.initialised:
        return Next(step=Bootstrap(cluster=cluster, machine=m, mode="init"), reason="it is to start the control plane")
    if not view.api:
        return _wait(Waiting.CONTROL_PLANE, "the control plane does not answer yet")
    if _is_starting(world, cluster):
        return _wait(Waiting.CONTROL_PLANE, "kubeadm init is not done yet in the first machine")
    peers = _peers(world, cluster, m)
    if not peers:
        return _wait(Waiting.CONTROL_PLANE, "no control-plane machine is up to take it in")
    if m.role == "control-plane" and _another_is_joining(world, cluster, m):
        return _wait(Waiting.CONTROL_PLANE_BUSY, "another control-plane machine is joining")
    if m.role == "worker" and (others := _joining(world, cluster, m)) >= world.joins_at_once:
        return _wait(
            Waiting.JOIN_TURN, f"{others} other{'s are' if others > 1 else ' is'} joining; its turn comes next"
        )
    return Next(
        step=Bootstrap(cluster=cluster, machine=m, mode="join", peers=peers), reason="it is to join the cluster"
    )


def _is_starting(world: World, cluster: ClusterEntry) -> bool:
    """True while `kubeadm init` runs: what joiners read is written by its last phases, and they would only poll."""
    for m in world.control_planes.get(cluster.key, ()):
        if m.uid == cluster.first_machine:
            domain = domain_of(world.inventory, m)
            return domain is not None and domain.value.bootstrap == "running"
    return False


def _joining(world: World, cluster: ClusterEntry, m: MachineEntry) -> int:
    """How many other machines of the cluster are between the start of their kubeadm join and their Node."""
    count = 0
    for k in world.members.get(cluster.cluster, ()):
        other = world.blueprint.entries.get(k)
        if not isinstance(other, MachineEntry) or other.uid == m.uid or other.desired != "run":
            continue
        if is_node_of(world.inventory.node(m.cluster, other.name), other):
            continue
        domain = domain_of(world.inventory, other)
        begun = domain is not None and domain.value.state == "running" and domain.value.bootstrap in {"running", "done"}
        if begun or attempt(world, other.key, "Bootstrap").running:
            count += 1
            if count >= world.joins_at_once:
                break
    return count


def _another_is_joining(world: World, cluster: ClusterEntry, m: MachineEntry) -> bool:
    """True where another control-plane machine has begun to join and is no node yet, or comes first in order."""
    for other in world.control_planes.get(cluster.key, ()):
        if other.uid == m.uid or other.joined or is_node_of(world.inventory.node(m.cluster, other.name), other):
            continue
        domain = domain_of(world.inventory, other)
        begun = domain is not None and domain.value.bootstrap in {"running", "done"}
        begun = begun or attempt(world, other.key, "Bootstrap").running
        if begun or (other.desired == "run" and (other.created, other.uid) < (m.created, m.uid)):
            return True
    return False


def _stop(m: MachineEntry, d: DomainView) -> Next:
    if d.state in {"running", "paused"}:
        return Next(step=StopDomain(machine=m), reason="it is to be off")
    return SATISFIED


def _drain(world: World, m: MachineEntry, d: DomainView) -> Next:
    cluster = world.blueprint.cluster(m.cluster)
    node = world.inventory.node(m.cluster, m.name)
    if cluster is None or cluster.desired == "absent":
        return SATISFIED
    view = _cluster_view(world, cluster)
    if d.state not in {"running", "paused"} and d.boot < m.boot:  # etcd can't do without it yet
        return _ready_to_start(world, m, d) or Next(step=StartDomain(machine=m), reason=f"boot {m.boot}: {m.reason}")
    member = m.name in view.etcd_members
    if not is_node_of(node, m) and not member:
        return SATISFIED
    if not view.api:
        return _wait(Waiting.CONTROL_PLANE, "the cluster's API does not answer, so its node can't be drained")
    if is_node_of(node, m) and attempt(world, m.key, "DrainNode", m.generation).succeeded == 0.0:
        return Next(step=DrainNode(cluster=cluster, machine=m), reason="its pods are to move away")
    if member:
        peers = _peers(world, cluster, m)
        if not peers:
            return _wait(Waiting.QUORUM, "no other control-plane machine is up")
        return Next(
            step=RemoveEtcdMember(cluster=cluster, machine=m, peers=peers), reason="it leaves etcd before it goes"
        )
    return Next(step=DeleteNode(cluster=cluster, machine=m), reason="it leaves the cluster")


def _remove(world: World, m: MachineEntry, d: DomainView) -> Next:
    polite = d.state == "running" and m.role == "vm"  # without a guest agent it is asked by its power button alone
    if polite and attempt(world, m.key, "StopDomain", m.generation).succeeded == 0.0:
        return Next(step=StopDomain(machine=m), reason="it is to end in good order")
    cluster = world.blueprint.cluster(m.cluster)
    member = m.role == "control-plane" and m.joined
    if member and cluster is not None and cluster.desired == "present" and cluster.initialised:
        view = _cluster_view(world, cluster)
        if not view.api:
            return _wait(Waiting.QUORUM, "its cluster's API does not answer, so its etcd member can't be taken out yet")
    if d.state != "absent":
        return Next(step=RemoveDomain(machine=m), reason="it is to go")
    if cluster is not None and cluster.desired == "present" and m.is_node:
        leaving = _leave_behind(world, cluster, m)
        if leaving is not None:
            return leaving
    if d.volume:
        if (hidden := _without_pool(world, m)) is not None:
            return hidden
        if m.retain_disk:
            return Next(step=RetainVolume(machine=m), reason="its disk is kept (rule 9)")
        return Next(step=DeleteVolume(machine=m), reason="its disk goes with it")
    return SATISFIED


def _leave_behind(world: World, cluster: ClusterEntry, m: MachineEntry) -> Next | None:
    """What a machine that ended leaves at the cluster: an etcd member, a Node object. None: nothing."""
    view = _cluster_view(world, cluster)
    if not view.api:
        return None
    if m.name in view.etcd_members and len(view.etcd_members) > 1:
        peers = _peers(world, cluster, m)
        if peers:
            return Next(
                step=RemoveEtcdMember(cluster=cluster, machine=m, peers=peers), reason="its etcd member is left over"
            )
    if is_node_of(world.inventory.node(m.cluster, m.name), m):
        return Next(step=DeleteNode(cluster=cluster, machine=m), reason="its Node object is left over")
    return None


# --- clusters and disks -----------------------------------------------------------------------------------------


def _cluster(world: World, c: ClusterEntry) -> Next:
    view = _cluster_view(world, c)
    if c.desired == "absent":
        if set(world.members.get(c.cluster, ())) - {c.key}:
            return _wait(Waiting.DELETION, "its machines are still going")
        if attempt(world, c.key, "DropSecrets", c.generation).succeeded == 0.0:
            return Next(step=DropSecrets(cluster=c), reason="its certificate authorities go with it")
        return SATISFIED
    if not view.secrets:
        return Next(step=MakeSecrets(cluster=c), reason="it has no certificate authorities yet")
    if not view.api:
        return SATISFIED
    wanted = {a.mark for a in (*c.addons, BASE_ADDON)}
    if not wanted <= set(view.addons):
        return Next(step=InstallAddons(cluster=c), reason="its addons are not as declared")
    return SATISFIED


def _server(world: World, s: ServerEntry) -> Next:
    """Read the power of a server that is not heard of; cut it where planning wants it fenced."""
    if s.bmc is None or s.standing == "dead":
        return SATISFIED
    seen = world.inventory.bmc(s.server)
    fresh = seen is not None and seen.time >= s.since and world.now < seen.time + world.power_fresh
    if s.standing == "fence" and not (fresh and seen is not None and seen.value.power == "off"):
        return Next(step=PowerOff(entry=s), reason=s.reason)
    if not fresh:
        return Next(step=ReadPower(entry=s), reason=s.reason)
    return SATISFIED


def _retained_disk(world: World, r: RetainedDiskEntry) -> Next:
    if r.desired == "present":
        return SATISFIED
    if attempt(world, r.key, "DeleteRetained", r.generation).succeeded:
        return SATISFIED
    server = world.inventory.server(r.server)
    if server is None or not server.value.connected:
        return _wait(Waiting.SERVER, f"server {r.server} is not connected")
    step = DeleteRetained(server=r.server, disk_pool=r.disk_pool, uid=r.uid, generation=r.generation)
    return Next(step=step, reason="it is no longer to be kept")


# --- looking things up ------------------------------------------------------------------------------------------


def _cluster_view(world: World, cluster: ClusterEntry) -> ClusterView:
    observed = world.inventory.cluster(cluster.cluster)
    return observed.value if observed is not None else ClusterView(cluster=cluster.cluster)


def _peers(world: World, cluster: ClusterEntry, m: MachineEntry) -> tuple[MachineEntry, ...]:
    """Other control-plane machines that are nodes and whose guests answer."""
    peers: list[MachineEntry] = []
    for other in world.control_planes.get(cluster.key, ()):
        domain = domain_of(world.inventory, other)
        if other.uid == m.uid or other.desired not in {"run"} or domain is None:
            continue
        if domain.value.state == "running" and domain.value.guest_agent and _is_member(world, other, domain.value):
            peers.append(other)
    return tuple(peers)


def _is_member(world: World, m: MachineEntry, d: DomainView) -> bool:
    return d.bootstrap == "done" or m.joined or is_node_of(world.inventory.node(m.cluster, m.name), m)


def is_node_of(node: Observation[NodeView] | None, m: MachineEntry) -> bool:
    """True where the node was seen and is this machine's, not one of an earlier machine with that name."""
    return node is not None and node.value.present and node.value.machine in {"", m.uid}


def attempt(world: World, target: Key, step: str, generation: int | None = None) -> Attempt:
    """The history of a step on a target; an empty one where it was made for another generation."""
    found = world.attempts.get(target, {}).get(step)
    if found is None or (generation is not None and found.generation != generation):
        return Attempt()
    return found


Family = Literal["agent", "bootstrap", "kubernetes", "bmc"]


def family(step: Step) -> Family:
    """Which port runs the step."""
    if isinstance(step, MakeSecrets | DropSecrets | Bootstrap | RemoveEtcdMember):
        return "bootstrap"
    if isinstance(step, InstallAddons | DrainNode | DeleteNode | MarkOutOfService | ClearOutOfService):
        return "kubernetes"
    if isinstance(step, ReadPower | PowerOff | PowerOn | BootMedia | BootDisk):
        return "bmc"
    return "agent"
