"""The blueprint: the complete target state of the infrastructure, as immutable entries.

An entry holds every choice that planning made (server, address, image, ...) so that running makes none. It holds
ids and digests of secrets, never secrets. Entries of a child blueprint that did not change are the parent's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from bedplate.model.cpus import HOST, CpuModel
from bedplate.model.ids import ClusterKey, Digest, Generation, Key, MachineUid, Revision, ServerName, key
from bedplate.model.metal import Erased, Hardware, ServerTests, Suite


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry"):
    """Base of all entries. `generation` grows with every change of the entry; the world refuses lower ones."""

    generation: Generation = Generation(1)


class AddonRef(msgspec.Struct, frozen=True):
    """An addon by name and the digest of its manifest; the text itself stays in the spec."""

    name: str
    digest: Digest

    @property
    def mark(self) -> str:
        """`name@digest`, as it is recorded in the cluster once it was applied."""
        return f"{self.name}@{self.digest}"


BASE_ADDON = AddonRef("bedplate", Digest("1"))
"""Bedplate's own part of every cluster: its digest is a version, raised where what it applies changes."""


class ClusterEntry(Entry, frozen=True, kw_only=True, tag="cluster"):
    """A cluster's infrastructure."""

    cluster: ClusterKey
    uid: str
    desired: Literal["present", "absent"] = "present"
    version: str
    """`1.35.3`, resolved once."""
    network: str
    endpoint_type: Literal["vrrp", "external"] = "vrrp"
    endpoint: str
    """Address of the control plane, without the port."""
    port: int = 6443
    vrrp_id: int = 0
    pod_cidr: str
    service_cidr: str
    pod_network: Literal["routes", "none"] = "routes"
    addons: tuple[AddonRef, ...] = ()
    secrets: str = ""
    """Id under which the store keeps this cluster's certificate authorities and keys."""
    first_machine: MachineUid = MachineUid("")
    """The control-plane machine that runs `kubeadm init`; all others join."""
    initialised: bool = False
    """Set by planning once a working API was observed; from then on there is data to lose (rule 9)."""

    @property
    def key(self) -> Key:
        return key("cluster", self.cluster)


class ImageRef(msgspec.Struct, frozen=True, kw_only=True):
    """All that a hypervisor needs of an image; names are for people, digests for programs."""

    name: str
    disk: Digest
    disk_size: int = 0
    format: Literal["qcow2", "raw"] = "qcow2"
    virtual_size: int = 0
    kernel: Digest = Digest("")
    initrd: Digest = Digest("")
    metal: Digest = Digest("")
    """Of the file that says how the disk is written to bare metal (`metal_protocol.WriteManifest`); empty: it can't."""
    command_line: str = ""
    bootstrap: Literal["guest-agent", "cloud-init"] = "guest-agent"

    @property
    def pooled(self) -> frozenset[Digest]:
        """Its files that lie in the disk pools of its machines."""
        return frozenset({self.disk, self.kernel, self.initrd} - {Digest("")})


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's interface with its one address."""

    network: str
    bridge: str
    mac: str
    address: str
    prefix: int
    gateway: str = ""
    name_servers: tuple[str, ...] = ()
    mtu: int = 1500


Desired = Literal["run", "stop", "manual", "drain", "remove"]
"""`manual`: made and defined; people start and stop it."""
"""`run`: be up and (for a node) joined. `stop`: be off, disk kept. `drain`: leave the cluster, then `remove`.
`remove`: the machine ends; its disk goes or is retained as `retain_disk` says."""


