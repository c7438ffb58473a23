"""The inventory: all that was observed, each value with its time, its source and until when it is good.

Collectors deliver changes. A value past its `good_until` is stale: it says what was, not what is. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

import msgspec

from bedplate.model.cpus import CpuModel
from bedplate.model.drift import Drift
from bedplate.model.ids import ClusterKey, Digest, Generation, Key, MachineUid, ServerName, key
from bedplate.model.metal import Described, Erased, Hardware, ServerTests, Written


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A disk pool as one server sees it."""

    name: str
    capacity_mib: int
    free_mib: int
    shared: bool = False
    images: tuple[Digest, ...] = ()
    """Digests of verified image files in this pool's cache."""
    unused: tuple[Digest, ...] = ()
    """Of those that were fetched for this store: the ones that no disk in the pool, whosever it is, stands on."""


class ServerView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="server"):
    """A server as its agent tells it. `connected` False: the agent's connection is down."""

    server: ServerName
    connected: bool
    host_uuid: str = ""
    boot_id: str = ""
    address: str = ""
    agent_version: str = ""
    cpus: int = 0
    memory_mib: int = 0
    accelerator: Literal["", "kvm", "tcg"] = ""
    cpu: str = ""
    """Which CPU guests see that see the server's own: they move live only to a server that tells the same."""
    cpu_models: tuple[CpuModel, ...] = ()
    """Levels that guests may be given instead, lowest first."""
    bridges: tuple[str, ...] = ()
    pools: tuple[PoolView, ...] = ()
    error: str = ""
    health: Literal["", "warning", "critical"] = ""
    """What the server itself says of its hardware; empty: nothing is wrong, or it does not tell."""
    problems: tuple[str, ...] = ()
    """One sentence for each thing that is wrong with it."""
    system: Literal["hypervisor", "ram", "node"] = "hypervisor"
    """What the agent runs in: a hypervisor, the RAM system of a bare server, or the node deployed on its disk."""
    run: int = 0
    """Of a RAM system: which boot of it this is (`MetalEntry.run`)."""
    drift: Drift | None = None
    """How a system that Bedplate deployed differs from its image; None: it was not looked at."""

    @property
    def key(self) -> Key:
        return key("server", self.server)

    def pool(self, name: str) -> PoolView | None:
        """The pool of that name, if this server has it."""
        return next((p for p in self.pools if p.name == name), None)


DomainState = Literal["absent", "defined", "running", "paused", "crashed", "shutoff"]
"""`defined`: known to libvirt, never started in its present boot number. `shutoff`: it ran and ended."""


class DomainView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="domain"):
    """One of this store's domains and its volume on one server."""

    server: ServerName
    uid: MachineUid
    generation: Generation = Generation(0)
    state: DomainState = "absent"
    boot: int = 0
    """Last boot number that the agent started."""
    volume: bool = False
    """The machine's disk is there."""
    disk_pool: str = ""
    guest_agent: bool = False
    """The guest agent answered since the last start: the guest's user space is up."""
    started: float = 0.0
    """When this boot was started; seconds since the epoch."""
    bootstrap: Literal["", "running", "done", "failed"] = ""
    """What the guest's own bootstrap unit says."""
    bootstrap_up: float = 0.0
    """Once it has ended: when the guest's network was up, by its own word; 0: it does not say. Since the epoch."""
    bootstrap_began: float = 0.0
    """The same of the beginning of kubeadm."""
    bootstrap_ended: float = 0.0
    """The same of the end of kubeadm."""
    detail: str = ""
    """Last lines of the console or the unit's log, where something failed. Never holds a secret."""

    @property
    def key(self) -> Key:
        return key("domain", self.server, self.uid)


