"""What there is in the simulated world: servers with their BMCs and leases, disks, domains, nodes. Plain state.

Nothing in here does anything by itself; how things change is told in the modules that are named after it (`power`,
`leases`, `migration`, `workload` ...).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bedplate.model.blueprint import Host, MachineEntry
from bedplate.model.cpus import CpuModel
from bedplate.model.ids import ClusterKey, Digest, MachineUid, ServerName, StoreId
from bedplate.model.inventory import MetalView, PoolView

if TYPE_CHECKING:
    from bedplate.sim.workload import SimPod

Process = Generator[float, None, None]
"""Something that goes on in the world by itself: yields the seconds until it goes on."""

_NOWHERE = ServerName("")
RunState = Literal["running", "shutoff", "crashed", "paused"]


# --- disks --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class SimPool:
    """A disk pool's folder. A shared one is the same object on all its servers, and so are the disks in it."""

    name: str
    capacity_mib: int = 1_000_000
    shared: bool = False
    images: set[Digest] = field(default_factory=set[Digest])
    used_by: Counter[Digest] = field(default_factory=Counter[Digest])
    """How many disks, retained ones too, stand on each image file or boot from it."""
    used_mib: int = 0
    full: bool = False
    """A fault: nothing more can be written."""
    gone: bool = False
    """A fault: nobody reaches it, and what lies on it can't be read or written."""
    slow: float = 1.0
    """A fault: what it does takes so many times as long."""
    locks: bool = True
    """QEMU's image locks work across its servers: a second start of a disk in use is refused."""
    volumes: dict[MachineUid, SimVolume] = field(default_factory=dict["MachineUid", "SimVolume"])
    """Machines' disks, whichever server they belong to."""

    def view(self) -> PoolView:
        return PoolView(
            name=self.name,
            capacity_mib=self.capacity_mib,
            free_mib=0 if self.full else max(0, self.capacity_mib - self.used_mib),
            shared=self.shared,
            images=tuple(sorted(self.images)),
            unused=tuple(sorted(d for d in self.images if self.used_by[d] <= 0)),
        )

    def stands(self, volume: SimVolume, sign: int = 1) -> bool:
        """Count a disk in, or out; True where a file came into use or out of it by that."""
        before = {d for d in volume.images if self.used_by[d] > 0}
        for digest in volume.images:
            self.used_by[digest] += sign
        return before != {d for d in volume.images if self.used_by[d] > 0}


@dataclass(eq=False)
class SimVolume:
    """A machine's disk. What kubeadm and etcd wrote on it comes and goes with it."""

    uid: MachineUid
    server: ServerName
    """The server whose agent has it: on a shared pool it changes hands."""
    pool: SimPool
    size_mib: int
    store: StoreId
    generation: int = 0
    """Of the machine, when it was made or taken over last; nobody touches it with a lower one."""
    joined: ClusterKey | None = None
    member: bool = False
    """Holds an etcd member's data."""
    images: frozenset[Digest] = frozenset()
    """Image files that it stands on and boots from."""


# --- machines -----------------------------------------------------------------------------------------------------


@dataclass
class SimRecord:
    """What an agent has written down of a machine: it outlives the domain, the agent and the server's boots."""

    generation: int = 0
    boot: int = 0
    started: float = 0.0
    ended: bool = False
    """In this generation it has left: its disk is gone or another server's."""


@dataclass(eq=False)
class SimDomain:
    """A domain known to libvirt."""

    entry: MachineEntry
    store: StoreId
    defined_boot: int
    state: RunState = "shutoff"
    run: int = 0
    """The number of its last start, so that a process of an earlier run knows that it is over. A live move is the same
    run; a start on another server is another."""
    guest_agent: bool = False
    bootstrap: Literal["", "running", "done", "failed"] = ""
    detail: str = ""
    server: ServerName = _NOWHERE
    """Where it is known now."""
    hardware: MachineEntry | None = None
    """As it was started: what it has until it next starts."""
    kubelet: bool = False
    """Its kubelet was started in this run."""
    kubelet_broken: bool = False
    """Its kubelet fails for a reason that only a new boot mends."""
    registered: bool = False
    """Its kubelet has made its Node in this run; a running kubelet does not make it again."""
    hung: bool = False
    """Its kernel hangs: it runs and does nothing."""


# --- servers ------------------------------------------------------------------------------------------------------


@dataclass
class SimBmc:
    """A server's management controller."""

    reachable: bool = True
    seconds: float = 0.2
    """Time for each answer."""
    lies: Literal["", "on", "off"] = ""
    """What it says of the power whatever is so."""
    deaf: bool = False
    """It takes orders, says that all is well, and does nothing."""
    fed: bool = True
    """False: it is as dead as its power feeds."""
    health: Literal["", "ok", "warning", "critical"] = "ok"
    problems: tuple[str, ...] = ()
    serial: str = ""
    """The serial number that it tells; empty: the server's own."""


