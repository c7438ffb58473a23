"""All kinds in one table: names, scope, who may write, and the columns that `get` shows."""

from __future__ import annotations

from typing import Literal, NamedTuple

from bedplate.model.kinds import cluster, control, core, firmware, fleet, infrastructure, measurement, virtual_machine
from bedplate.model.kinds.base import Object
from bedplate.model.meta import GROUP, VERSION


class Column(NamedTuple):
    """One column of a server-side table; `path` is a dotted path into the object, in wire names.

    `path` may end in `[TYPE]` after `conditions`: that condition's status. `priority` above zero: `-o wide` only.
    """

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


class KindInfo(NamedTuple):
    """What the API, the store and the CLI need to know of one kind."""

    kind: str
    plural: str
    type: type[Object]
    group: str = GROUP
    version: str = VERSION
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    derived: bool = False
    """True: made by the controller only; users may read it (and delete where `deletable`)."""
    planned: bool = True
    """False: users make it, and no planning looks at it: it says nothing of how the infrastructure should be."""
    deletable: bool = True
    scalable: bool = False
    columns: tuple[Column, ...] = ()

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


_READY = Column("Ready", "status.conditions[Ready]")
_AGE = Column("Age", "metadata.creationTimestamp", "date")

KINDS: tuple[KindInfo, ...] = (
    KindInfo("Server", "servers", infrastructure.Server, short_names=("srv",), namespaced=False, columns=(
        Column("Role", "spec.role"), _READY, Column("Phase", "status.phase"), Column("CPUs", "status.cpus", "integer"),
        Column("Memory", "status.memory"), Column("Allocated", "status.allocatedMemory"),
        Column("Machines", "status.machines", "integer"),
        Column("Address", "status.address", priority=1), Column("Accelerator", "status.accelerator", priority=1),
        Column("CPU", "status.cpu", priority=1), _AGE,
    )),
    KindInfo("Network", "networks", infrastructure.Network, short_names=("net",), namespaced=False, columns=(
        Column("CIDR", "spec.cidr"), Column("Used", "status.addressesUsed", "integer"),
        Column("Total", "status.addressesTotal", "integer"), _AGE,
    )),
    KindInfo("DiskPool", "diskpools", infrastructure.DiskPool, short_names=("dp",), namespaced=False, columns=(
        Column("Type", "spec.type"), Column("Path", "spec.path"), Column("Capacity", "status.capacity"),
        Column("Free", "status.free"), _AGE,
    )),
    KindInfo("Image", "images", infrastructure.Image, short_names=("img",), namespaced=False, columns=(
        Column("System", "spec.system"), Column("Kubernetes", "spec.kubernetesVersion"),
        Column("Bootstrap", "spec.bootstrap"), Column("Digest", "spec.disk.digest", priority=1), _AGE,
    )),
    KindInfo("Release", "releases", infrastructure.Release, short_names=("rel",), namespaced=False, columns=(
        Column("Version", "spec.version"), Column("Source", "spec.source"),
        Column("Etcd", "spec.etcd", priority=1), _AGE,
    )),
    KindInfo("FleetPolicy", "fleetpolicies", fleet.FleetPolicy, short_names=("fp",), namespaced=False, columns=(
        Column("Balance", "spec.balance.mode"), Column("Reserve", "spec.reserve.servers", "integer"),
        Column("Paused", "spec.paused"), _AGE,
    )),
    KindInfo("CompatibilityMatrix", "compatibilitymatrices", firmware.CompatibilityMatrix, short_names=("fwm",),
             namespaced=False, columns=(_AGE,)),
    KindInfo("Cluster", "clusters", cluster.Cluster, short_names=("cl",), columns=(
        Column("Version", "status.version"), _READY, Column("Nodes", "status.nodes", "integer"),
        Column("NodesReady", "status.nodesReady", "integer"), Column("Endpoint", "status.endpoint"),
        Column("Reason", "status.phase", priority=1), _AGE,
    )),
    KindInfo("NodePool", "nodepools", cluster.NodePool, short_names=("np",), scalable=True, columns=(
        Column("Cluster", "spec.cluster"), Column("Substrate", "spec.machine.substrate"),
        Column("Replicas", "spec.replicas", "integer"), Column("ReadyReplicas", "status.readyReplicas", "integer"),
        Column("Version", "status.version"), _AGE,
    )),
    KindInfo("Machine", "machines", cluster.Machine, short_names=("ma",), derived=True, deletable=True, columns=(
        Column("Cluster", "spec.cluster"), Column("Role", "spec.role"), Column("Phase", "status.phase"),
        Column("Server", "spec.server"), Column("Address", "spec.address"), Column("Version", "spec.version"),
        Column("Step", "status.step", priority=1), _AGE,
    )),
    KindInfo("VirtualMachine", "virtualmachines", virtual_machine.VirtualMachine, short_names=("vm",), columns=(
        Column("Phase", "status.phase"), Column("Server", "status.server"), Column("Address", "status.address"),
        Column("CPU", "spec.cpu", "integer", 1), Column("Memory", "spec.memory", priority=1), _AGE,
    )),
    KindInfo("Measurement", "measurements", measurement.Measurement, short_names=("me",), planned=False, columns=(
        Column("Targets", "spec.targets"), Column("Phase", "status.phase"), Column("Progress", "status.progress"),
        Column("Finished", "status.finished", priority=1), Column("Kit", "spec.kit", priority=1), _AGE,
    )),
    KindInfo("RetainedDisk", "retaineddisks", control.RetainedDisk, short_names=("rd",), namespaced=True,
             derived=True, deletable=True, columns=(
        Column("Machine", "spec.machine"), Column("Pool", "spec.diskPool"), Column("Server", "spec.server"),
        Column("Expires", "spec.expires"), Column("Reason", "spec.reason", priority=1), _AGE,
    )),
    KindInfo("Blueprint", "blueprints", control.Blueprint, short_names=("bp",), namespaced=False, derived=True,
             deletable=False, columns=(
        Column("Number", "spec.number", "integer"), Column("Reason", "spec.reason"), _AGE,
    )),
    KindInfo("Operation", "operations", control.Operation, short_names=("op",), namespaced=False, derived=True,
             deletable=False, columns=(
        Column("Step", "spec.step"), Column("Target", "spec.target"), Column("Server", "spec.server"),
        Column("Phase", "status.phase"), Column("Attempt", "status.attempt", "integer"),
        Column("Message", "status.message", priority=1), _AGE,
    )),
    KindInfo("Namespace", "namespaces", core.Namespace, group="", version="v1", short_names=("ns",),
             namespaced=False, columns=(Column("Status", "status.phase"), _AGE)),
    KindInfo("Secret", "secrets", core.Secret, group="", version="v1",
             columns=(Column("Type", "type"), _AGE)),
    KindInfo("Event", "events", core.Event, group="", version="v1", short_names=("ev",), columns=(
        Column("Last Seen", "lastTimestamp", "date"), Column("Type", "type"), Column("Reason", "reason"),
        Column("Object", "involvedObject.name"), Column("Message", "message"),
    )),
)  # fmt: skip

BY_KIND = {info.kind: info for info in KINDS}
BY_PLURAL = {(info.group, info.plural): info for info in KINDS}


def find(word: str) -> KindInfo | None:
    """Give the kind that a user's word means: kind, plural, singular or short name, in any case."""
    low = word.lower()
    return next((i for i in KINDS if low in {i.kind.lower(), i.plural, *i.short_names}), None)
