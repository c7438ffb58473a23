"""Servers, clusters, pools and measurements as Bedplate's own API gives them. Pure.

Bedplate knows pools of nodes and not what runs on them: each pool becomes one workload whose replicas are as large as
its nodes. `kubectl get nodes,pods -A -o json` of a cluster tells of its workloads.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bedplate.advise import measuring
from bedplate.advise.fleet import ClusterProfile, FleetError, NodeShape, Workload
from bedplate.advise.importing.grouping import Seen
from bedplate.advise.measuring import Measured
from bedplate.advise.packing import EVICTION_MIB
from bedplate.model.kinds.measurement import Measurement
from bedplate.model.quantity import format_mib, parse_mib

Json = dict[str, Any]


def servers(items: list[Json]) -> tuple[list[Seen], list[str]]:
    """Servers whose size is known, and remarks on the others."""
    found: list[Seen] = []
    remarks: list[str] = []
    for item in items:
        name = str(item.get("metadata", {}).get("name", ""))
        status: Json = item.get("status") or {}
        metal: Json = status.get("metal") or {}
        cpus = int(status.get("cpus") or metal.get("cpus") or 0)
        memory = str(status.get("memory") or metal.get("memory") or "")
        if not cpus or not memory:
            remarks.append(f"server {name}: its size is not known yet; it is left out")
            continue
        place: dict[str, str] = item.get("spec", {}).get("failureDomain") or {}
        found.append(
            Seen(
                name=name,
                cpus=cpus,
                memory_mib=parse_mib(memory),
                kind=str(metal.get("product") or ""),
                place=dict(place),
            )
        )
    return found, remarks


def clusters(items: list[Json], pools: list[Json]) -> tuple[ClusterProfile, ...]:
    """Clusters with their pools.

    Raises:
        FleetError: a pool's cluster is not among them.
    """
    work: dict[tuple[str, str], list[Workload]] = {}
    shapes: dict[tuple[str, str], NodeShape] = {}
    for item in items:
        work[_key(item)] = []
    for pool in pools:
        spec: Json = pool.get("spec", {})
        k = (str(pool["metadata"].get("namespace", "")), str(spec.get("cluster", "")))
        if k not in work:
            raise FleetError(f"nodepool {pool['metadata']['name']}: there is no cluster {k[1]} in namespace {k[0]}")
        machine: Json = spec.get("machine") or {}
        shape = _shape(machine)
        shapes.setdefault(k, shape)
        replicas = int(spec.get("replicas") or 0)
        if replicas:
            work[k].append(
                Workload(
                    name=str(pool["metadata"]["name"]),
                    replicas=replicas,
                    cpu=shape.cpu,
                    memory=format_mib(max(1, shape.memory_mib - EVICTION_MIB)),
                    substrate="metal" if machine.get("substrate") == "metal" else "auto",
                )
            )
    found: list[ClusterProfile] = []
    for item in items:
        k, spec = _key(item), item.get("spec", {})
        plane: Json = spec.get("controlPlane") or {}
        found.append(
            ClusterProfile(
                name=k[1] if k[0] == "default" else f"{k[0]}-{k[1]}",
                kubernetes=".".join(str(spec.get("kubernetes", "")).split(".")[:2]),
                control_plane=int(plane.get("replicas") or 1),
                plane=_shape(plane.get("machine") or {}),
                node=shapes.get(k),
                workloads=tuple(work[k]),
            )
        )
    return tuple(found)


def overheads(items: list[Json]) -> tuple[dict[str, Measured], list[str]]:
    """Of the newest complete measurement that may enter a comparison, and why others may not."""
    remarks: list[str] = []
    complete = [o for o in (msgspec.convert(i, Measurement) for i in items) if o.status.phase == "Complete"]
    for one in sorted(complete, key=lambda o: (o.status.finished, o.metadata.name), reverse=True):
        try:
            found, said = measuring.overheads(one)
        except measuring.Refused as error:
            remarks.append(str(error))
            continue
        remarks += [f"measurement {one.metadata.name}: {s}" for s in said]
        if found:
            return found, remarks
    return {}, remarks


def _shape(machine: Json) -> NodeShape:
    return NodeShape(cpu=int(machine.get("cpu") or 2), memory=str(machine.get("memory") or "4Gi"))


def _key(item: Json) -> tuple[str, str]:
    return str(item["metadata"].get("namespace", "")), str(item["metadata"]["name"])