@dataclass
class SimLease:
    """A server's lease on one shared disk pool."""

    renewing: bool = False
    since: float = 0.0
    """While it is renewed: since when. Renewals themselves are no events."""
    last: float = 0.0
    """While it is not: when it was last."""
    lost: bool = False
    """It was not renewed in time: no guest may run on the pool until it is renewed and a controller was spoken with."""
    ended: bool = False
    """Since then the pool's guests were ended."""
    guarded: bool = False
    """What it says of its holder's watchdog; as written last, also where the holder is gone."""
    turns: int = 0
    """Counts changes, so that a timer of an earlier turn knows that it is over."""
    witnesses: set[ServerName] = field(default_factory=set[ServerName])
    """Servers that tell of it."""


@dataclass(eq=False)
class SimDisk:
    """A bare server's disk."""

    serial: str
    size: int = 960 * 10**9
    """Bytes."""
    machine: MachineEntry | None = None
    """Whose image was begun to be written to it."""
    host: Host | None = None
    """Or which hypervisor's."""
    whole: bool = False
    """All of it was."""
    health: Literal["", "ok", "failing"] = "ok"
    stubborn: bool = False
    """A fault: whatever is tried, it is not blank afterwards."""

    def wipe(self) -> None:
        """Nothing is on it any more."""
        self.machine, self.host, self.whole = None, None, False


@dataclass(eq=False)
class SimBare:
    """What a bare server is beside a server."""

    serial: str
    mac: str
    disks: dict[str, SimDisk]
    pool: SimPool
    """Where the disk of its machine is counted."""
    pools: dict[str, SimPool] = field(default_factory=dict[str, SimPool])
    """The disk pools that it has as a hypervisor."""
    accepted: bool = False
    """A person released it."""
    system: Literal["", "ram", "node", "hypervisor"] = ""
    media: int = 0
    """The boot of the RAM system whose medium is inserted; 0: none."""
    once: bool = False
    """The next boot is from the medium."""
    visits: bool = False
    """What is on the medium enrols beside what lies on the disk, and not in its place."""
    disk_known: bool = True
    """The controller takes what lies on the disk for this server: nothing has enrolled in its place since."""
    view: MetalView | None = None
    """What its RAM system tells."""
    silent_boots: int = 0
    """A fault: so many boots from a medium lead to nothing."""
    speed: float = 1.0
    """A fault below 1: what its processors, memory and disks do of what its like do."""
    bios: str = "2.10.2"
    """The version of its firmware."""

    @property
    def known(self) -> bool:
        """What runs is taken for this server."""
        return self.system == "ram" or self.disk_known

    def lose(self, uid: MachineUid) -> None:
        """What was written for that machine is no more."""
        for disk in self.disks.values():
            if disk.machine is not None and disk.machine.uid == uid:
                disk.wipe()

    def mend(self) -> None:
        """End its faults; a disk that fails is changed for one that does not."""
        self.silent_boots, self.speed = 0, 1.0
        for disk in self.disks.values():
            disk.stubborn, disk.health = False, "ok"


CPUS: dict[str, tuple[CpuModel, ...]] = {
    "old": ("x86-64-v2-AES",),
    "new": ("x86-64-v2-AES", "x86-64-v3"),
}
"""Generations of servers' CPUs, and the levels that they have."""