class MachineEntry(Entry, frozen=True, kw_only=True, tag="machine"):
    """A machine: a node of a cluster, or a user's own VM (`role` `vm`)."""

    uid: MachineUid
    name: str
    namespace: str
    owner: Key
    """`cluster/<ns>/<name>` for a control plane, `nodepool/<ns>/<name>`, or `virtualmachine/<ns>/<name>`."""
    cluster: ClusterKey = ClusterKey("")
    role: Literal["control-plane", "worker", "vm"] = "worker"
    substrate: Literal["vm", "metal"] = "vm"
    server: ServerName
    cpu: int
    memory_mib: int
    disk_mib: int
    disk_pool: str
    image: ImageRef
    version: str = ""
    nic: Nic
    desired: Desired = "run"
    boot: int = 1
    """Grows when the machine is to be started again after it died; the agent starts each number once."""
    retain_disk: bool = False
    reason: str = ""
    """Why the entry is as it is, in one sentence."""
    joined: bool = False
    """Set by planning once its Node was observed: it is never bootstrapped again."""
    replaces: MachineUid = MachineUid("")
    """The machine that was given up after a failure and that this one stands in for."""
    restarts: tuple[float, ...] = ()
    """When planning had it started again after it died; only those within the policy's `boot_window`."""
    cpu_model: CpuModel = HOST
    """What its guest knows of its server's CPU, from its start on."""
    cordon: Literal["", "drain", "drained", "lift"] = ""
    """While its server is wanted for something else for a time: `drain`, its pods are to move away; `drained`, they
    have, or had their time; `lift`, its node is to take pods again."""
    kubelet_restarted: float = 0.0
    """When planning last wanted its kubelet to be restarted, its machine being well; seconds since the epoch."""
    source: ServerName = ServerName("")
    """While it moves live: the server that it comes from; `server` is where it is to be."""
    carried: bool = False
    """Its disk was made on another server of the same shared pool: it is taken over here, never made anew."""
    moves: tuple[float, ...] = ()
    """When planning had it moved, lately: what moves often is left alone."""
    out_of_service: bool = False
    """Its end is confirmed and its pods are not to wait for it: its Node carries the out-of-service taint."""
    priority: int = 0
    """Who is recovered first: higher before lower; control planes before all."""
    created: float = 0.0
    """Seconds since the epoch when planning made it."""
    user_data: str = ""
    """`namespace/name` of the Secret with cloud-init user data (a user's own VM)."""
    ssh_keys: tuple[str, ...] = ()
    node_labels: tuple[tuple[str, str], ...] = ()
    node_taints: tuple[str, ...] = ()
    """As kubelet's `--register-with-taints` takes them: `key=value:Effect`."""
    drain_timeout: float = 600.0
    """Seconds."""

    @property
    def key(self) -> Key:
        return key("machine", self.uid)

    @property
    def is_node(self) -> bool:
        return self.role != "vm"


