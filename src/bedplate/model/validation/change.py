"""An edit against what was: fields that can't change, versions that can't move so, disks that are not resized."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from bedplate.model import quantity
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.infrastructure import DiskPool, Network, Release
from bedplate.model.kinds.measurement import Measurement
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.validation.faults import Fault

_FIXED: dict[type[Object], tuple[tuple[str, str, str], ...]] = {
    Cluster: (
        ("spec.network", "spec.network", "its machines have addresses of that network"),
        ("spec.podCIDR", "spec.pod_cidr", "its pods have addresses of that network"),
        ("spec.serviceCIDR", "spec.service_cidr", "its services have addresses of that network"),
        ("spec.podNetwork", "spec.pod_network", "its nodes were set up with it"),
        ("spec.endpoint.type", "spec.endpoint.type", "all nodes and users know the cluster by its address"),
        ("spec.endpoint.address", "spec.endpoint.address", "all nodes and users know the cluster by its address"),
        ("spec.endpoint.port", "spec.endpoint.port", "all nodes and users know the cluster by its address"),
    ),
    NodePool: (("spec.cluster", "spec.cluster", "its machines have joined that cluster"),),
    VirtualMachine: (
        ("spec.image", "spec.image", "its disk was made from that image"),
        ("spec.network", "spec.network", "it has an address of that network"),
        ("spec.address", "spec.address", "its guest was set up with it"),
        ("spec.diskPool", "spec.disk_pool", "its disk lies there"),
    ),
    Network: (
        ("spec.cidr", "spec.cidr", "machines have addresses of it"),
        ("spec.bridge", "spec.bridge", "machines are attached to it"),
    ),
    DiskPool: (("spec.path", "spec.path", "disks lie there"),),
    Measurement: (
        ("spec.targets", "spec.targets", "samples were taken of these"),
        ("spec.only", "spec.only", "samples were taken of these"),
        ("spec.seconds", "spec.seconds", "samples of different length don't compare"),
        ("spec.scratch", "spec.scratch", "samples with files of different size don't compare"),
        ("spec.kit", "spec.kit", "samples of different tools don't compare"),
    ),
    Release: (("spec.version", "spec.version", "clusters may have been resolved to it"),),
}
"""Field, attribute path, and why it can't change."""


def check(old: Object, new: Object) -> list[Fault]:
    """Give all faults of changing `old` into `new`."""
    faults: list[Fault] = []
    for path, attribute, why in _FIXED.get(type(new), ()):
        before, after = attrgetter(attribute)(old), attrgetter(attribute)(new)
        if before != after:
            was = f'"{before}"' if isinstance(before, str) else str(before)
            message = f"can't be changed from {was}, as {why}; make a new {type(new).__name__} instead"
            faults.append(Fault(path, message, "FieldValueForbidden"))
    if isinstance(old, Cluster) and isinstance(new, Cluster):
        faults += _version(old, new)
    if isinstance(old, VirtualMachine) and isinstance(new, VirtualMachine):
        faults += _disk(old, new)
    return faults


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else ()


def _version(old: Cluster, new: Cluster) -> Iterator[Fault]:
    before, after = _numbers(old.status.version or old.spec.kubernetes), _numbers(new.spec.kubernetes)
    if old.spec.kubernetes == new.spec.kubernetes or len(before) < 2 or len(after) < 2:
        return
    was = old.status.version or old.spec.kubernetes
    if before[:2] != after[:2]:
        message = (
            f"moving from {was} to {new.spec.kubernetes} changes the minor version, which is not supported yet; "
            "make a new cluster of that version and move the work over"
        )
        yield Fault("spec.kubernetes", message, "FieldValueForbidden")
    elif len(after) == 3 and len(before) == 3 and after < before:
        message = f"{new.spec.kubernetes} is older than {was}; Kubernetes can't go back, write a newer version"
        yield Fault("spec.kubernetes", message, "FieldValueForbidden")


def _disk(old: VirtualMachine, new: VirtualMachine) -> Iterator[Fault]:
    try:
        before, after = quantity.parse(old.spec.disk), quantity.parse(new.spec.disk)
    except quantity.QuantityError:
        return
    if after != before:
        message = f"can't be changed from {old.spec.disk}, as disks are not resized yet; make a new VirtualMachine"
        yield Fault("spec.disk", message, "FieldValueForbidden")
