"""The simulated world as plain state: servers, disks, domains, clusters. Knows what is physically so, decides nothing.

It behaves as libvirt, QEMU, kubeadm and etcd do, as far as steps and observations reach. `bedplate.sim.truth` looks at
it independently of the engine. No time passes in here: `now` is set by whoever drives it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ClusterKey, Digest, Key, MachineUid, ServerName, StoreId, key
from bedplate.model.inventory import (
    PoolView,
)

Process = Generator[float, None, None]
"""Something that goes on in the world by itself: yields the seconds until it goes on."""


@dataclass
class SimPool:
    """A disk pool's folder. A shared one is the same object on all its servers."""

    name: str
    capacity_mib: int = 1_000_000
    shared: bool = False
    images: set[Digest] = field(default_factory=set[Digest])
    used_mib: int = 0
    full: bool = False
    """A fault: nothing more can be written."""

    def view(self) -> PoolView:
        return PoolView(
            name=self.name,
            capacity_mib=self.capacity_mib,
            free_mib=0 if self.full else max(0, self.capacity_mib - self.used_mib),
            shared=self.shared,
            images=tuple(sorted(self.images)),
        )


@dataclass
class SimRecord:
    """What an agent has written down of a machine: it outlives the domain, the agent and the server's boots."""

    generation: int = 0
    boot: int = 0
    started: float = 0.0


@dataclass
class SimVolume:
    """A machine's disk. What kubeadm and etcd wrote on it comes and goes with it."""

    uid: MachineUid
    server: ServerName
    pool: SimPool
    size_mib: int
    store: StoreId
    joined: ClusterKey | None = None
    member: bool = False
    """Holds an etcd member's data."""


@dataclass
class SimDomain:
    """A domain known to libvirt."""

    entry: MachineEntry
    store: StoreId
    defined_boot: int
    state: Literal["running", "shutoff", "crashed", "paused"] = "shutoff"
    run: int = 0
    """Counts starts, so that a process of an earlier run knows that it is over."""
    guest_agent: bool = False
    bootstrap: Literal["", "running", "done", "failed"] = ""
    detail: str = ""


@dataclass
class SimServer:
    """A hypervisor with its libvirt and its agent's memory."""

    name: ServerName
    cpus: int = 64
    memory_mib: int = 262_144
    bridges: tuple[str, ...] = ("br0",)
    pools: dict[str, SimPool] = field(default_factory=dict[str, SimPool])
    host_uuid: str = ""
    enrolled: str = ""
    """The host uuid that controllers know it by."""
    boots: int = 1
    powered: bool = True
    connected: bool = True
    error: str = ""
    epoch: int = 0
    records: dict[MachineUid, SimRecord] = field(default_factory=dict[MachineUid, SimRecord])
    domains: dict[MachineUid, SimDomain] = field(default_factory=dict[MachineUid, SimDomain])
    volumes: dict[MachineUid, SimVolume] = field(default_factory=dict[MachineUid, SimVolume])
    retained: dict[MachineUid, SimVolume] = field(default_factory=dict[MachineUid, SimVolume])
    commands: int = 0
    """Grows when the agent dies: commands of its earlier life go no further."""


@dataclass
class SimNode:
    """A Node object in a cluster's API."""

    name: str
    uid: MachineUid
    version: str
    address: str
    ready: bool = False
    unschedulable: bool = False
    pods: int = 2


@dataclass
class SimCluster:
    """What kubeadm and etcd made of a cluster's machines."""

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