@dataclass(eq=False)
class SimServer:
    """A hypervisor with its libvirt, its agent's memory and its links to the networks."""

    name: ServerName
    cpus: int = 64
    cpu: str = "new"
    cpu_models: tuple[CpuModel, ...] = CPUS["new"]
    memory_mib: int = 262_144
    bridges: tuple[str, ...] = ("br0",)
    pools: dict[str, SimPool] = field(default_factory=dict[str, SimPool])
    place: dict[str, str] = field(default_factory=dict[str, str])
    """Rack, room, power feeds and whatever else it fails with, as `Server.spec.failureDomain` has it."""
    number: int = 0
    host_uuid: str = ""
    enrolled: str = ""
    """The host uuid that controllers know it by."""
    bmc: SimBmc = field(default_factory=SimBmc)
    boots: int = 1
    powered: bool = True
    booted: bool = True
    """Its operating system is up."""
    broken: bool = False
    """It does not come up again when it is switched on."""
    frozen: Literal["", "host", "all"] = ""
    """It hangs: `host`: its guests run on; `all`: nothing in it moves."""
    agent: bool = True
    """Its agent's process is there."""
    restarted: bool = False
    """Its agent was killed and started again since the server last stood still."""
    connected: bool = True
    """Its agent's connection to the controllers stands."""
    half: Literal["", "up", "down"] = ""
    """The one way that still passes between the agent and the controllers while both believe in the connection."""
    management: bool = True
    storage: bool = True
    guests: bool = True
    """Its links to the three networks."""
    linked: float = -float("inf")
    """When that was last made."""
    links: int = 0
    """Counts connections made and lost."""
    error: str = ""
    """Why libvirt does not answer."""
    ails: Literal["", "warning", "critical"] = ""
    """What it says itself of its hardware."""
    stuck: bool = False
    """Its guests can't be killed: they hang in their storage's I/O."""
    guarded: bool = False
    """Its watchdog is armed: a guest with its disk on a shared pool was started."""
    maintenance: bool = False
    """A person wants it empty."""
    clock: float = 0.0
    """Seconds by which its clock is ahead."""
    epoch: int = 0
    records: dict[MachineUid, SimRecord] = field(default_factory=dict[MachineUid, SimRecord])
    domains: dict[MachineUid, SimDomain] = field(default_factory=dict[MachineUid, SimDomain])
    volumes: dict[MachineUid, SimVolume] = field(default_factory=dict[MachineUid, SimVolume])
    """Disks that are this server's to use."""
    retained: dict[MachineUid, SimVolume] = field(default_factory=dict[MachineUid, SimVolume])
    leases: dict[str, SimLease] = field(default_factory=dict[str, SimLease])
    """By shared pool."""
    witnessing: float = float("inf")
    """Since when it could see others' leases; infinity while it can't."""
    watched: set[tuple[str, ServerName]] = field(default_factory=set[tuple[str, ServerName]])
    """The leases that it tells of: pool and holder."""
    fed: bool = True
    """Its watchdog is fed, or not armed."""
    watches: int = 0
    """Counts changes of that."""
    moves: int = 0
    """Live migrations from or to it that are under way."""
    bare: SimBare | None = None
    """It boots what its BMC is told."""
    commands: int = 0
    """Grows when the agent dies: commands of its earlier life go no further."""

    @property
    def is_node(self) -> bool:
        """It is one machine itself, and ends with it."""
        return self.bare is not None and self.bare.system == "node"

    def record(self, uid: MachineUid) -> SimRecord:
        """What its agent has written down of a machine; made where it is not yet."""
        return self.records.setdefault(uid, SimRecord())

    @property
    def alive(self) -> bool:
        """True while its operating system does its work."""
        return self.powered and self.booted and not self.frozen


# --- clusters -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class SimNode:
    """A Node object in a cluster's API."""

    name: str
    uid: MachineUid
    version: str
    address: str
    ready: bool = False
    unschedulable: bool = False
    out_of_service: bool = False
    pods: int = 2
    """Pods on it beside the declared workload's."""
    worker: bool = True
    silences: int = 0
    """Counts the times that its kubelet fell silent or was heard again."""
    lapsing: bool = False
    """Silent, and not yet taken for not ready."""
    returning: bool = False
    """Heard again, and not yet Ready."""


@dataclass(eq=False)
class SimCluster:
    """What kubeadm and etcd made of a cluster's machines, and what its controllers know."""

    key: ClusterKey
    secrets: bool = False
    initialised: bool = False
    members: dict[str, MachineUid] = field(default_factory=dict[str, MachineUid])
    """Voting members of etcd by name."""
    learners: dict[str, MachineUid] = field(default_factory=dict[str, MachineUid])
    nodes: dict[str, SimNode] = field(default_factory=dict[str, SimNode])
    tokens: dict[str, float] = field(default_factory=dict[str, float])
    """Bootstrap tokens and when each ends by itself."""
    addons: set[str] = field(default_factory=set[str])
    going: bool = False
    """A user deleted it: from now on it may lose its quorum."""
    allow_many: bool = False
    """A person has confirmed that more than 30 % of it may be acted on (rule 6)."""
    answered: bool = False
    """Its API answered when that was last looked at."""
    stopped: bool = False
    """A fault: its API server is down though etcd is well."""
    pods: dict[str, SimPod] = field(default_factory=dict[str, "SimPod"])
    """The declared workload."""
    taken_out: set[MachineUid] = field(default_factory=set[MachineUid])
    """Machines whose Nodes were deleted on purpose: one that is switched on by hand registers anew, for nobody."""
    waiting: dict[MachineUid, SimDomain] = field(default_factory=dict[MachineUid, SimDomain])
    """Machines whose kubelets wait for the API to make their Nodes."""
