"""What runs on the clusters: a few pods each, enough to tell when `web-0` answers, and never to run it twice.

A pod is an object in its cluster's API and, apart from that, what a kubelet really runs in a machine. Pods that were
given up (deleted by force, or collected with their Node) run on in a machine that is only cut off, until its kubelet
hears of it; that is how one can come to run twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bedplate.model.ids import ClusterKey, MachineUid
from bedplate.sim.things import Process, SimCluster, SimDomain, SimNode
from bedplate.sim.world import World

_NOTHING = MachineUid("")
Phase = Literal["pending", "starting", "running", "terminating"]


class App(msgspec.Struct, frozen=True, kw_only=True):
    """A Deployment or a StatefulSet of a tenant."""

    name: str
    replicas: int = 1
    stateful: bool = False
    """A pod's name is its identity: another of the name is made only once the first is known to be gone."""
    volume: bool = False
    """Each pod has a volume that one node at a time attaches."""
    min_available: int = 0
    """Its disruption budget."""
    pool: str = ""
    """Name of the NodePool whose nodes it is bound to; empty: any worker's."""
    cpu: float = 0.0
    """Cores that a pod requests; a node takes pods as far as its machine's CPUs and memory go."""
    memory_mib: int = 0


@dataclass(eq=False)
class SimPod:
    """A pod of an app, as its cluster's API shows it; its name stays when another takes its place."""

    name: str
    app: App
    phase: Phase = "pending"
    node: str = ""
    turns: int = 0
    """Counts the pods that had this name and what became of them, so that a timer knows that it is over."""
    attached: MachineUid = _NOTHING
    """The machine that has its volume."""
    detaches: float = 0.0
    """When that is taken from it unasked; infinity: it is in use."""
    containers: dict[MachineUid, int] = field(default_factory=dict[MachineUid, int])
    """Where it really runs: the machine and its run."""
    answers: bool = False
    history: list[tuple[float, bool, str]] = field(default_factory=list[tuple[float, bool, str]])
    """When it began or ceased to answer, and on which node."""


# --- people -------------------------------------------------------------------------------------------------------


def deploy(world: World, key: ClusterKey, *apps: App) -> None:
    """A tenant runs apps on a cluster."""
    cluster = world.cluster(key)
    for app in apps:
        for n in range(app.replicas):
            name = f"{app.name}-{n}"
            cluster.pods.setdefault(name, SimPod(name=name, app=app))
    changed(world, cluster)


# --- where it is --------------------------------------------------------------------------------------------------


def on_node(cluster: SimCluster, name: str) -> list[SimPod]:
    """The pods that are bound to a node."""
    return [p for p in cluster.pods.values() if p.node == name]


def count(cluster: SimCluster, node: SimNode) -> int:
    """Pods that a drain would have to move."""
    return node.pods + (sum(1 for p in cluster.pods.values() if p.node == node.name) if cluster.pods else 0)


def really(world: World, pod: SimPod) -> list[SimDomain]:
    """The machines in whose present run the pod was started and was not ended: it writes, or would go on to."""
    found: list[SimDomain] = []
    for uid, run in list(pod.containers.items()):
        domain = next((d for d in world.live.get(uid, ()) if d.run == run), None)
        if domain is None:
            del pod.containers[uid]
        else:
            found.append(domain)
    return found


def _tell(world: World, cluster: SimCluster, pod: SimPod) -> None:
    """See whether it answers, and keep the history."""
    node = cluster.nodes.get(pod.node)
    answers = (
        pod.phase == "running"
        and node is not None
        and not node.lapsing
        and any(d.entry.uid == node.uid and world.up(node.uid) for d in really(world, pod))
    )
    if answers != pod.answers:
        pod.answers = answers
        pod.history.append((world.now, answers, pod.node))
        world.say(f"pod {pod.name}", f"{'answers on' if answers else 'does not answer any more on'} {pod.node}")


def changed(world: World, cluster: SimCluster) -> None:
    """Look at all pods of a cluster: who answers, who can be placed."""
    for pod in cluster.pods.values():
        _tell(world, cluster, pod)
        if pod.phase == "pending":
            _place(world, cluster, pod)


