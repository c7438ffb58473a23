"""What kubeadm, etcd and a cluster's API do in the simulated world."""

from __future__ import annotations

from collections.abc import Generator

from bedplate.model.blueprint import BASE_ADDON, MachineEntry
from bedplate.model.ids import ClusterKey
from bedplate.model.inventory import ClusterView
from bedplate.model.steps import (
    Bootstrap,
    BootstrapStep,
    DeleteNode,
    Done,
    DrainNode,
    DropSecrets,
    Failed,
    InstallAddons,
    KubernetesStep,
    MakeSecrets,
    RemoveEtcdMember,
    StepResult,
    Ticket,
)
from bedplate.sim import views
from bedplate.sim.durations import Durations
from bedplate.sim.world import Process, SimCluster, SimDomain, SimNode, SimServer, SimVolume, World

TOKEN_SECONDS = 900.0
"""A bootstrap token ends by itself after so long."""
NODE_GRACE = 40.0
"""Seconds after which Kubernetes takes a silent node for not ready."""

Running = Generator[float, None, StepResult]


def perform(world: World, durations: Durations, step: BootstrapStep | KubernetesStep, ticket: Ticket) -> Running:
    """Give the running step."""
    cluster = world.cluster(step.cluster.cluster)
    if isinstance(step, Bootstrap):
        return (yield from _bootstrap(world, durations, cluster, step, ticket))
    yield durations.step(step.name)
    match step:
        case MakeSecrets():
            cluster.secrets = True
            return Done(views=(_secrets_view(world, cluster),))
        case DropSecrets():
            return _drop_secrets(world, cluster)
        case RemoveEtcdMember():
            return _remove_member(world, cluster, step)
        case InstallAddons():
            if not world.api(cluster):
                return _no_api(cluster)
            cluster.addons = {a.mark for a in (*step.cluster.addons, BASE_ADDON)}
            world.touch_cluster(cluster)
            return Done(views=(_secrets_view(world, cluster),))
        case DeleteNode():
            return _delete_node(world, cluster, step.machine)
        case DrainNode():
            return (yield from _drain(world, durations, cluster, step.machine))


def _secrets_view(world: World, cluster: SimCluster) -> ClusterView:
    view = views.cluster_view(world, cluster)
    return ClusterView(
        cluster=cluster.key,
        secrets=cluster.secrets,
        initialised=view.initialised,
        api=view.api,
        etcd_members=view.etcd_members,
        addons=view.addons,
    )


def _no_api(cluster: SimCluster) -> Failed:
    return Failed(reason="APIUnavailable", message=f"the API of {cluster.key} does not answer")


def _drop_secrets(world: World, cluster: SimCluster) -> StepResult:
    if any(d.entry.cluster == cluster.key for _, d in world.running()):
        world.violation("order", f"the secrets of {cluster.key} were dropped while its machines run")
    cluster.secrets = False
    cluster.initialised = False
    cluster.going = False
    for part in (cluster.members, cluster.learners, cluster.nodes, cluster.tokens):
        part.clear()
    cluster.addons.clear()
    world.touch_cluster(cluster)
    return Done()


# --- etcd and nodes -----------------------------------------------------------------------------------------------


def _remove_member(world: World, cluster: SimCluster, step: RemoveEtcdMember) -> StepResult:
    name = step.machine.name
    cluster.learners.pop(name, None)
    if name not in cluster.members:
        return Done(views=(_secrets_view(world, cluster),))
    if not any(world.up(p.uid) and p.uid in cluster.members.values() for p in step.peers):
        return Failed(reason="NoPeer", message=f"no etcd member of {cluster.key} could be asked")
    if not world.quorum(cluster):
        return Failed(reason="NoQuorum", message=f"etcd of {cluster.key} has no quorum")
    if len(cluster.members) == 1:
        return Failed(reason="LastMember", message="etcd does not remove its last member", permanent=True)
    del cluster.members[name]
    if not world.quorum(cluster):
        world.violation("rule 2", f"removing member {name} took the quorum of {cluster.key}")
    world.touch_cluster(cluster)
    return Done(views=(_secrets_view(world, cluster),))


def _delete_node(world: World, cluster: SimCluster, m: MachineEntry) -> StepResult:
    if not world.api(cluster):
        return _no_api(cluster)
    node = cluster.nodes.get(m.name)
    if node is not None and node.uid == m.uid:
        del cluster.nodes[m.name]
        world.touch_node(cluster, m.name)
    return Done(views=(views.node_view(world, cluster, m.name),))


def _drain(world: World, durations: Durations, cluster: SimCluster, m: MachineEntry) -> Running:
    if not world.api(cluster):
        return _no_api(cluster)
    node = cluster.nodes.get(m.name)
    if node is None or node.uid != m.uid:
        return Done(message="there is no such node")
    node.unschedulable = True
    world.touch_node(cluster, m.name)
    yield durations.step("DrainNode")
    if not world.api(cluster):
        return _no_api(cluster)
    node.pods = 0
    world.touch_node(cluster, m.name)
    return Done(views=(views.node_view(world, cluster, m.name),))


def kubelet(
    world: World, durations: Durations, server: SimServer, domain: SimDomain, run: int, key: ClusterKey
) -> Process:
    """A kubelet's life in one run: it registers, is Ready while the API hears it, and is silent after."""
    cluster, m = world.cluster(key), domain.entry
    yield durations.draw(durations.ranges.kubelet)
    registered = False
    while _alive(server, domain, run):
        if not world.api(cluster):
            yield 2.0
            continue
        node = cluster.nodes.get(m.name)
        if node is None and not registered:
            node = _register(world, cluster, m)
        registered = True
        if node is not None and node.uid == m.uid and not node.ready:
            node.ready = True
            world.touch_node(cluster, m.name)
        return
    return


