"""Kubelets and what a cluster's node controller makes of them: nodes are made, Ready, silent, given up, back again.

A kubelet's renewals of its lease are no events, only its falling silent and its being heard again are.
"""

from __future__ import annotations

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid
from bedplate.model.steps import Done, Failed, StepResult
from bedplate.sim import workload
from bedplate.sim.things import Process, SimCluster, SimDomain, SimNode
from bedplate.sim.world import World

API_BACK = (0.5, 2.0)
"""Seconds from an API that answers again until kubelets have noticed."""


def start(world: World, domain: SimDomain, run: int) -> Process:
    """A joined machine's kubelet comes up in one run: its Node is Ready as soon as the API hears it."""
    yield world.durations.draw(world.durations.ranges.kubelet)
    if not world.in_run(domain, run):
        return
    domain.kubelet = True
    cluster = _cluster_of(world, domain)
    if cluster is not None:
        _heard(world, cluster, domain)


def restart(world: World, m: MachineEntry) -> StepResult:
    """Restart a kubelet over its guest's agent; what is wrong with its machine stays wrong."""
    domain = next((d for d in world.live.get(m.uid, ()) if d.server == m.server and d.guest_agent), None)
    if domain is None or not world.up(m.uid):
        return Failed(reason="GuestUnreachable", message=f"the guest of {m.name} does not answer")
    if not domain.kubelet_broken:
        world.spawn(start(world, domain, domain.run))
    return Done()


def _cluster_of(world: World, domain: SimDomain) -> SimCluster | None:
    volume = world.servers[domain.server].volumes.get(domain.entry.uid)
    return world.clusters.get(volume.joined) if volume is not None and volume.joined else None


def refresh(world: World, uid: MachineUid) -> None:
    """Look at a machine's node after something that its kubelet depends on has changed."""
    up = world.up(uid)
    for domain in world.live.get(uid, ()) if up else ():
        cluster = _cluster_of(world, domain)
        if cluster is not None and domain.kubelet:
            _heard_soon(world, cluster, domain)
            return
    found = world.nodes.get(uid)
    if found is not None:
        workload.interrupted(world, found[0], uid)
        _silent(world, *found)


def _silent(world: World, cluster: SimCluster, node: SimNode) -> None:
    if node.ready and not node.lapsing:
        node.lapsing = True
        node.silences += 1
        world.spawn(_lapse(world, cluster, node, node.silences))


def _lapse(world: World, cluster: SimCluster, node: SimNode, silence: int) -> Process:
    """The node controller waits for a silent node, then takes it for not ready and, later, gives its pods up."""
    yield world.durations.draw(world.durations.ranges.node_lost)
    if node.silences != silence:
        return
    node.lapsing = False
    if not world.api(cluster) or cluster.nodes.get(node.name) is not node:
        return  # where the API is back, all that are silent are waited for anew
    if node.ready:
        node.ready = False
        world.touch_node(cluster, node.name)
        workload.not_ready(world, cluster, node)


def _heard_soon(world: World, cluster: SimCluster, domain: SimDomain) -> None:
    found = world.nodes.get(domain.entry.uid)
    if found is None:
        if not domain.registered:
            _heard(world, cluster, domain)
        return
    node = found[1]
    if node.lapsing:
        node.lapsing = False
        node.silences += 1
        workload.resumed(world, cluster, node)
    if not node.ready and not node.returning:
        node.returning = True
        world.spawn(_back(world, cluster, node, domain, domain.run))


def _back(world: World, cluster: SimCluster, node: SimNode, domain: SimDomain, run: int) -> Process:
    yield world.durations.draw(world.durations.ranges.node_back)
    node.returning = False
    if world.in_run(domain, run) and domain.kubelet and world.up(domain.entry.uid):
        _heard(world, cluster, domain)


def _heard(world: World, cluster: SimCluster, domain: SimDomain) -> None:
    """The API hears a kubelet; where there is no API, it waits for one."""
    m = domain.entry
    if not (world.api(cluster) and world.up(m.uid)):
        cluster.waiting[m.uid] = domain
        return
    cluster.waiting.pop(m.uid, None)
    node = cluster.nodes.get(m.name)
    if node is None and not domain.registered:
        node = register(world, cluster, m)
    domain.registered = True
    if node is None or node.uid != m.uid:
        return
    if node.lapsing or not node.ready:
        node.lapsing = False
        node.silences += 1
    if not node.ready:
        node.ready = True
        world.touch_node(cluster, m.name)
    workload.ready(world, cluster, node)


def register(world: World, cluster: SimCluster, m: MachineEntry) -> SimNode:
    """Make a machine's Node."""
    node = SimNode(name=m.name, uid=m.uid, version=m.version, address=m.nic.address, worker=m.role != "control-plane")
    if m.role == "control-plane":
        node.pods = 0
    old = cluster.nodes.get(m.name)
    if old is not None:
        world.nodes.pop(old.uid, None)
    cluster.nodes[m.name] = node
    world.nodes[m.uid] = (cluster, node)
    world.touch_node(cluster, m.name)
    return node


def forget(world: World, cluster: SimCluster, node: SimNode) -> None:
    """Delete a Node."""
    if cluster.nodes.get(node.name) is node:
        del cluster.nodes[node.name]
    world.nodes.pop(node.uid, None)
    node.silences += 1
    world.touch_node(cluster, node.name)
    workload.node_gone(world, cluster, node)


# --- the API ------------------------------------------------------------------------------------------------------


def look_at_api(world: World, cluster: SimCluster) -> None:
    """See whether the API came or went. Where it came: kubelets are heard, and silent ones are waited for anew."""
    answers = world.api(cluster)
    if answers == cluster.answered:
        return
    cluster.answered = answers
    world.touch_cluster(cluster)
    if answers:
        world.spawn(_api_back(world, cluster))


def _api_back(world: World, cluster: SimCluster) -> Process:
    yield world.durations.draw(API_BACK)
    if not world.api(cluster):
        return
    for domain in list(cluster.waiting.values()):
        if domain.kubelet and world.in_run(domain, domain.run):
            _heard(world, cluster, domain)
        else:
            cluster.waiting.pop(domain.entry.uid, None)
    for node in list(cluster.nodes.values()):
        if world.up(node.uid):
            refresh(world, node.uid)
        else:
            _silent(world, cluster, node)
    workload.changed(world, cluster)