def interrupted(world: World, cluster: SimCluster, uid: MachineUid) -> None:
    """A machine ended, hangs or is cut off."""
    found = world.nodes.get(uid)
    if cluster.pods and found is not None:
        for pod in on_node(cluster, found[1].name):
            _tell(world, cluster, pod)


def resumed(world: World, cluster: SimCluster, node: SimNode) -> None:
    """A machine is heard again before its node was taken for not ready."""
    for pod in on_node(cluster, node.name):
        if not pod.containers and pod.phase == "running":
            _start(world, cluster, pod, node)
        _tell(world, cluster, pod)


# --- what Kubernetes does -----------------------------------------------------------------------------------------


def _place(world: World, cluster: SimCluster, pod: SimPod) -> None:
    """Bind a pending pod to the fitting node with the fewest pods, its own app's counting most."""
    if not world.api(cluster):
        return
    load: dict[str, int] = {}
    for other in cluster.pods.values():
        if other.node:
            load[other.node] = load.get(other.node, 0) + (100 if other.app.name == pod.app.name else 1)
    fit = [n for n in cluster.nodes.values() if n.worker and n.ready and not n.unschedulable and not n.out_of_service]
    if pod.app.pool or pod.app.cpu or pod.app.memory_mib:
        asked = _asked(cluster)
        fit = [n for n in fit if _takes(world, n, pod.app, asked.get(n.name, (0.0, 0)))]
    if not fit:
        return
    node = min(fit, key=lambda n: (load.get(n.name, 0), n.name))
    if pod.app.volume and pod.attached and pod.attached != node.uid:
        if pod.detaches == float("inf"):
            return
        if pod.detaches > world.now:
            world.spawn(_look_again(world, cluster, pod.detaches))
            return
    pod.node = node.name
    if pod.app.volume:
        pod.attached, pod.detaches = node.uid, float("inf")
    world.touch_node(cluster, node.name)
    _start(world, cluster, pod, node)


def _asked(cluster: SimCluster) -> dict[str, tuple[float, int]]:
    """Cores and MiB that the pods of each node request."""
    found: dict[str, tuple[float, int]] = {}
    for pod in cluster.pods.values():
        if pod.node:
            cpu, memory = found.get(pod.node, (0.0, 0))
            found[pod.node] = (cpu + pod.app.cpu, memory + pod.app.memory_mib)
    return found


def _takes(world: World, node: SimNode, app: App, asked: tuple[float, int]) -> bool:
    """True where the node is of the app's pool and has room for one more of its pods."""
    domain = next(iter(world.live.get(node.uid, ())), None)
    if domain is None:
        return False
    m = domain.hardware or domain.entry
    if app.pool and m.owner.rpartition("/")[2] != app.pool:
        return False
    return asked[0] + app.cpu <= m.cpu + 1e-9 and asked[1] + app.memory_mib <= m.memory_mib


def _look_again(world: World, cluster: SimCluster, at: float) -> Process:
    yield max(0.0, at - world.now)
    changed(world, cluster)


def _start(world: World, cluster: SimCluster, pod: SimPod, node: SimNode) -> None:
    pod.phase = "starting"
    pod.turns += 1
    world.spawn(_starting(world, cluster, pod, node, pod.turns))


def _starting(world: World, cluster: SimCluster, pod: SimPod, node: SimNode, turn: int) -> Process:
    yield world.durations.draw(world.durations.ranges.pod_start)
    if pod.turns != turn or pod.node != node.name:
        return
    domain = next((d for d in world.live.get(node.uid, ()) if d.kubelet and world.up(node.uid)), None)
    if domain is None:
        return  # when its kubelet is heard again, it is started there
    others = [d for d in really(world, pod) if d is not domain]
    if others and pod.app.stateful:
        said = f"pod {pod.name} of {cluster.key} runs in {domain.entry.name} and still in {others[0].entry.name}"
        world.violation("rule 1", said)
    pod.containers[node.uid] = domain.run
    pod.phase = "running"
    _tell(world, cluster, pod)


