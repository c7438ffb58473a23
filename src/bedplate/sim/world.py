"""The simulated world as plain state with its books: who runs where, whose disk is open, what changed.

Knows what is physically so, decides nothing. It behaves as libvirt, QEMU, kubeadm and etcd do, as far as steps and
observations reach. `bedplate.sim.truth` looks at it independently of the engine. No time passes in here: `now` is set
by whoever drives it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from bedplate.model.blueprint import MachineEntry
from bedplate.model.cpus import CpuModel
from bedplate.model.ids import ClusterKey, Digest, Key, MachineUid, ServerName, StoreId, key
from bedplate.model.inventory import LoadView
from bedplate.sim.durations import Durations
from bedplate.sim.things import (
    CPUS,
    Process,
    RunState,
    SimBare,
    SimBmc,
    SimCluster,
    SimDisk,
    SimDomain,
    SimLease,
    SimNode,
    SimPool,
    SimRecord,
    SimServer,
    SimVolume,
)

if TYPE_CHECKING:
    from bedplate.sim.migration import Move

__all__ = [
    "Process",
    "SimBmc",
    "SimCluster",
    "SimDomain",
    "SimLease",
    "SimNode",
    "SimPool",
    "SimRecord",
    "SimServer",
    "SimVolume",
    "World",
]

LIVE = frozenset({"running", "paused"})
"""States of a domain that has a QEMU process: it has memory and may write to its disk."""

LINK = 1_150.0
"""MiB a second of 10 Gbit/s."""

Identity = tuple[str, str]
"""What must be of one running machine alone: kind and value."""


class World:
    """All that is real in a simulation.

    `spawn` takes what goes on by itself (a boot, kubeadm, a lease that runs out) and drives it in virtual time;
    `linked` is told when an agent's connection came or went; `say` takes a line for the history.
    """

    def __init__(self, store: StoreId = StoreId("sim")) -> None:
        self.store = store
        self.now = 0.0
        self.durations = Durations(0)
        self.servers: dict[ServerName, SimServer] = {}
        self.clusters: dict[ClusterKey, SimCluster] = {}
        self.violations: list[str] = []
        self.dark: set[tuple[str, str]] = set()
        """Places without power, as (label, value): `("rack", "r1")`."""
        self.dead_images: set[Digest] = set()
        """Disks of images that never boot."""
        self.lost_images: set[Digest] = set()
        """Image files that the controller does not have."""
        self.failing_joins: dict[str, int] = {}
        """How many more times kubeadm fails in a machine of that name (`*`: in any)."""
        self.move_faults: dict[str, list[str]] = defaultdict(list)
        """What goes wrong with the next live moves of a machine by its name (`*`: of any); see `migration.FAULTS`."""
        self.moves: dict[MachineUid, Move] = {}
        """Live migrations under way."""
        self.link = LINK
        """MiB a second that a server's link carries, all its live moves together."""
        self.dirty_rates: dict[MachineUid, float] = {}
        """MiB a second that a machine rewrites, where it is not the usual."""
        self.loads: dict[ServerName, LoadView] = {}
        """As agents measure it; kept by `load.Loads`."""
        self.crowds: set[ServerName] = set()
        """Servers on which other guests run since load was last measured."""
        self.runs = 0
        """Starts of domains so far: each is known by its number, on whichever server."""
        self.live: dict[MachineUid, list[SimDomain]] = {}
        """Domains that have a QEMU process, by machine: more than one is a disaster, or a move in progress."""
        self.memory: dict[ServerName, int] = defaultdict(int)
        """MiB that running and arriving guests take."""
        self.identities: dict[Identity, list[SimDomain]] = {}
        """Who runs under each uid, MAC, address and name."""
        self.disks: dict[MachineUid, SimVolume] = {}
        """Each machine's disk, wherever it lies; a retained one is none any more."""
        self.nodes: dict[MachineUid, tuple[SimCluster, SimNode]] = {}
        """Each machine's Node and the cluster that it is in."""
        self.sharers: dict[str, list[ServerName]] = defaultdict(list)
        """Servers of each shared pool."""
        self.rings: dict[str, list[ServerName]] = {}
        """The same in the order in which they are asked to be witnesses."""
        self.allow_many = False
        """A person has confirmed that more than 30 % of the servers may be acted on (rule 6)."""
        self.acts: dict[str, list[tuple[float, str]]] = defaultdict(list)
        """What controllers did lately that the rules bound in number; kept by `truth`."""
        self.spawn: Callable[[Process], None] = _nobody
        self.linked: Callable[[SimServer], None] = _unheard
        self.say: Callable[[str, str], None] = _silent
        self.images_sent = 0.0
        """When the controller will have sent what was asked of images until now."""
        self._dirty: dict[Key, None] = {}

    # --- making it ------------------------------------------------------------------------------------------------

    def add_server(
        self,
        name: str,
        *,
        cpus: int = 64,
        cpu: str = "new",
        cpu_models: tuple[CpuModel, ...] = CPUS["new"],
        memory_mib: int = 262_144,
        bridges: Iterable[str] = ("br0",),
        pools: Mapping[str, SimPool] | None = None,
        place: Mapping[str, str] | None = None,
    ) -> SimServer:
        """Rack a hypervisor whose agent is connected and holds a lease on each of its shared pools."""
        server = SimServer(
            name=ServerName(name),
            cpus=cpus,
            cpu=cpu,
            cpu_models=cpu_models,
            memory_mib=memory_mib,
            bridges=tuple(bridges),
            pools=dict(pools) if pools is not None else {"local": SimPool("local")},
            place=dict(place or {}),
            number=len(self.servers),
            host_uuid=f"host-{name}",
            enrolled=f"host-{name}",
        )
        self.servers[server.name] = server
        self.serve(server)
        self.touch_server(server)
        return server

    def serve(self, server: SimServer) -> None:
        """It holds a lease on each of its shared pools."""
        for pool in server.pools.values():
            if pool.shared:
                self.sharers[pool.name].append(server.name)
                self.rings.pop(pool.name, None)
                server.leases[pool.name] = SimLease(renewing=True, since=self.now)
                server.witnessing = self.now

    def cease(self, server: SimServer) -> None:
        """It is a hypervisor no more: it has no bridge, no pool, no lease."""
        for pool in server.pools.values():
            if pool.shared:
                self.sharers[pool.name].remove(server.name)
                self.rings.pop(pool.name, None)
        server.bridges, server.witnessing = (), float("inf")
        server.pools.clear()
        server.leases.clear()
        server.watched.clear()

    def add_bare(
        self,
        name: str,
        *,
        cpus: int = 64,
        memory_mib: int = 262_144,
        disks: int = 2,
        pools: Mapping[str, SimPool] | None = None,
        place: Mapping[str, str] | None = None,
    ) -> SimServer:
        """Rack a bare server that is switched off. `pools`: what it has where it is made a hypervisor."""
        server = self.add_server(name, cpus=cpus, memory_mib=memory_mib, bridges=(), pools={}, place=place)
        serials = [f"{name}-disk{n}" for n in range(1, disks + 1)]
        number = server.number
        server.bare = SimBare(
            serial=f"serial-{name}",
            mac=f"aa:00:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
            disks={s: SimDisk(s) for s in serials},
            pool=SimPool("", capacity_mib=1_000_000_000),
            pools=dict(pools) if pools is not None else {"local": SimPool("local")},
        )
        server.powered = server.booted = server.agent = server.connected = False
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

    def in_run(self, domain: SimDomain, run: int) -> bool:
        """True while the domain is in that run, on whichever server."""
        server = self.servers.get(domain.server)
        known = server is not None and server.domains.get(domain.entry.uid) is domain
        return known and domain.state == "running" and domain.run == run

    def moves_on(self, domain: SimDomain) -> bool:
        """True where a running guest really executes: neither it nor its server hangs, and its disk answers."""
        server = self.servers[domain.server]
        if domain.state != "running" or domain.hung or server.frozen == "all" or not server.powered:
            return False
        volume = server.volumes.get(domain.entry.uid)
        return volume is not None and not volume.pool.gone and (server.storage or not volume.pool.shared)

    def up(self, uid: MachineUid) -> bool:
        """True where the machine runs somewhere, its user space is up with a joined disk, and others reach it."""
        for domain in self.live.get(uid, ()):
            server = self.servers[domain.server]
            volume = server.volumes.get(uid)
            if volume is not None and volume.joined and domain.guest_agent and server.guests and self.moves_on(domain):
                return True
        return False

    def quorum(self, cluster: SimCluster) -> bool:
        """True where more than half of etcd's voting members are up."""
        alive = sum(1 for uid in cluster.members.values() if self.up(uid))
        return bool(cluster.members) and alive * 2 > len(cluster.members)

    def api(self, cluster: SimCluster) -> bool:
        """True where the cluster's API answers."""
        return cluster.initialised and not cluster.stopped and self.quorum(cluster)

    # --- what happens to it ---------------------------------------------------------------------------------------

    def set_state(self, server: SimServer, domain: SimDomain, state: RunState) -> None:
        """Start or end a domain."""
        del server  # where it is known is the domain's own
        self._close(domain)
        domain.state = state
        domain.guest_agent = domain.kubelet = domain.kubelet_broken = domain.registered = domain.hung = False
        domain.bootstrap = ""
        domain.detail = ""
        if state == "running":
            self.runs += 1
            domain.run = self.runs
            domain.hardware = domain.entry
        self._open(domain)
        self.touch(self.servers[domain.server], domain.entry.uid)

    def pause(self, domain: SimDomain, *, resume: bool = False) -> None:
        """Stop a guest's processors, or let them go on; its QEMU stays."""
        domain.state = "running" if resume else "paused"
        self.touch(self.servers[domain.server], domain.entry.uid)

    def cut_power(self, server: SimServer, why: str) -> None:
        """A server's power ends, with all that runs on it; nobody says goodbye on the network."""
        if not server.powered:
            return
        self.say("world", f"{server.name} loses its power: {why}")
        server.powered = server.booted = server.agent = False
        server.frozen = ""
        if server.bare is not None:
            server.bare.system, server.bare.view = "", None
        server.restarted = server.stuck = server.guarded = False
        server.commands += 1
        for domain in server.domains.values():
            if domain.state in LIVE:
                self.set_state(server, domain, "shutoff")
        for lease in server.leases.values():
            lease.lost = lease.ended = False
        self.touch_server(server)
        self.touch_bmc(server)

    def add_domain(self, server: SimServer, domain: SimDomain) -> None:
        """Make a domain known to libvirt."""
        server.domains[domain.entry.uid] = domain
        domain.server = server.name
        self._open(domain)
        self.touch(server, domain.entry.uid)

    def drop_domain(self, server: SimServer, uid: MachineUid) -> None:
        """End a domain and take it out of libvirt."""
        domain = server.domains.pop(uid, None)
        if domain is not None:
            self._close(domain)
            domain.state = "shutoff"
            self._touch_machine(server, uid, domain.entry.cluster, domain.entry.role)
        self.touch(server, uid)

    def move_domain(self, domain: SimDomain, target: SimServer) -> None:
        """Let a running domain go on elsewhere: the source's libvirt knows it no more."""
        source = self.servers[domain.server]
        self._close(domain)
        source.domains.pop(domain.entry.uid, None)
        self.touch(source, domain.entry.uid)
        self.add_domain(target, domain)

    def take(self, server: SimServer, uid: MachineUid, mib: int) -> None:
        """Take memory for a guest that arrives, or give it back (negative)."""
        self.memory[server.name] += mib
        self._dirty[key("domain", server.name, uid)] = None

    def add_volume(self, server: SimServer, volume: SimVolume) -> None:
        """Write a disk."""
        server.volumes[volume.uid] = volume
        volume.server = server.name
        volume.pool.volumes[volume.uid] = volume
        volume.pool.used_mib += volume.size_mib
        self.stands(server, volume)
        self.disks[volume.uid] = volume
        self.touch(server, volume.uid)

    def stands(self, server: SimServer, volume: SimVolume, sign: int = 1) -> None:
        """Count a disk among those that stand on its images, or (-1) no more; whoever serves the pool tells it."""
        if volume.pool.stands(volume, sign):
            self.touch_pool(server, volume.pool)

    def touch_pool(self, server: SimServer, pool: SimPool) -> None:
        """What a pool holds of images changed."""
        for name in self.sharers[pool.name] if pool.shared else [server.name]:
            self.touch_server(self.servers[name])

    def drop_volume(self, server: SimServer, uid: MachineUid) -> SimVolume | None:
        """Delete a machine's disk."""
        volume = server.volumes.pop(uid, None)
        if volume is not None:
            volume.pool.used_mib -= volume.size_mib
            self.stands(server, volume, -1)
            if volume.pool.volumes.get(uid) is volume:
                del volume.pool.volumes[uid]
            if self.disks.get(uid) is volume:
                del self.disks[uid]
        self.touch(server, uid)
        return volume

    def send_image(self, mib: float, link: float) -> float:
        """Seconds until so much more of images was sent over a link of so many MiB a second, after all that others are
        to get before."""
        self.images_sent = max(self.now, self.images_sent) + mib / link
        return self.images_sent - self.now

    def take_over(self, server: SimServer, volume: SimVolume, generation: int) -> None:
        """A disk on a shared pool becomes another server's to use, for a machine of this generation."""
        volume.generation = max(volume.generation, generation)
        if volume.server == server.name:
            return
        old = self.servers[volume.server]
        if old.volumes.get(volume.uid) is volume:
            del old.volumes[volume.uid]
        server.volumes[volume.uid] = volume
        volume.server = server.name
        self.touch(old, volume.uid)
        self.touch(server, volume.uid)

    def violation(self, rule: str, sentence: str) -> None:
        """Write down that a rule was broken."""
        self.violations.append(f"at {self.now:.2f} s: {rule}: {sentence}")
        self.say("world", f"BROKEN: {rule}: {sentence}")

    def kubeadm_fails(self, m: MachineEntry) -> str:
        """Give kubeadm's last words where it is to fail in this machine now."""
        for name in (m.name, "*"):
            if self.failing_joins.get(name, 0) > 0:
                self.failing_joins[name] -= 1
                return f"[kubelet-check] the kubelet of {m.name} is not healthy after 4m0s"
        return ""

    # --- the books ------------------------------------------------------------------------------------------------

    def _open(self, domain: SimDomain) -> None:
        if domain.state not in LIVE:
            return
        m = domain.hardware = domain.hardware or domain.entry
        self.live.setdefault(m.uid, []).append(domain)
        self.crowds.add(domain.server)
        self.memory[domain.server] += m.memory_mib
        for identity in identities(m):
            self.identities.setdefault(identity, []).append(domain)

    def _close(self, domain: SimDomain) -> None:
        m = domain.hardware
        if m is None or domain not in self.live.get(m.uid, ()):
            return
        self.memory[domain.server] -= m.memory_mib
        self.crowds.add(domain.server)
        _strike(self.live, m.uid, domain)
        for identity in identities(m):
            _strike(self.identities, identity, domain)

    # --- what changed ---------------------------------------------------------------------------------------------

    def touch(self, server: SimServer, uid: MachineUid) -> None:
        """A machine's domain or disk changed; with it, perhaps, its cluster's health."""
        domain = server.domains.get(uid)
        volume = server.volumes.get(uid)
        if domain is not None:
            self._touch_machine(server, uid, domain.entry.cluster, domain.entry.role)
        elif volume is not None:
            self._touch_machine(server, uid, volume.joined or "", "control-plane" if volume.member else "worker")
        else:
            self._touch_machine(server, uid, "", "")

    def _touch_machine(self, server: SimServer, uid: MachineUid, cluster: str, role: str) -> None:
        self._dirty[key("domain", server.name, uid)] = None
        if cluster and role == "control-plane":
            self._dirty[key("cluster-view", cluster)] = None

    def touch_guests(self, server: SimServer) -> None:
        """Something changed that all guests of a server depend on."""
        for uid in server.domains:
            self.touch(server, uid)

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

    def touch_bmc(self, server: SimServer) -> None:
        """What a BMC tells by itself changed: its health."""
        self._dirty[key("bmc", server.name)] = None

    def touch_lease(self, holder: SimServer, pool: str, witness: ServerName) -> None:
        """What a witness sees of a lease changed."""
        self._dirty[key("lease", holder.name, pool, witness)] = None

    def touch_metal(self, server: SimServer) -> None:
        """What the RAM system of a bare server tells changed."""
        self._dirty[key("metal", server.name)] = None

    def touch_load(self, server: SimServer) -> None:
        """A server's load changed by enough to be told."""
        self._dirty[key("load", server.name)] = None

    def take_dirty(self) -> list[Key]:
        """Keys of the views that may have changed since the last call."""
        if not self._dirty:
            return []
        dirty = list(self._dirty)
        self._dirty.clear()
        return dirty


def identities(m: MachineEntry) -> tuple[Identity, ...]:
    """What must be this running machine's alone."""
    return (
        ("uid", m.uid),
        ("mac", m.nic.mac),
        ("address", f"{m.nic.network}/{m.nic.address}"),
        ("name", f"{m.cluster or m.namespace}/{m.name}"),
    )


_Of = TypeVar("_Of", MachineUid, Identity)


def _strike(books: dict[_Of, list[SimDomain]], of: _Of, domain: SimDomain) -> None:
    entries = books[of]
    entries.remove(domain)
    if not entries:
        del books[of]


def _nobody(process: Process) -> None:
    raise RuntimeError("nobody drives this world: set `spawn`")


def _unheard(server: SimServer) -> None:
    del server


def _silent(who: str, what: str) -> None:
    del who, what
