"""What kubeadm, etcd and a cluster's API do in the simulated world."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from bedplate.model.blueprint import BASE_ADDON, MachineEntry
from bedplate.model.inventory import ClusterView
from bedplate.model.steps import (
    Bootstrap,
    BootstrapStep,
    ClearOutOfService,
    DeleteNode,
    Done,
    DrainNode,
    DropSecrets,
    Failed,
    InstallAddons,
    KubernetesStep,
    MakeSecrets,
    MarkOutOfService,
    RemoveEtcdMember,
    RestartKubelet,
    StepResult,
    Ticket,
    UncordonNode,
)
from bedplate.sim import kubelets, truth, views, workload
from bedplate.sim.durations import Durations
from bedplate.sim.things import Process, SimCluster, SimDomain, SimNode, SimVolume
from bedplate.sim.world import World

TOKEN_SECONDS = 900.0
"""A bootstrap token ends by itself after so long."""
DRAIN_LOOK = 5.0
"""Seconds between looks at what a drain has left."""

Running = Generator[float, None, StepResult]


def perform(world: World, durations: Durations, step: BootstrapStep | KubernetesStep, ticket: Ticket) -> Running:
    """Give the running step."""
    cluster = world.cluster(step.cluster.cluster)
    if isinstance(step, Bootstrap):
        return (yield from _bootstrap(world, durations, cluster, step, ticket))
    yield 0.1 if isinstance(step, DrainNode) else durations.step(step.name)
    match step:
        case MakeSecrets():
            cluster.secrets = True
            return Done(views=(_secrets_view(world, cluster),))
        case DropSecrets():
            return _drop_secrets(world, cluster)
        case RemoveEtcdMember():
            return _remove_member(world, cluster, step)
        case RestartKubelet():
            return kubelets.restart(world, step.machine)
        case InstallAddons():
            if not world.api(cluster):
                return _no_api(cluster)
            cluster.addons = {a.mark for a in (*step.cluster.addons, BASE_ADDON)}
            world.touch_cluster(cluster)
            return Done(views=(_secrets_view(world, cluster),))
        case DeleteNode():
            return _delete_node(world, cluster, step.machine)
        case MarkOutOfService():
            return _mark_out_of_service(world, cluster, step.machine)
        case ClearOutOfService():
            return _lift(world, cluster, step.machine, "out_of_service")
        case UncordonNode():
            return _lift(world, cluster, step.machine, "unschedulable")
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
    for node in cluster.nodes.values():
        world.nodes.pop(node.uid, None)
    for part in (cluster.members, cluster.learners, cluster.nodes, cluster.tokens, cluster.pods, cluster.waiting):
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


def _node_of(cluster: SimCluster, m: MachineEntry) -> SimNode | None:
    node = cluster.nodes.get(m.name)
    return node if node is not None and node.uid == m.uid else None


def _delete_node(world: World, cluster: SimCluster, m: MachineEntry) -> StepResult:
    if not world.api(cluster):
        return _no_api(cluster)
    node = _node_of(cluster, m)
    cluster.taken_out.add(m.uid)
    if node is not None:
        kubelets.forget(world, cluster, node)
    return Done(views=(views.node_view(world, cluster, m.name),))


def _drain(world: World, durations: Durations, cluster: SimCluster, m: MachineEntry) -> Running:
    """Evict as budgets allow until nothing is left or the time is over: bounded in any case (rule 7)."""
    if not world.api(cluster):
        return _no_api(cluster)
    node = _node_of(cluster, m)
    if node is None:
        return Done(message="there is no such node")
    truth.draining(world, m)
    node.unschedulable = True
    world.touch_node(cluster, m.name)
    end = world.now + m.drain_timeout
    yield min(durations.step("DrainNode"), m.drain_timeout)
    while True:
        if not world.api(cluster):
            return _no_api(cluster)
        left = workload.evict(world, cluster, node)
        if not left or world.now >= end:
            break
        yield min(DRAIN_LOOK, end - world.now)
    node.pods = 0
    world.touch_node(cluster, m.name)
    said = f"pods still on {m.name}: {', '.join(p.name for p in left)}" if left else ""
    return Done(views=(views.node_view(world, cluster, m.name),), message=said)


def _lift(
    world: World, cluster: SimCluster, m: MachineEntry, bar: Literal["unschedulable", "out_of_service"]
) -> StepResult:
    """Let pods onto a node that were kept from it by that."""
    if not world.api(cluster):
        return _no_api(cluster)
    node = _node_of(cluster, m)
    if node is not None and getattr(node, bar):
        setattr(node, bar, False)
        world.touch_node(cluster, m.name)
        workload.changed(world, cluster)
    return Done(views=(views.node_view(world, cluster, m.name),))


def _mark_out_of_service(world: World, cluster: SimCluster, m: MachineEntry) -> StepResult:
    if not world.api(cluster):
        return _no_api(cluster)
    node = _node_of(cluster, m)
    if node is None:
        return Done(message=f"there is no node of machine {m.name}")
    truth.marking(world, m)
    if node.out_of_service and node.ready:
        message = f"node {m.name} reports Ready after it was marked as dead; its pods are not forced"
        return Failed(reason="NodeAnswers", message=message)
    node.ready, node.out_of_service, node.lapsing = False, True, False
    node.silences += 1
    world.touch_node(cluster, m.name)
    workload.freed(world, cluster, node)
    kubelets.refresh(world, m.uid)
    return Done(views=(views.node_view(world, cluster, m.name),))


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
    world.spawn(_kubeadm(world, durations, domain, volume, step, token))
    return Done(views=(views.domain_view(world, server, m.uid),))


def _stale_member(cluster: SimCluster, m: MachineEntry) -> bool:
    return m.role == "control-plane" and cluster.members.get(m.name, m.uid) != m.uid


def _kubeadm(
    world: World,
    durations: Durations,
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
    if not world.in_run(domain, run):
        return
    failed = world.kubeadm_fails(m)
    if not failed:
        failed = _init(world, cluster, m) if step.mode == "init" else _join(world, cluster, m, token)
    if not failed and step.mode == "join" and m.role == "control-plane":
        yield 2.0  # a learner until it has caught up
        if not world.in_run(domain, run):
            return
        if world.quorum(cluster):
            cluster.learners.pop(m.name, None)
            cluster.members[m.name] = m.uid
            world.touch_cluster(cluster)
        else:
            failed = "etcd: the learner could not be promoted"
    if failed:
        domain.bootstrap, domain.detail = "failed", failed
        world.touch(world.servers[domain.server], m.uid)
        return
    cluster.tokens.pop(token, None)
    volume.joined = cluster.key
    volume.member = m.role == "control-plane"
    domain.bootstrap = "done"
    world.touch(world.servers[domain.server], m.uid)
    world.touch_cluster(cluster)
    if step.mode == "init" or world.api(cluster):
        kubelets.register(world, cluster, m)
        domain.registered = True
    yield from kubelets.start(world, domain, run)


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