class NodeView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="node"):
    """A Kubernetes node as its cluster's API shows it. `present` False: it is gone."""

    cluster: ClusterKey
    name: str
    present: bool = True
    ready: bool = False
    unschedulable: bool = False
    version: str = ""
    address: str = ""
    uid: str = ""
    machine: MachineUid = MachineUid("")
    """From the node's provider id `bedplate://<uid>`."""
    pods: int = 0
    """Pods that a drain would have to move."""
    ready_changed: float = 0.0
    """When `ready` last changed, as the node's own condition says; 0: it does not say. Seconds since the epoch."""
    out_of_service: bool = False
    """It carries the taint `node.kubernetes.io/out-of-service`."""

    @property
    def key(self) -> Key:
        return key("node", self.cluster, self.name)


class ClusterView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="cluster"):
    """A cluster as seen from outside."""

    cluster: ClusterKey
    secrets: bool = False
    """Its certificate authorities and keys are made and kept."""
    initialised: bool = False
    """`kubeadm init` ended well once; stays true."""
    api: bool = False
    """The API server answers now."""
    etcd_members: tuple[str, ...] = ()
    """Names of etcd's voting members."""
    addons: tuple[str, ...] = ()
    """`name@digest` of addons that were applied."""
    error: str = ""

    @property
    def key(self) -> Key:
        return key("cluster-view", self.cluster)


class RetainedDiskView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="retained-disk"):
    """A retained disk in the world."""

    server: ServerName
    uid: MachineUid
    present: bool
    disk_pool: str = ""

    @property
    def key(self) -> Key:
        return key("retained-disk-view", self.server, self.uid)


class BmcView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="bmc"):
    """What a server's BMC said last, as read back; never what it replied to an order."""

    server: ServerName
    reachable: bool
    power: Literal["on", "off", "unknown"] = "unknown"
    health: Literal["", "ok", "warning", "critical"] = ""
    """Redfish's health roll-up; empty: the BMC does not tell."""
    problems: tuple[str, ...] = ()
    """What is wrong, one sentence each."""
    described: Described | None = None
    """What the server is, as the BMC has it; None: it was not read yet."""
    error: str = ""

    @property
    def key(self) -> Key:
        return key("bmc", self.server)


class LeaseView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="lease"):
    """A server's lease on a shared disk pool, as one server that reaches the pool sees it.

    A witness tells of others only while its own lease on that pool is renewed: else it is the blind one. It tells when
    that changes, not of each renewal. With `witness` the holder itself, `held` False says that it has ended its guests.
    """

    disk_pool: str
    server: ServerName
    """The holder."""
    witness: ServerName
    held: bool
    boot_id: str = ""
    """The holder's boot id, as its lease says."""
    guarded: bool = False
    """The holder's lease says that a watchdog cuts its power within `leases.WATCHDOG` seconds where it fails. Only then
    does an expired lease, and that time, prove that its guests have ended."""
    renewed: float = 0.0
    """When the witness last saw it renewed; seconds since the epoch on its clock. For eyes."""

    @property
    def key(self) -> Key:
        return key("lease", self.server, self.disk_pool, self.witness)


class MachineLoad(msgspec.Struct, frozen=True):
    """What one machine used lately: mean and standard deviation of its CPU use, in cores."""

    uid: MachineUid
    cpu: float
    deviation: float = 0.0


class LoadView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="load"):
    """What a server and its machines used lately. Told when it has changed by more than a tenth of the server."""

    server: ServerName
    cpu: float
    """Cores in use, of all that runs on it."""
    machines: tuple[MachineLoad, ...] = ()

    @property
    def key(self) -> Key:
        return key("load", self.server)


class MetalView(msgspec.Struct, frozen=True, kw_only=True, tag_field="view", tag="metal"):
    """A bare server as the RAM system on it tells it, whole each time. It is gone with that boot of the RAM system."""

    server: ServerName
    run: int
    task: Literal["", "inspect", "test", "write", "erase"] = ""
    """What it is at."""
    progress: float = 0.0
    """Of that, 0 to 1; told in steps of a twentieth."""
    hardware: Hardware | None = None
    tests: ServerTests | None = None
    written: Written | None = None
    erased: Erased | None = None

    @property
    def key(self) -> Key:
        return key("metal", self.server)


