"""Clusters, their pools, and the machines derived from them."""

from __future__ import annotations

from typing import Literal

from bedplate.model.kinds.base import BedplateObject, MachineShape, Rollout, Status
from bedplate.model.wire import Wire


class ControlPlane(Wire, frozen=True):
    """A cluster's control plane with stacked etcd."""

    replicas: int = 1
    """1, 3 or 5: etcd keeps its quorum of more than half."""
    machine: MachineShape = MachineShape(cpu=2, memory="2Gi")
    spread: str = ""
    """A failure-domain label over which the machines must spread; always over servers where there are enough."""
    rollout: Rollout = Rollout()


class Endpoint(Wire, frozen=True):
    """The control plane's address."""

    type: Literal["vrrp", "external"] = "vrrp"
    address: str = ""
    """Empty with `vrrp`: taken from the network's `vipRanges`. With `external`: the load balancer's address."""
    port: int = 6443


class Addon(Wire, frozen=True):
    """Manifests that Bedplate applies to the cluster once its API answers."""

    name: str
    manifest: str
    """YAML documents."""


class ClusterSpec(Wire, frozen=True):
    kubernetes: str = ""
    """`1.35` or `1.35.3`; resolved once into `status.version`."""
    control_plane: ControlPlane = ControlPlane()
    network: str = ""
    """Name of a Network; empty where there is one only."""
    endpoint: Endpoint = Endpoint()
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/12"
    pod_network: Literal["routes", "none"] = "routes"
    """`routes`: built in, works offline, enforces no NetworkPolicy. `none`: an addon brings one."""
    addons: tuple[Addon, ...] = ()
    ssh_keys: tuple[str, ...] = ()
    """Public keys of those who may log in as root; a machine keeps those that it was made with."""


class ClusterStatus(Status, frozen=True):
    version: str = ""
    endpoint: str = ""
    control_plane_replicas: int = 0
    control_plane_ready: int = 0
    nodes: int = 0
    nodes_ready: int = 0


class Cluster(BedplateObject, frozen=True):
    """A Kubernetes cluster with its control plane; its workers are NodePools."""

    kind: Literal["Cluster"] = "Cluster"
    spec: ClusterSpec = ClusterSpec()
    status: ClusterStatus = ClusterStatus()


class Taint(Wire, frozen=True):
    """A Kubernetes taint for a pool's nodes."""

    key: str
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    value: str = ""


class NodePoolSpec(Wire, frozen=True):
    cluster: str = ""
    replicas: int = 1
    machine: MachineShape = MachineShape()
    spread: str = ""
    labels: dict[str, str] = {}
    priority: int = 0
    """After a server's death, machines with a higher one are started first; control planes before all."""
    taints: tuple[Taint, ...] = ()
    rollout: Rollout = Rollout()


class NodePoolStatus(Status, frozen=True):
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    selector: str = ""
    version: str = ""


class NodePool(BedplateObject, frozen=True):
    """A group of equal workers of one cluster."""

    kind: Literal["NodePool"] = "NodePool"
    spec: NodePoolSpec = NodePoolSpec()
    status: NodePoolStatus = NodePoolStatus()


MachineRole = Literal["control-plane", "worker"]


class MachineSpec(Wire, frozen=True):
    cluster: str = ""
    pool: str = ""
    role: MachineRole = "worker"
    substrate: Literal["vm", "metal"] = "vm"
    server: str = ""
    address: str = ""
    cpu: int = 0
    memory: str = ""
    image: str = ""
    version: str = ""


class MachineStatus(Status, frozen=True):
    node_name: str = ""
    boots: int = 0
    step: str = ""
    """What is being done to it right now."""
    since: str | None = None


class Machine(BedplateObject, frozen=True):
    """What backs one Kubernetes node; derived from the blueprint, read-only."""

    kind: Literal["Machine"] = "Machine"
    spec: MachineSpec = MachineSpec()
    status: MachineStatus = MachineStatus()
