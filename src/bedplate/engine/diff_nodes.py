"""How a machine that runs joins its cluster, and what it does before it leaves: on whichever substrate. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bedplate.engine.wanted import SATISFIED, Next, World, attempt, cluster_view, is_node_of, wait
from bedplate.model.blueprint import ClusterEntry, MachineEntry
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import DomainView
from bedplate.model.report import Waiting
from bedplate.model.steps import Bootstrap, DeleteNode, DrainNode, RemoveEtcdMember, RestartKubelet, UncordonNode
from bedplate.model.whereabouts import domain_of, left_as_learner


def joined(world: World, m: MachineEntry, d: DomainView) -> Next:
    """Have a machine that runs join its cluster."""
    node = world.inventory.node(m.cluster, m.name)
    if is_node_of(node, m):
        assert node is not None
        return SATISFIED if node.value.ready else _not_ready(world, m, d)
    if m.joined:
        return wait(Waiting.JOIN, "its node is not seen at the cluster's API")
    if not d.guest_agent:
        return wait(Waiting.BOOT, "its guest is starting")
    if d.bootstrap == "running":
        return wait(Waiting.JOIN, "kubeadm is at work in it")
    if d.bootstrap == "done":
        return wait(Waiting.JOIN, "kubeadm ended well; its node is not seen yet")
    return _bootstrap(world, m)


def put_aside(world: World, m: MachineEntry) -> Next | None:
    """Drain a node where it stands, or let pods onto it again, as planning wants; None: it is as wanted."""
    cluster, node = world.blueprint.cluster(m.cluster), world.inventory.node(m.cluster, m.name)
    if cluster is None or node is None or not is_node_of(node, m) or not cluster_view(world, cluster).api:
        return None
    if m.cordon == "drain" and attempt(world, m.key, "DrainNode", m.generation).succeeded == 0.0:
        return Next(step=DrainNode(cluster=cluster, machine=m), reason="its pods are to move away for a time")
    if m.cordon == "lift" and node.value.ready and node.value.unschedulable:
        return Next(step=UncordonNode(cluster=cluster, machine=m), reason="it is to take pods again")
    return None


def _not_ready(world: World, m: MachineEntry, d: DomainView) -> Next:
    """Its node is not Ready, or not yet: its kubelet is restarted where planning wants that."""
    cluster = world.blueprint.cluster(m.cluster)
    asked = m.kubelet_restarted > attempt(world, m.key, "RestartKubelet").succeeded
    if not (asked and d.guest_agent and cluster is not None):
        return wait(Waiting.JOIN, "its node is not Ready yet")
    step = RestartKubelet(cluster=cluster, machine=m)
    return Next(step=step, reason="its node is NotReady, and its guest answers")


def _bootstrap(world: World, m: MachineEntry) -> Next:
    cluster = world.blueprint.cluster(m.cluster)
    if cluster is None:
        return wait(Waiting.CONTROL_PLANE, "its cluster is not planned")
    view = cluster_view(world, cluster)
    if not view.secrets:
        return wait(Waiting.SECRETS, "the cluster's certificate authorities are being made")
    first = cluster.first_machine == m.uid
    if first and not cluster.initialised and not view.initialised:
        return Next(step=Bootstrap(cluster=cluster, machine=m, mode="init"), reason="it is to start the control plane")
    if not view.api:
        return wait(Waiting.CONTROL_PLANE, "the control plane does not answer yet")
    if _is_starting(world, cluster):
        return wait(Waiting.CONTROL_PLANE, "kubeadm init is not done yet in the first machine")
    peers = peers_of(world, cluster, m)
    if not peers:
        return wait(Waiting.CONTROL_PLANE, "no control-plane machine is up to take it in")
    if m.role == "control-plane" and _another_is_joining(world, cluster, m):
        return wait(Waiting.CONTROL_PLANE_BUSY, "another control-plane machine is joining")
    if m.role == "worker" and (others := _joining(world, cluster, m)) >= world.joins_at_once:
        return wait(Waiting.JOIN_TURN, f"{others} other{'s are' if others > 1 else ' is'} joining; its turn comes next")
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
    """How many other machines of the cluster are between the start of their kubeadm join and their Node, counted as far
    as it matters. As long as nothing new is seen they only become more: who waits need not count again."""
    known = world.joiners.get(cluster.cluster, frozenset[MachineUid]()) - {m.uid}
    if len(known) < world.joins_at_once:
        world.joiners[cluster.cluster] = known = frozenset(_joiners(world, cluster))
    return min(len(known - {m.uid}), world.joins_at_once)


def _joiners(world: World, cluster: ClusterEntry) -> Iterator[MachineUid]:
    """Those that join now, no more than are needed to see that no other one may."""
    count = 0
    for k in world.members.get(cluster.cluster, ()):
        m = world.blueprint.entries.get(k)
        if not isinstance(m, MachineEntry) or m.desired != "run":
            continue
        if is_node_of(world.inventory.node(m.cluster, m.name), m):
            continue
        domain = domain_of(world.inventory, m)
        begun = domain is not None and domain.value.state == "running" and domain.value.bootstrap in {"running", "done"}
        if begun or attempt(world, m.key, "Bootstrap").running:
            yield m.uid
            count += 1
            if count > world.joins_at_once:
                return


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


def drained(world: World, cluster: ClusterEntry, m: MachineEntry) -> Next:
    """Empty the machine's node and take it out of its cluster; nothing is left to do where it is out."""
    node = world.inventory.node(m.cluster, m.name)
    view = cluster_view(world, cluster)
    member = m.name in view.etcd_members
    if not is_node_of(node, m) and not member:
        return SATISFIED
    if not view.api:
        return wait(Waiting.CONTROL_PLANE, "the cluster's API does not answer, so its node can't be drained")
    if is_node_of(node, m) and attempt(world, m.key, "DrainNode", m.generation).succeeded == 0.0:
        return Next(step=DrainNode(cluster=cluster, machine=m), reason="its pods are to move away")
    if member:
        peers = peers_of(world, cluster, m)
        if not peers:
            return wait(Waiting.QUORUM, "no other control-plane machine is up")
        return Next(
            step=RemoveEtcdMember(cluster=cluster, machine=m, peers=peers), reason="it leaves etcd before it goes"
        )
    return Next(step=DeleteNode(cluster=cluster, machine=m), reason="it leaves the cluster")


def peers_of(world: World, cluster: ClusterEntry, m: MachineEntry) -> tuple[MachineEntry, ...]:
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


def leave_behind(world: World, cluster: ClusterEntry, m: MachineEntry) -> Next | None:
    """What a machine that ended leaves at the cluster: an etcd member, a Node object. None: nothing."""
    view = cluster_view(world, cluster)
    if not view.api:
        return None
    voter = m.name in view.etcd_members and len(view.etcd_members) > 1
    if (voter or left_as_learner(cluster, m, world.attempts.get(m.key, {}))) and (peers := peers_of(world, cluster, m)):
        return Next(
            step=RemoveEtcdMember(cluster=cluster, machine=m, peers=peers), reason="its etcd member is left over"
        )
    if is_node_of(world.inventory.node(m.cluster, m.name), m):
        return Next(step=DeleteNode(cluster=cluster, machine=m), reason="its Node object is left over")
    return None