AnyView = (
    MetalView | ServerView | DomainView | NodeView | ClusterView | RetainedDiskView | BmcView | LeaseView | LoadView
)

V = TypeVar("V", bound=AnyView, covariant=True)


class Observation(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """A value with its time (seconds since the epoch), source and validity."""

    value: V
    time: float
    source: str
    good_until: float = float("inf")

    def fresh(self, now: float) -> bool:
        """True while the value may be taken for what is."""
        return now < self.good_until


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """The latest observation of each key. The mapping must not be changed by readers.

    `domains_by_uid` is an index of it: the keys of the domains of a machine on every server that showed one.
    """

    observations: Mapping[Key, Observation[AnyView]] = {}
    domains_by_uid: Mapping[MachineUid, frozenset[Key]] = {}
    leases_by_server: Mapping[ServerName, frozenset[Key]] = {}
    """The same for leases by their holder."""
    synced: frozenset[str] = frozenset()
    """Sources that delivered their full state since the controller started: `agent/hv1`, `cluster/default/shop`.
    Absence in a source that is not in here means nothing."""

    def server(self, name: ServerName) -> Observation[ServerView] | None:
        """Latest observation of that server."""
        o = self.observations.get(key("server", name))
        return o if o is not None and isinstance(o.value, ServerView) else None  # type: ignore[return-value]

    def bmc(self, name: ServerName) -> Observation[BmcView] | None:
        """Latest word of that server's BMC."""
        o = self.observations.get(key("bmc", name))
        return o if o is not None and isinstance(o.value, BmcView) else None  # type: ignore[return-value]

    def metal(self, name: ServerName) -> Observation[MetalView] | None:
        """Latest word of the RAM system on that server."""
        o = self.observations.get(key("metal", name))
        return o if o is not None and isinstance(o.value, MetalView) else None  # type: ignore[return-value]

    def load(self, name: ServerName) -> Observation[LoadView] | None:
        """Latest load of that server."""
        o = self.observations.get(key("load", name))
        return o if o is not None and isinstance(o.value, LoadView) else None  # type: ignore[return-value]

    def leases(self, name: ServerName) -> list[Observation[LeaseView]]:
        """All that was told of that server's leases, by whichever witness."""
        found = (self.observations.get(k) for k in self.leases_by_server.get(name, frozenset[Key]()))
        return [o for o in found if o is not None and isinstance(o.value, LeaseView)]  # type: ignore[misc]

    def domain(self, server: ServerName, uid: MachineUid) -> Observation[DomainView] | None:
        """Latest observation of that machine's domain on that server."""
        o = self.observations.get(Key(f"domain/{server}/{uid}"))  # asked for most often of all
        return o if o is not None and isinstance(o.value, DomainView) else None  # type: ignore[return-value]

    def domains(self, uid: MachineUid) -> list[Observation[DomainView]]:
        """All observations of that machine's domain, on whichever server."""
        found = (self.observations.get(k) for k in self.domains_by_uid.get(uid, frozenset[Key]()))
        return [o for o in found if o is not None and isinstance(o.value, DomainView)]  # type: ignore[misc]

    def node(self, cluster: ClusterKey, name: str) -> Observation[NodeView] | None:
        """Latest observation of that node."""
        o = self.observations.get(Key(f"node/{cluster}/{name}"))
        return o if o is not None and isinstance(o.value, NodeView) else None  # type: ignore[return-value]

    def cluster(self, cluster: ClusterKey) -> Observation[ClusterView] | None:
        """Latest observation of that cluster."""
        o = self.observations.get(key("cluster-view", cluster))
        return o if o is not None and isinstance(o.value, ClusterView) else None  # type: ignore[return-value]

    def retained_disk(self, server: ServerName, uid: MachineUid) -> Observation[RetainedDiskView] | None:
        """Latest observation of that retained disk."""
        o = self.observations.get(key("retained-disk-view", server, uid))
        return o if o is not None and isinstance(o.value, RetainedDiskView) else None  # type: ignore[return-value]