class World:
    """All that is real in a simulation.

    Args:
        spawn: Takes what goes on by itself (a boot, kubeadm) and drives it in virtual time.
    """

    def __init__(self, store: StoreId = StoreId("sim")) -> None:
        self.store = store
        self.now = 0.0
        self.servers: dict[ServerName, SimServer] = {}
        self.clusters: dict[ClusterKey, SimCluster] = {}
        self.violations: list[str] = []
        self.dead_images: set[Digest] = set()
        """Disks of images that never boot."""
        self.lost_images: set[Digest] = set()
        """Image files that the controller does not have."""
        self.failing_joins: dict[str, int] = {}
        """How many more times kubeadm fails in a machine of that name (`*`: in any)."""
        self.spawn: Callable[[Process], None] = _nobody
        self._dirty: dict[Key, None] = {}
        self._where: dict[MachineUid, set[ServerName]] = defaultdict(set)

    # --- making it ------------------------------------------------------------------------------------------------

    def add_server(
        self,
        name: str,
        *,
        cpus: int = 64,
        memory_mib: int = 262_144,
        bridges: Iterable[str] = ("br0",),
        pools: Mapping[str, SimPool] | None = None,
    ) -> SimServer:
        """Rack a hypervisor whose agent is connected."""
        server = SimServer(
            name=ServerName(name),
            cpus=cpus,
            memory_mib=memory_mib,
            bridges=tuple(bridges),
            pools=dict(pools) if pools is not None else {"local": SimPool("local")},
            host_uuid=f"host-{name}",
            enrolled=f"host-{name}",
        )
        self.servers[server.name] = server
        self.touch_server(server)
        return server

    def cluster(self, cluster: ClusterKey) -> SimCluster:
        """The cluster, made where it is not yet."""
        return self.clusters.setdefault(cluster, SimCluster(key=cluster))

    # --- looking --------------------------------------------------------------------------------------------------

    def domain(self, m: MachineEntry) -> SimDomain | None:
        """The machine's domain on the server that it is planned for."""
        server = self.servers.get(m.server)
        return None if server is None else server.domains.get(m.uid)

    def volume(self, m: MachineEntry) -> SimVolume | None:
        """The machine's disk on the server that it is planned for."""
        server = self.servers.get(m.server)
        return None if server is None else server.volumes.get(m.uid)

    def running(self) -> Iterable[tuple[SimServer, SimDomain]]:
        """All domains that run now."""
        for server in self.servers.values():
            for domain in server.domains.values():
                if domain.state == "running":
                    yield server, domain

    def up(self, uid: MachineUid) -> bool:
        """True where the machine runs somewhere and its user space is up with a joined disk."""
        for name in self._where.get(uid, ()):
            server = self.servers[name]
            domain, volume = server.domains.get(uid), server.volumes.get(uid)
            if domain is None or volume is None or domain.state != "running" or not domain.guest_agent:
                continue
            if volume.joined:
                return True
        return False

    def quorum(self, cluster: SimCluster) -> bool:
        """True where more than half of etcd's voting members are up."""
        alive = sum(1 for uid in cluster.members.values() if self.up(uid))
        return bool(cluster.members) and alive * 2 > len(cluster.members)

    def api(self, cluster: SimCluster) -> bool:
        """True where the cluster's API answers."""
        return cluster.initialised and self.quorum(cluster)

    # --- what happens to it ---------------------------------------------------------------------------------------

    def set_state(self, server: SimServer, domain: SimDomain, state: Literal["running", "shutoff", "crashed"]) -> None:
        """Start or end a domain."""
        domain.state = state
        domain.guest_agent = False
        domain.bootstrap = ""
        domain.detail = ""
        if state == "running":
            domain.run += 1
        self.touch(server, domain.entry.uid)

    def add_domain(self, server: SimServer, domain: SimDomain) -> None:
        """Make a domain known to libvirt."""
        server.domains[domain.entry.uid] = domain
        self._where[domain.entry.uid].add(server.name)
        self.touch(server, domain.entry.uid)

    def drop_domain(self, server: SimServer, uid: MachineUid) -> None:
        """End a domain and take it out of libvirt."""
        server.domains.pop(uid, None)
        self._where[uid].discard(server.name)
        self.touch(server, uid)

    def add_volume(self, server: SimServer, volume: SimVolume) -> None:
        """Write a disk."""
        server.volumes[volume.uid] = volume
        volume.pool.used_mib += volume.size_mib
        self.touch(server, volume.uid)

    def drop_volume(self, server: SimServer, uid: MachineUid) -> SimVolume | None:
        """Delete a machine's disk."""
        volume = server.volumes.pop(uid, None)
        if volume is not None:
            volume.pool.used_mib -= volume.size_mib
        self.touch(server, uid)
        return volume

    def violation(self, rule: str, sentence: str) -> None:
        """Write down that a rule was broken."""
        self.violations.append(f"at {self.now:.2f} s: {rule}: {sentence}")

    def kubeadm_fails(self, m: MachineEntry) -> str:
        """Give kubeadm's last words where it is to fail in this machine now."""
        for name in (m.name, "*"):
            if self.failing_joins.get(name, 0) > 0:
                self.failing_joins[name] -= 1
                return f"[kubelet-check] the kubelet of {m.name} is not healthy after 4m0s"
        return ""

    # --- what changed ---------------------------------------------------------------------------------------------

    def touch(self, server: SimServer, uid: MachineUid) -> None:
        """A machine's domain or disk changed; with it, perhaps, its cluster's health."""
        self._dirty[key("domain", server.name, uid)] = None
        domain = server.domains.get(uid)
        volume = server.volumes.get(uid)
        cluster = domain.entry.cluster if domain is not None else volume.joined if volume is not None else None
        if cluster:
            self._dirty[key("cluster-view", cluster)] = None
        else:
            for known in self.clusters.values():
                if uid in known.members.values():
                    self._dirty[key("cluster-view", known.key)] = None

    def touch_server(self, server: SimServer) -> None:
        """A server's own facts changed."""
        self._dirty[key("server", server.name)] = None

    def touch_cluster(self, cluster: SimCluster) -> None:
        """A cluster's members, nodes' count or addons changed."""
        self._dirty[key("cluster-view", cluster.key)] = None

    def touch_node(self, cluster: SimCluster, name: str) -> None:
        """A Node object changed."""
        self._dirty[key("node", cluster.key, name)] = None

    def touch_retained(self, server: SimServer, uid: MachineUid) -> None:
        """A retained disk came or went."""
        self._dirty[key("retained-disk-view", server.name, uid)] = None

    def take_dirty(self) -> list[Key]:
        """Keys of the views that may have changed since the last call."""
        dirty = list(self._dirty)
        self._dirty.clear()
        return dirty


def _nobody(process: Process) -> None:
    raise RuntimeError("nobody drives this world: set `spawn`")
