"""From the blueprint and the inventory to the steps that may run now. Pure: what runs is decided by data alone.

`next_for` looks at one entry and gives its one next step, or what it waits on. There is no workflow state: after a
crash the same look gives the same step.
"""

from __future__ import annotations

from typing import Literal

from bedplate.engine import diff_metal
from bedplate.engine.diff_nodes import drained, joined, leave_behind
from bedplate.engine.wanted import SATISFIED, Next, World, attempt, cluster_view, domain_at, is_node_of, usable, wait
from bedplate.model.blueprint import (
    BASE_ADDON,
    CachedImageEntry,
    ClusterEntry,
    MachineEntry,
    MetalEntry,
    RetainedDiskEntry,
    ServerEntry,
)
from bedplate.model.ids import Key
from bedplate.model.inventory import DomainView, NodeView
from bedplate.model.report import Waiting
from bedplate.model.steps import (
    BootDisk,
    BootMedia,
    Bootstrap,
    ClearOutOfService,
    CreateVolume,
    DefineDomain,
    DeleteRetained,
    DeleteVolume,
    DropImage,
    DropSecrets,
    ForgetDomain,
    InstallAddons,
    KubernetesStep,
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
    RestartKubelet,
    RetainVolume,
    StartDomain,
    Step,
    StopDomain,
)
from bedplate.model.whereabouts import left_on_pool, strays, switched_on_since


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
        case CachedImageEntry():
            return _cached_image(world, entry)
        case ServerEntry():
            return _server(world, entry)
        case MetalEntry():
            return diff_metal.server(world, entry)
        case None:
            return SATISFIED


def beside(world: World, key: Key) -> Next:
    """Give the step of another lane that the entry of that key needs whatever `next_for` says; else `SATISFIED`."""
    entry = world.blueprint.entries.get(key)
    if isinstance(entry, MachineEntry) and entry.desired == "run":
        return _pods_held(world, entry) or SATISFIED
    if isinstance(entry, MetalEntry):
        return diff_metal.registered_anew(world, entry)
    return SATISFIED


# --- machines -------------------------------------------------------------------------------------------------


def _machine(world: World, m: MachineEntry) -> Next:
    if m.desired != "run" and (held := _pods_held(world, m)) is not None:
        return held
    if (left := _taint_left(world, m)) is not None:
        return left
    if m.substrate == "metal":
        return diff_metal.machine(world, m)
    host = world.blueprint.metal(m.server)
    if host is not None and host.state == "rescue":
        return wait(Waiting.METAL, f"server {m.server} is in rescue")
    stray = _forget_strays(world, m)
    if stray is not None:
        return stray
    if not usable(world, m.server):
        return _without_server(world, m)
    if m.source and m.desired in {"run", "stop", "manual"}:
        return _moving(world, m)
    domain = domain_at(world, m)
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


def _without_server(world: World, m: MachineEntry) -> Next:
    """What can be done for a machine whose server is not heard of: one that is given up leaves its cluster, where the
    server's end is confirmed; before that its Node stays as it is, with its volumes."""
    dead = _ended_with_server(world, m)
    cluster = world.blueprint.cluster(m.cluster)
    if dead and m.desired == "remove" and m.is_node and cluster is not None and cluster.desired == "present":
        return leave_behind(world, cluster, m) or wait(Waiting.SERVER, f"server {m.server} is dead")
    return wait(Waiting.SERVER, f"server {m.server} is {'dead' if dead else 'not connected'}")


def _ended_with_server(world: World, m: MachineEntry) -> bool:
    """The server is confirmed dead and not back, and that confirms the machine's end: an expired lease says so only of
    guests whose disks are on the pool."""
    lost, seen = world.blueprint.server(m.server), world.inventory.server(m.server)
    if lost is None or lost.standing != "dead" or (seen is not None and seen.value.connected):
        return False
    if switched_on_since(lost, world.attempts.get(lost.key, {})):
        return False
    return lost.by == "power" or any(o.value.disk_pool == m.disk_pool for o in world.inventory.leases(m.server))