class BmcRef(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a server's BMC; its password stays in the store."""

    address: str
    """`redfish+https://10.0.0.7/redfish/v1/Systems/1`."""
    secret: str
    """`namespace/name` of the Secret with `username` and `password`."""
    verify_ca: str = ""


class ServerEntry(Entry, frozen=True, kw_only=True, tag="server"):
    """A server that is not, or may not be, what it should be. One that is well has no entry.

    `suspect`: its power is read. `fence`: its power is to be off. `dead`: its end is confirmed, so that what ran on it
    may run elsewhere. The entry goes once its agent is back and has told all that is there.
    """

    server: ServerName
    standing: Literal["suspect", "fence", "dead"]
    since: float
    """When its agent was last heard of; seconds since the epoch."""
    bmc: BmcRef | None = None
    boot_id: str = ""
    """The boot in which it was lost."""
    confirmed: float = 0.0
    """When its end was confirmed."""
    by: Literal["", "power", "lease"] = ""
    """`power`: read back as off from its BMC. `lease`: by lease expiry, watchdog time and a margin."""
    reason: str = ""

    @property
    def key(self) -> Key:
        return key("server", self.server)


class RetainedDiskEntry(Entry, frozen=True, kw_only=True, tag="retained-disk"):
    """A disk kept after its machine was replaced or lost (rule 9)."""

    uid: MachineUid
    name: str
    namespace: str
    server: ServerName
    disk_pool: str
    desired: Literal["present", "absent"] = "present"
    reason: str = ""
    expires: float = 0.0

    @property
    def key(self) -> Key:
        return key("retained-disk", self.uid)


class CachedImageEntry(Entry, frozen=True, kw_only=True, tag="cached-image"):
    """A file in a server's disk pool that came with an image and that nothing needs any more. One that is needed has
    no entry."""

    server: ServerName
    disk_pool: str
    digest: Digest
    desired: Literal["present", "absent"] = "present"
    since: float
    """When planning first saw that nothing needs it; seconds since the epoch."""

    @property
    def key(self) -> Key:
        return key("cached-image", self.server, self.disk_pool, self.digest)


MetalState = Literal[
    "inspecting",
    "testing",
    "available",
    "deploying",
    "deployed",
    "erasing",
    "retired",
    "quarantined",
    "rescue",
]


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """What a bare server was before it was in rescue."""

    state: Literal["available", "deployed", "quarantined"]
    reason: str = ""
    up: bool = False
    """Its RAM system has reported since: from then on nothing starts the server again by itself."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a bare server a hypervisor."""

    uid: MachineUid
    """Of this deployment: what was written for another one is not taken for it."""
    image: ImageRef


class MetalEntry(Entry, frozen=True, kw_only=True, tag="metal"):
    """A bare server that a person accepted: where it is in its life, and what is to run on it.

    Power, maintenance and role are other things. How states follow each other is `lifecycle.METAL_STATES`.
    """

    server: ServerName
    uid: str
    """Of the Server object that was accepted: another of that name is another server."""
    role: Literal["free", "hypervisor"] = "free"
    """What planning has it be where its declared role is `auto`."""
    role_since: float = 0.0
    """When that changed last; seconds since the epoch, 0: never."""
    state: MetalState
    since: float
    """When it came into this state; seconds since the epoch."""
    bmc: BmcRef
    nic: Nic
    """Of its RAM system; `mac` empty: not known yet, the interface that reaches the controller is used."""
    boots_from: Literal["media", "network"] = "media"
    """How it boots its RAM system."""
    run: int = 1
    """Which boot of the RAM system is wanted: each is started once, with an identity of its own."""
    hardware: Hardware | None = None
    """As it was inspected last."""
    tests: ServerTests | None = None
    """As it was tested last."""
    erased: Erased | None = None
    """The certificates of its last erasure."""
    asked: tuple[tuple[str, str], ...] = ()
    """Requests that were taken up, `(kind, value of its annotation)`: each value is done once."""
    suite: Suite = "quick"
    """What `testing` runs."""
    machine: MachineUid = MachineUid("")
    """What it is claimed by, from `deploying` on until it is erased."""
    host: Host | None = None
    """The hypervisor that it is to be or is, in `deploying` and `deployed`; None: it is a machine's, or nobody's."""
    root_disk: str = ""
    """Serial number of the disk that the machine or hypervisor is written to."""
    left: MachineEntry | None = None
    """A machine that is gone and still lies on its disks: whoever switches the server on would bring it back, so nobody
    else gets its address until it is erased or overwritten."""
    written: bool = False
    """The disk of its machine or hypervisor was written and read back."""
    then: Literal["available", "retired"] = "available"
    """What `erasing` ends in."""
    held: bool = False
    """What nobody released is on its disks, or what could not be erased: it is given to nobody before all is erased."""
    before: Before | None = None
    """What it was, in `rescue` only."""
    tries: int = 0
    """Boots of the RAM system or of the disk in this state that led to nothing."""
    reason: str = ""

    @property
    def key(self) -> Key:
        return key("metal", self.server)

    @property
    def underlying(self) -> MetalState:
        """Its state, in rescue the one before and after it."""
        return self.before.state if self.state == "rescue" and self.before is not None else self.state

    @property
    def counts_as_host(self) -> bool:
        """It is one of those that planning made hypervisors."""
        return self.role == "hypervisor" and self.state != "quarantined"


AnyEntry = MetalEntry | ClusterEntry | MachineEntry | ServerEntry | RetainedDiskEntry | CachedImageEntry


class Blueprint(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable, numbered set of entries. The mapping must not be changed by anybody."""

    number: Revision = Revision(0)
    parent: Revision = Revision(0)
    reason: str = ""
    entries: Mapping[Key, AnyEntry] = {}

    def machines(self) -> Iterable[MachineEntry]:
        """All machine entries."""
        return (e for e in self.entries.values() if isinstance(e, MachineEntry))

    def clusters(self) -> Iterable[ClusterEntry]:
        """All cluster entries."""
        return (e for e in self.entries.values() if isinstance(e, ClusterEntry))

    def machine(self, uid: MachineUid) -> MachineEntry | None:
        """The entry of that machine."""
        entry = self.entries.get(key("machine", uid))
        return entry if isinstance(entry, MachineEntry) else None

    def server(self, name: ServerName) -> ServerEntry | None:
        """The entry of that server; None for one that is well."""
        entry = self.entries.get(key("server", name))
        return entry if isinstance(entry, ServerEntry) else None

    def metal(self, name: ServerName) -> MetalEntry | None:
        """The entry of that bare server; None where nobody accepted it."""
        entry = self.entries.get(key("metal", name))
        return entry if isinstance(entry, MetalEntry) else None

    def cluster(self, cluster: ClusterKey) -> ClusterEntry | None:
        """The entry of that cluster."""
        entry = self.entries.get(key("cluster", cluster))
        return entry if isinstance(entry, ClusterEntry) else None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a child blueprint changes of its parent: a value sets an entry, None drops it."""

    parent: Revision
    reason: str
    changes: Mapping[Key, AnyEntry | None] = {}


def apply_delta(blueprint: Blueprint, delta: Delta, number: Revision) -> Blueprint:
    """Give the child. Unchanged entries are shared with the parent; copying the map is the only cost.

    Raises:
        ValueError: the delta belongs to another parent.
    """
    if delta.parent != blueprint.number:
        raise ValueError(f"delta is for blueprint {delta.parent}, not {blueprint.number}")
    entries = dict(blueprint.entries)
    for k, entry in delta.changes.items():
        if entry is None:
            entries.pop(k, None)
        else:
            entries[k] = entry
    return Blueprint(number=number, parent=blueprint.number, reason=delta.reason, entries=entries)