def ready(world: World, cluster: SimCluster, node: SimNode) -> None:
    """A node is Ready: its kubelet ends what was given up, starts what is bound to it again, and takes new pods."""
    if not cluster.pods:
        return
    domain = next(iter(world.live.get(node.uid, ())), None)
    for pod in list(cluster.pods.values()):
        mine = pod.node == node.name
        if node.uid in pod.containers and (not mine or pod.phase == "terminating"):
            del pod.containers[node.uid]
        if mine and pod.phase == "terminating":
            _gone(world, cluster, pod, detached=world.now)
        elif mine and domain is not None and pod.containers.get(node.uid) != domain.run:
            _start(world, cluster, pod, node)
    changed(world, cluster)


def not_ready(world: World, cluster: SimCluster, node: SimNode) -> None:
    """A node was taken for not ready: its pods are given up when their toleration is over."""
    if cluster.pods:
        world.spawn(_give_up(world, cluster, node, node.silences))
        changed(world, cluster)


def _give_up(world: World, cluster: SimCluster, node: SimNode, silence: int) -> Process:
    yield world.durations.draw(world.durations.ranges.toleration)
    while node.silences == silence and not node.ready and not world.api(cluster):
        yield 30.0
    if node.silences != silence or node.ready or cluster.nodes.get(node.name) is not node:
        return
    for pod in on_node(cluster, node.name):
        pod.phase = "terminating"
        pod.turns += 1
        if not pod.app.stateful:  # another is made at once; its volume is waited for
            detached = world.now + world.durations.draw(world.durations.ranges.force_detach)
            _gone(world, cluster, pod, detached=detached)
        _tell(world, cluster, pod)
    changed(world, cluster)


def _gone(world: World, cluster: SimCluster, pod: SimPod, *, detached: float) -> None:
    """The pod's object is gone, and its controller makes another of its name."""
    node = pod.node
    pod.phase, pod.node = "pending", ""
    pod.turns += 1
    if pod.attached:
        pod.detaches = detached
    if node in cluster.nodes:
        world.touch_node(cluster, node)


def node_gone(world: World, cluster: SimCluster, node: SimNode) -> None:
    """A Node object was deleted: its pods are collected; their volumes are detached in time."""
    if on_node(cluster, node.name):
        world.spawn(_collect(world, cluster, node))


def _collect(world: World, cluster: SimCluster, node: SimNode) -> Process:
    yield world.durations.draw(world.durations.ranges.pod_gc)
    if node.name in cluster.nodes:
        return
    for pod in on_node(cluster, node.name):
        wait = world.durations.draw(world.durations.ranges.force_detach)
        _gone(world, cluster, pod, detached=world.now + wait)
        _tell(world, cluster, pod)
    changed(world, cluster)


def freed(world: World, cluster: SimCluster, node: SimNode) -> None:
    """A node was marked out of service: its pods are gone by force and their volumes detached at once."""
    for pod in on_node(cluster, node.name):
        _gone(world, cluster, pod, detached=world.now)
        _tell(world, cluster, pod)
    changed(world, cluster)


# --- drains -------------------------------------------------------------------------------------------------------


def evict(world: World, cluster: SimCluster, node: SimNode) -> list[SimPod]:
    """Ask for the eviction of all pods of a node; give those that are left."""
    left = on_node(cluster, node.name)
    for pod in left:
        if pod.phase != "terminating" and _budget_allows(cluster.pods.values(), pod):
            pod.phase = "terminating"
            pod.turns += 1
            _tell(world, cluster, pod)
            world.spawn(_ending(world, cluster, pod, node, pod.turns))
    return left


def _budget_allows(pods: Iterable[SimPod], pod: SimPod) -> bool:
    healthy = sum(1 for p in pods if p.app.name == pod.app.name and p.answers)
    return healthy - int(pod.answers) >= pod.app.min_available


def _ending(world: World, cluster: SimCluster, pod: SimPod, node: SimNode, turn: int) -> Process:
    yield world.durations.draw(world.durations.ranges.pod_end)
    if pod.turns != turn or not world.up(node.uid):
        return
    pod.containers.pop(node.uid, None)
    _gone(world, cluster, pod, detached=world.now + 1.0)
    changed(world, cluster)
