"""The outer form of every object: `apiVersion`, `kind`, `metadata`, `spec`, `status`."""

from __future__ import annotations

from typing import Literal

from bedplate.model.cpus import CpuChoice
from bedplate.model.meta import API_VERSION, Condition, ObjectMeta
from bedplate.model.wire import Wire


class Object(Wire, frozen=True):
    """An object of any kind. Subclasses give `kind`, `spec` and `status` their types."""

    metadata: ObjectMeta = ObjectMeta()


class BedplateObject(Object, frozen=True):
    """An object of Bedplate's own group."""

    api_version: str = API_VERSION


class Status(Wire, frozen=True):
    """What most kinds report: the generation it speaks of and the conditions."""

    observed_generation: int = 0
    phase: str = ""
    conditions: tuple[Condition, ...] = ()


Substrate = Literal["vm", "metal", "auto"]


class MachineShape(Wire, frozen=True):
    """The shape of the machines of a pool or control plane."""

    substrate: Substrate = "vm"
    cpu: int = 2
    memory: str = "2Gi"
    disk: str = "20Gi"
    image: str = ""
    """Name of an Image; empty: the newest node image of the cluster's Kubernetes version."""
    disk_pool: str = ""
    """Name of a DiskPool; empty: any that the server reaches, shared ones first."""
    match: dict[str, str] = {}
    """Labels that the server must have."""
    cpu_model: CpuChoice = "auto"
    """Of virtual machines: what they know of their server's CPU. `auto`: as the FleetPolicy says."""


class Rollout(Wire, frozen=True):
    """How a changed shape, image or patch version reaches machines that exist."""

    strategy: Literal["Replace", "InPlace"] = "Replace"
    """`Replace`: new machines are made, then old ones go. `InPlace` is not supported yet."""
    max_surge: int = 1
    """Machines of a pool beyond its replicas meanwhile; a control plane always has one."""
    max_unavailable: int = 0
    """Machines of a pool that may be missing meanwhile; of a control plane none."""
    drain_timeout_seconds: int = 600


class LocalReference(Wire, frozen=True):
    """A reference to an object in the same namespace by its name."""

    name: str