def _forget_strays(world: World, m: MachineEntry) -> Next | None:
    """End what other servers still know of the machine, before anything is begun where it should be."""
    for seen in strays(world.inventory, m):
        server = seen.value.server
        if usable(world, server):
            return Next(step=ForgetDomain(server=server, machine=m), reason=f"it is no longer on {server}")
    return None


def _moving(world: World, m: MachineEntry) -> Next:
    """A live migration, from what both ends show."""
    if not usable(world, m.source):
        return wait(Waiting.UNCONFIRMED, f"it moves from {m.source}, which is not connected")
    seen = world.inventory.domain(m.source, m.uid)
    there, here = (seen.value.state if seen is not None else "absent"), domain_at(world, m)
    if there == "running" and here.state == "running":
        return wait(Waiting.UNCONFIRMED, "it shows as running at both ends of its move; one view is old")
    if there == "running" and here.generation < m.generation:
        return Next(step=ReceiveDomain(machine=m), reason=f"{m.server} is to take it over")
    if there == "running":
        target = world.inventory.server(m.server)
        address = target.value.address if target is not None else ""
        return Next(step=MigrateDomain(machine=m, address=address), reason=m.reason)
    return wait(Waiting.MIGRATION, f"it moves from {m.source}; planning looks at how that ended")


def _pods_held(world: World, m: MachineEntry) -> Next | None:
    """Free the pods of a node whose machine's end is confirmed."""
    found = _node_at_api(world, m) if m.out_of_service else None
    if found is None or found[1].out_of_service or _runs(world, m):
        return None
    if not usable(world, m.server) and not _ended_with_server(world, m):
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
    if cluster is None or cluster.desired == "absent" or not cluster_view(world, cluster).api:
        return None
    node = world.inventory.node(m.cluster, m.name)
    return (cluster, node.value) if node is not None and is_node_of(node, m) else None


def _runs(world: World, m: MachineEntry) -> bool:
    """It is seen running, in the boot that is wanted."""
    d = domain_at(world, m)
    return d.state == "running" and d.boot >= m.boot and usable(world, m.server)


def _run(world: World, m: MachineEntry, d: DomainView) -> Next:
    if d.state == "paused":
        return wait(Waiting.UNCONFIRMED, "the domain is paused; resume it on its server")
    if d.state == "running" and d.boot < m.boot and m.joined:
        return Next(step=StopDomain(machine=m, grace=10.0), reason="it hangs and is to be started anew")
    if d.state == "running":
        return joined(world, m, d) if m.is_node else _up(m, d)
    unfinished = _ready_to_start(world, m, d)
    if unfinished is not None:
        return unfinished
    if d.boot < m.boot:
        return Next(step=StartDomain(machine=m), reason=f"it is to run (boot {m.boot})")
    return wait(Waiting.BOOT, f"the domain ended after boot {d.boot}; planning decides on another")


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
            return wait(Waiting.UNCONFIRMED, "its disk is gone; planning decides what becomes of it")
        return _volume(world, m)
    if d.state == "absent" or d.generation < m.generation:
        return Next(step=DefineDomain(machine=m), reason="its domain is not defined as planned")
    return None


def _without_pool(world: World, m: MachineEntry) -> Next | None:
    """Nothing can be done about a disk whose pool its server does not show."""
    view = world.inventory.server(m.server)
    if view is not None and view.value.pool(m.disk_pool) is not None:
        return None
    return wait(Waiting.SERVER, f"server {m.server} does not show disk pool {m.disk_pool}")


def _volume(world: World, m: MachineEntry) -> Next:
    view = world.inventory.server(m.server)
    pool = view.value.pool(m.disk_pool) if view is not None else None
    if pool is None:
        return wait(Waiting.SERVER, f"server {m.server} does not show disk pool {m.disk_pool}")
    wanted = {digest for digest in (m.image.disk, m.image.kernel, m.image.initrd) if digest}
    if not wanted <= set(pool.images):
        step = PullImage(server=m.server, disk_pool=m.disk_pool, image=m.image)
        return Next(step=step, reason=f"image {m.image.name} is not in disk pool {m.disk_pool}")
    return Next(step=CreateVolume(machine=m), reason="it has no disk yet")