def silence(world: World) -> None:
    """Take nodes whose machines are down for not ready, where the API can say so. Called after the grace."""
    for cluster in world.clusters.values():
        if not world.api(cluster):
            continue
        for node in cluster.nodes.values():
            if node.ready and not world.up(node.uid):
                node.ready = False
                world.touch_node(cluster, node.name)


def _register(world: World, cluster: SimCluster, m: MachineEntry) -> SimNode:
    node = SimNode(name=m.name, uid=m.uid, version=m.version, address=m.nic.address)
    if m.role == "control-plane":
        node.pods = 0
    cluster.nodes[m.name] = node
    world.touch_node(cluster, m.name)
    return node


def _alive(server: SimServer, domain: SimDomain, run: int) -> bool:
    return server.domains.get(domain.entry.uid) is domain and domain.state == "running" and domain.run == run


# --- kubeadm --------------------------------------------------------------------------------------------------------


def _bootstrap(world: World, durations: Durations, cluster: SimCluster, step: Bootstrap, ticket: Ticket) -> Running:
    m = step.machine
    server = world.servers.get(m.server)
    if server is None or not server.connected:
        return Failed(reason="NotConnected", message=f"the agent of {m.server} is not connected")
    record = server.records.get(m.uid)
    if ticket.epoch < server.epoch or (record is not None and m.generation < record.generation):
        return Failed(reason="GuestUnreachable", message="the agent has seen a higher epoch or generation")
    server.epoch = ticket.epoch
    if not cluster.secrets:
        return Failed(reason="SecretsMissing", message=f"{cluster.key} has no certificate authorities")
    if step.mode == "join" and not world.api(cluster):
        return _no_api(cluster)
    token = f"{cluster.key}-{ticket.operation}"
    if step.mode == "join":
        if cluster.learners.get(m.name) is not None or _stale_member(cluster, m):
            cluster.learners.pop(m.name, None)
            cluster.members.pop(m.name, None)
            world.touch_cluster(cluster)
        cluster.tokens[token] = world.now + TOKEN_SECONDS
    yield durations.step(step.name)
    domain, volume = server.domains.get(m.uid), server.volumes.get(m.uid)
    if domain is None or volume is None or domain.state != "running" or not domain.guest_agent:
        cluster.tokens.pop(token, None)
        return Failed(reason="GuestUnreachable", message=f"the guest agent of {m.name} does not answer")
    if domain.bootstrap in {"running", "done"}:
        cluster.tokens.pop(token, None)
        return Done(message="kubeadm was started before", views=(views.domain_view(world, server, m.uid),))
    domain.bootstrap, domain.detail = "running", ""
    world.touch(server, m.uid)
    world.spawn(_kubeadm(world, durations, server, domain, volume, step, token))
    return Done(views=(views.domain_view(world, server, m.uid),))


def _stale_member(cluster: SimCluster, m: MachineEntry) -> bool:
    return m.role == "control-plane" and cluster.members.get(m.name, m.uid) != m.uid


def _kubeadm(
    world: World,
    durations: Durations,
    server: SimServer,
    domain: SimDomain,
    volume: SimVolume,
    step: Bootstrap,
    token: str,
) -> Process:
    """kubeadm in the guest, to its end."""
    run, m = domain.run, domain.entry
    cluster = world.cluster(step.cluster.cluster)
    ranges = durations.ranges
    yield durations.draw(ranges.init if step.mode == "init" else ranges.join)
    if not _alive(server, domain, run):
        return
    failed = world.kubeadm_fails(m)
    if not failed:
        failed = _init(world, cluster, m) if step.mode == "init" else _join(world, cluster, m, token)
    if not failed and step.mode == "join" and m.role == "control-plane":
        yield 2.0  # a learner until it has caught up
        if not _alive(server, domain, run):
            return
        if world.quorum(cluster):
            cluster.learners.pop(m.name, None)
            cluster.members[m.name] = m.uid
            world.touch_cluster(cluster)
        else:
            failed = "etcd: the learner could not be promoted"
    if failed:
        domain.bootstrap, domain.detail = "failed", failed
        world.touch(server, m.uid)
        return
    cluster.tokens.pop(token, None)
    volume.joined = cluster.key
    volume.member = m.role == "control-plane"
    domain.bootstrap = "done"
    world.touch(server, m.uid)
    world.touch_cluster(cluster)
    if step.mode == "init" or world.api(cluster):
        _register(world, cluster, m)
    yield from kubelet(world, durations, server, domain, run, cluster.key)


def _init(world: World, cluster: SimCluster, m: MachineEntry) -> str:
    if cluster.initialised:
        world.violation("rule 9", f"{cluster.key} was initialised a second time, by {m.name}")
    cluster.initialised = True
    cluster.members = {m.name: m.uid}
    return ""


def _join(world: World, cluster: SimCluster, m: MachineEntry, token: str) -> str:
    if not world.api(cluster):
        return "error execution phase preflight: couldn't validate the identity of the API Server: timed out"
    if cluster.tokens.get(token, 0.0) < world.now:
        return "error execution phase preflight: the token is not known"
    old = cluster.nodes.get(m.name)
    if old is not None and old.uid != m.uid and old.ready:
        return f"a Node with name {m.name!r} and status Ready already exists in the cluster"
    if m.role != "control-plane":
        return ""
    if set(cluster.learners) - {m.name}:
        return "etcdserver: too many learner members in cluster"
    cluster.learners[m.name] = m.uid
    return ""
