"""Nodes and pods as `kubectl get nodes,pods -A -o json` gives them: servers and workloads. Pure.

Pods are gathered by what owns them. What a node runs for itself (DaemonSets, static pods) and what has ended is left
out; so are Jobs, which come and go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from bedplate.advise.fleet import ClusterProfile, FleetError, NodeShape, Workload
from bedplate.advise.importing.grouping import Seen
from bedplate.model.quantity import MIB, QuantityError, format_mib, parse

UNASKED_CPU, UNASKED_MIB = 0.1, 200
"""What kube-scheduler counts for a container that requests nothing (its DefaultMilliCPURequest and
DefaultMemoryRequest, when it scores nodes)."""
_DEVICES = {"nvidia.com/gpu": "gpu", "amd.com/gpu": "gpu", "gpu.intel.com/i915": "gpu"}
_RDMA = re.compile(r"rdma", re.IGNORECASE)
_SRIOV = re.compile(r"sriov|vf", re.IGNORECASE)
_REPLICA_SET = re.compile(r"-[a-z0-9]{5,10}$")
_PLACES = {"topology.kubernetes.io/zone": "room", "topology.kubernetes.io/rack": "rack", "rack": "rack"}
_LEFT_OUT = {"DaemonSet", "Job", "Node"}

Json = dict[str, Any]


class Read:
    """What a cluster's JSON holds.

    Args:
        raw: The list that kubectl gave.
        source: For faults.

    Raises:
        FleetError: it is no such list.
    """

    def __init__(self, raw: Any, source: str) -> None:
        items = cast(Json, raw).get("items") if isinstance(raw, dict) else None
        if not isinstance(items, list):
            raise FleetError(f"{source}: it holds no list of objects; write it with kubectl get nodes,pods -A -o json")
        self._source = source
        self.nodes = [i for i in cast(list[Json], items) if i.get("kind") == "Node"]
        self.pods = [i for i in cast(list[Json], items) if i.get("kind") == "Pod"]
        self.remarks: list[str] = []

    def servers(self) -> list[Seen]:
        """Nodes that are servers of their own."""
        return [self._server(n) for n in self.nodes]

    def shape(self) -> NodeShape | None:
        """Of nodes that are virtual machines: the commonest worker."""
        shapes: dict[tuple[int, int], int] = {}
        for node in self.nodes:
            seen = self._server(node)
            if not _is_plane(node):
                shapes[seen.cpus, seen.memory_mib] = shapes.get((seen.cpus, seen.memory_mib), 0) + 1
        if not shapes:
            return None
        cpus, memory = max(shapes, key=lambda s: (shapes[s], s))
        return NodeShape(cpu=max(1, cpus), memory=format_mib(max(1024, -(-memory // 1024) * 1024)))

    def cluster(self, name: str, *, shape: NodeShape | None) -> ClusterProfile:
        """The cluster with its workloads."""
        planes = sum(1 for n in self.nodes if _is_plane(n))
        groups: dict[tuple[str, str, str], list[Json]] = {}
        for pod in self.pods:
            owner = _owner(pod)
            if owner is not None and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                groups.setdefault(owner, []).append(pod)
        workloads = tuple(self._workload(owner, pods) for owner, pods in sorted(groups.items()))
        versions = {str(n.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")) for n in self.nodes} - {""}
        return ClusterProfile(
            name=name,
            kubernetes=".".join(max(versions).lstrip("v").split(".")[:2]) if versions else "",
            control_plane=planes if planes in (1, 3, 5, 7) else 3,
            node=shape,
            workloads=workloads,
        )

    def _server(self, node: Json) -> Seen:
        meta, status = node.get("metadata", {}), node.get("status", {})
        capacity: dict[str, str] = status.get("capacity", {})
        name = str(meta.get("name", ""))
        labels: dict[str, str] = meta.get("labels", {})
        return Seen(
            name=name,
            cpus=int(self._quantity(f"node {name}: capacity.cpu", capacity.get("cpu"))),
            memory_mib=int(self._quantity(f"node {name}: capacity.memory", capacity.get("memory")) // MIB),
            kind=labels.get("node.kubernetes.io/instance-type", ""),
            devices=_devices(capacity),
            place={_PLACES[k]: v for k, v in labels.items() if k in _PLACES},
        )

    def _workload(self, owner: tuple[str, str, str], pods: list[Json]) -> Workload:
        namespace, kind, name = owner
        cpu = memory = 0.0
        unasked = False
        devices: set[str] = set()
        volume = False
        for pod in pods:
            asked_cpu, asked_memory, missing, found = self._asked(pod)
            cpu, memory = max(cpu, asked_cpu), max(memory, asked_memory)
            unasked |= missing
            devices |= found
            volume |= any("persistentVolumeClaim" in v for v in pod.get("spec", {}).get("volumes") or ())
        full = name if namespace == "default" else f"{namespace}-{name}"
        if unasked:
            self.remarks.append(
                f"{self._source}: {full}: a container requests nothing; {UNASKED_CPU:g} CPU and {UNASKED_MIB}Mi are "
                "taken, as kube-scheduler does"
            )
        return Workload(
            name=full,
            replicas=len(pods),
            cpu=round(max(cpu, 0.001), 3),
            memory=format_mib(max(1, int(memory))),
            stateful=kind == "StatefulSet",
            volume=volume,
            devices=tuple(sorted(devices)),
        )

    def _asked(self, pod: Json) -> tuple[float, float, bool, set[str]]:
        """Cores, MiB, whether a container asks for nothing, and special devices."""
        cpu = memory = 0.0
        missing = False
        devices: set[str] = set()
        name = pod.get("metadata", {}).get("name", "")
        for container in pod.get("spec", {}).get("containers") or ():
            resources = container.get("resources") or {}
            asked: dict[str, str] = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
            devices |= set(_devices(asked))
            missing |= "cpu" not in asked or "memory" not in asked
            where = f"pod {name}: requests"
            cpu += self._quantity(f"{where}.cpu", asked["cpu"]) if "cpu" in asked else UNASKED_CPU
            memory += (
                self._quantity(f"{where}.memory", asked["memory"]) / MIB if "memory" in asked else float(UNASKED_MIB)
            )
        return cpu, memory, missing, devices

    def _quantity(self, field: str, text: object) -> float:
        try:
            return parse(str(text))
        except QuantityError as error:
            raise FleetError(f"{self._source}: {field}: {error}") from None


def _devices(resources: dict[str, str]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, count in resources.items():
        if str(count) == "0" or "/" not in name:
            continue
        if name in _DEVICES:
            found.add(_DEVICES[name])
        elif _RDMA.search(name):
            found.add("rdma")
        elif _SRIOV.search(name):
            found.add("sriov")
    return tuple(sorted(found))


def _is_plane(node: Json) -> bool:
    return "node-role.kubernetes.io/control-plane" in node.get("metadata", {}).get("labels", {})


def _owner(pod: Json) -> tuple[str, str, str] | None:
    """Namespace, kind and name of what a pod is one of; None for what is left out."""
    meta = pod.get("metadata", {})
    namespace = str(meta.get("namespace", "default"))
    for owner in _controllers(meta):
        kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
        if kind in _LEFT_OUT:
            return None
        if kind == "ReplicaSet":
            return namespace, "Deployment", _REPLICA_SET.sub("", name)
        return namespace, kind, name
    return namespace, "Pod", str(meta.get("name", ""))


def _controllers(meta: Json) -> Iterator[Json]:
    yield from (o for o in meta.get("ownerReferences") or () if o.get("controller"))