def _up(m: MachineEntry, d: DomainView) -> Next:
    if m.image.bootstrap == "guest-agent" and not d.guest_agent:
        return wait(Waiting.BOOT, "its guest is starting")
    return SATISFIED


def _stop(m: MachineEntry, d: DomainView) -> Next:
    if d.state in {"running", "paused"}:
        return Next(step=StopDomain(machine=m), reason="it is to be off")
    return SATISFIED


def _drain(world: World, m: MachineEntry, d: DomainView) -> Next:
    cluster = world.blueprint.cluster(m.cluster)
    if cluster is None or cluster.desired == "absent":
        return SATISFIED
    if d.state not in {"running", "paused"} and d.boot < m.boot:  # etcd can't do without it yet
        return _ready_to_start(world, m, d) or Next(step=StartDomain(machine=m), reason=f"boot {m.boot}: {m.reason}")
    return drained(world, cluster, m)


def _remove(world: World, m: MachineEntry, d: DomainView) -> Next:
    polite = d.state == "running" and m.role == "vm"  # without a guest agent it is asked by its power button alone
    if polite and attempt(world, m.key, "StopDomain", m.generation).succeeded == 0.0:
        return Next(step=StopDomain(machine=m), reason="it is to end in good order")
    cluster = world.blueprint.cluster(m.cluster)
    member = m.role == "control-plane" and m.joined
    if member and cluster is not None and cluster.desired == "present" and cluster.initialised:
        view = cluster_view(world, cluster)
        if not view.api:
            return wait(Waiting.QUORUM, "its cluster's API does not answer, so its etcd member can't be taken out yet")
    if d.state != "absent":
        return Next(step=RemoveDomain(machine=m), reason="it is to go")
    if cluster is not None and cluster.desired == "present" and m.is_node:
        leaving = leave_behind(world, cluster, m)
        if leaving is not None:
            return leaving
    carried = not d.volume and left_on_pool(m, world.attempts.get(m.key, {}))
    if d.volume or carried:
        if (hidden := _without_pool(world, m)) is not None:
            return hidden
        if carried:
            return Next(step=CreateVolume(machine=m), reason=f"{m.server} takes its disk over, to keep or delete it")
        if m.retain_disk:
            return Next(step=RetainVolume(machine=m), reason="its disk is kept (rule 9)")
        return Next(step=DeleteVolume(machine=m), reason="its disk goes with it")
    return SATISFIED


# --- clusters and disks -----------------------------------------------------------------------------------------


def _cluster(world: World, c: ClusterEntry) -> Next:
    view = cluster_view(world, c)
    if c.desired == "absent":
        if set(world.members.get(c.cluster, ())) - {c.key}:
            return wait(Waiting.DELETION, "its machines are still going")
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
    if s.bmc is None:
        return SATISFIED
    if s.standing == "dead":
        return diff_metal.revived(world, s)
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
        return wait(Waiting.SERVER, f"server {r.server} is not connected")
    step = DeleteRetained(server=r.server, disk_pool=r.disk_pool, uid=r.uid, generation=r.generation)
    return Next(step=step, reason="it is no longer to be kept")


def _cached_image(world: World, e: CachedImageEntry) -> Next:
    if e.desired == "present":
        return SATISFIED
    if not usable(world, e.server):
        return wait(Waiting.SERVER, f"server {e.server} is not connected")
    seen = world.inventory.server(e.server)
    pool = seen.value.pool(e.disk_pool) if seen is not None else None
    if pool is None or e.digest not in pool.unused:
        return SATISFIED  # planning sees that too
    step = DropImage(server=e.server, disk_pool=e.disk_pool, digest=e.digest)
    return Next(step=step, reason="nothing needs it any more")


Family = Literal["agent", "bootstrap", "kubernetes", "bmc"]


def family(step: Step) -> Family:
    """Which port runs the step."""
    if isinstance(step, MakeSecrets | DropSecrets | Bootstrap | RemoveEtcdMember | RestartKubelet):
        return "bootstrap"
    if isinstance(step, KubernetesStep):
        return "kubernetes"
    if isinstance(step, ReadPower | PowerOff | PowerOn | BootMedia | BootDisk):
        return "bmc"
    return "agent"
