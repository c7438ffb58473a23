"""What planning derives from its input and keeps from one planning to the next, so that one change costs little.

An index is only an accelerator: it holds nothing that could not be derived anew from input and parent blueprint.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

from bedplate.model.blueprint import (
    AnyEntry,
    Blueprint,
    CachedImageEntry,
    ClusterEntry,
    ImageRef,
    MachineEntry,
    MetalEntry,
    RetainedDiskEntry,
    ServerEntry,
)
from bedplate.model.ids import ClusterKey, Digest, Key, MachineUid, Revision, ServerName, cluster_key, key
from bedplate.model.inventory import Inventory
from bedplate.model.kinds.base import MachineShape
from bedplate.model.kinds.infrastructure import Image
from bedplate.model.report import WaitingOn
from bedplate.model.spec import Spec
from bedplate.model.whereabouts import servers_of
from bedplate.planner.addresses import NetworkState, count_machine
from bedplate.planner.fleet import Fleet
from bedplate.planner.image_files import ImageFiles

Unit = Key
"""What is planned as one: `cluster/...` with its pools and machines, `virtualmachine/...`, `retained-disk/...`,
`server/...` (is it alive), `image-cache/...` of a server, and `FLEET`: what can only be decided over all servers."""

FLEET = Key("fleet/default")


Compared = tuple[list[MachineEntry], MachineShape, ImageRef | None, str]
"""A pool's machines and what they are to be like: shape, image, version."""


class Index:
    """Entries by what they belong to, what is taken of servers and networks, and who waits for what."""

    def __init__(self, spec: Spec, inventory: Inventory, parent: Blueprint, seed: int) -> None:
        self.number: Revision = parent.number
        self.expected: dict[Key, AnyEntry | None] = {}
        """What the last planning changed: the next parent must show it."""
        self.entries: dict[Key, AnyEntry] = {}
        self.by_cluster: dict[ClusterKey, dict[Key, MachineEntry]] = defaultdict(dict)
        self.by_owner: dict[Key, dict[Key, MachineEntry]] = defaultdict(dict)
        self.by_server: dict[ServerName, dict[Key, MachineEntry]] = defaultdict(dict)
        self.names: Counter[tuple[str, str]] = Counter()
        self.macs: Counter[str] = Counter()
        self.pools_of: dict[ClusterKey, set[Key]] = defaultdict(set)
        self._cluster_of_pool: dict[Key, ClusterKey] = {}
        self.networks = {n.metadata.name: NetworkState(n.metadata.name, n) for n in spec.networks.values()}
        self.declared_networks = tuple(
            sorted(n.metadata.name for n in spec.networks.values() if not n.metadata.deletion_timestamp)
        )
        self.fleet = Fleet(seed, spec.disk_pools)
        self._servers: dict[Key, ServerEntry] = {}
        self._metal: dict[Key, MetalEntry] = {}
        self._in_order: dict[ClusterKey, list[MachineEntry]] = {}
        self._running: dict[ClusterKey, dict[Key, list[MachineEntry]]] = {}
        self._carried: dict[Key, MachineEntry] = {}
        self.images = Images(spec)
        self.image_files = ImageFiles(self.images.files)
        self.compared: dict[Key, Compared] = {}
        """Pools all of whose machines were found to be as declared."""
        self.as_declared: dict[MachineUid, tuple[MachineEntry, MachineShape, ImageRef | None, str]] = {}
        """Machines that were found to be as declared, and what they were compared with."""
        self.well: set[MachineUid] = set()
        """Machines that were found to be well, and of which nothing was told since."""
        self.autos: set[ServerName] = set()
        """Servers of which planning decides what they are."""
        self.waiters: set[Unit] = set()
        """Units that wait for room or addresses: looked at again when any become free."""
        self.waiting: dict[Unit, dict[Key, WaitingOn]] = {}
        self._waits: dict[Key, dict[Unit, WaitingOn]] = {}
        """The same by what waits."""
        self._due: dict[Unit, float] = {}
        self._timers: list[tuple[float, Unit]] = []
        for server in spec.servers.values():
            self.refresh_server(spec, inventory, ServerName(server.metadata.name))
        for k in spec.node_pools:
            self.refresh_pool(spec, k)
        for entry in parent.entries.values():
            self.put(entry)

    # --- staying in step with the parent ---

    def follows(self, parent: Blueprint) -> bool:
        """True where the index holds exactly the parent's entries."""
        if not self.expected:
            return parent.number == self.number
        committed = parent.parent == self.number and all(
            parent.entries.get(k) == entry for k, entry in self.expected.items()
        )
        if not committed or len(parent.entries) != len(self.entries):
            return False
        self.number, self.expected = parent.number, {}
        return True

    def unsettle(self, k: Key) -> None:
        """Something is new of that view, object or entry: who it speaks of is to be looked at again."""
        kind, _, rest = k.partition("/")
        match kind:
            case "domain" | "machine":
                self.well.discard(MachineUid(rest.rpartition("/")[2]))
            case "node":
                cluster, _, name = rest.rpartition("/")
                self.well.difference_update(
                    m.uid for m in self.by_cluster.get(ClusterKey(cluster), {}).values() if m.name == name
                )
            case "server" | "bmc" | "metal":
                self.well.difference_update(m.uid for m in self.by_server.get(ServerName(rest), {}).values())
            case _:
                pass

    def put(self, entry: AnyEntry) -> None:
        """Set an entry."""
        self.unsettle(entry.key)
        old = self.entries.get(entry.key)
        self.image_files.follow(old, entry)
        if isinstance(old, MachineEntry) and isinstance(entry, MachineEntry) and _same_place(old, entry):
            self._link(entry)
        else:
            if old is not None:
                self._forget(old)
            self._learn(entry)
        self.entries[entry.key] = entry

    def drop(self, k: Key) -> None:
        """Take an entry out."""
        self.unsettle(k)
        gone = self.entries.pop(k)
        self.image_files.follow(gone, None)
        self._forget(gone)
        if isinstance(gone, MetalEntry):
            self.fleet.wish(gone.server, "free")

    def _learn(self, entry: AnyEntry) -> None:
        match entry:
            case MachineEntry():
                self._link(entry)
                self.names[entry.namespace, entry.name] += 1
                self.macs[entry.nic.mac] += 1
                self.fleet.allocate(entry)
                count_machine(self.network(entry.nic.network), entry, 1)
            case ClusterEntry():
                self.network(entry.network).take_cluster(entry)
            case ServerEntry():
                self._servers[entry.key] = entry
            case MetalEntry():
                self._metal[entry.key] = entry
                self.fleet.wish(entry.server, entry.role)
                count_machine(self.network(entry.nic.network), entry, 1)
            case RetainedDiskEntry():
                self.names[entry.namespace, entry.name] += 1
            case CachedImageEntry():
                pass  # see `image_files`

    def _forget(self, entry: AnyEntry) -> None:
        match entry:
            case MachineEntry():
                self._unlink(entry)
                self.as_declared.pop(entry.uid, None)
                self.names[entry.namespace, entry.name] -= 1
                self.macs[entry.nic.mac] -= 1
                self.fleet.allocate(entry, -1)
                count_machine(self.network(entry.nic.network), entry, -1)
            case ClusterEntry():
                self.network(entry.network).take_cluster(entry, -1)
            case ServerEntry():
                self._servers.pop(entry.key, None)
            case MetalEntry():
                self._metal.pop(entry.key, None)
                count_machine(self.network(entry.nic.network), entry, -1)
            case RetainedDiskEntry():
                self.names[entry.namespace, entry.name] -= 1
            case CachedImageEntry():
                pass

    def _link(self, m: MachineEntry) -> None:
        for server in servers_of(m):
            self.by_server[server][m.key] = m
        if m.carried:
            self._carried[m.key] = m
        if m.is_node:
            self.by_cluster[m.cluster][m.key] = m
            self._in_order.pop(m.cluster, None)
            self._running.pop(m.cluster, None)
        else:
            self.by_owner[m.owner][m.key] = m

    def _unlink(self, m: MachineEntry) -> None:
        for server in servers_of(m):
            self.by_server[server].pop(m.key, None)
        self._carried.pop(m.key, None)
        if m.is_node:
            self.by_cluster[m.cluster].pop(m.key, None)
            self._in_order.pop(m.cluster, None)
            self._running.pop(m.cluster, None)
        else:
            self.by_owner[m.owner].pop(m.key, None)

    def network(self, name: str) -> NetworkState:
        """The state of that network; one without ranges where it is not declared."""
        found = self.networks.get(name)
        if found is None:
            found = self.networks[name] = NetworkState(name, None)
        return found

    # --- what is declared ---

    def refresh_server(self, spec: Spec, inventory: Inventory, name: ServerName) -> bool:
        """Take a server's news in; True where more than free space changed, or where its view may have run out."""
        seen = inventory.server(name)
        declared = spec.servers.get(key("server", name))
        if declared is not None and declared.spec.role == "auto":
            self.autos.add(name)
        else:
            self.autos.discard(name)
        changed = self.fleet.refresh(name, declared, seen, inventory.bmc(name))
        return changed or (seen is not None and seen.good_until != float("inf"))

    def refresh_pool(self, spec: Spec, k: Key) -> set[Unit]:
        """Take a node pool's news in; give the clusters that have or had it."""
        pool = spec.node_pools.get(k)
        old = self._cluster_of_pool.pop(k, None)
        touched: set[Unit] = set()
        if old is not None:
            self.pools_of[old].discard(k)
            touched.add(key("cluster", old))
        if pool is not None:
            new = cluster_key(pool.metadata.namespace, pool.spec.cluster)
            self._cluster_of_pool[k] = new
            self.pools_of[new].add(k)
            touched.add(key("cluster", new))
        return touched

    def unit_of(self, m: MachineEntry) -> Unit:
        """The unit that plans this machine."""
        return key("cluster", m.cluster) if m.is_node else m.owner

    def unit_of_uid(self, uid: str) -> Unit | None:
        """The unit that plans the machine of that uid; None where there is no such entry."""
        entry = self.entries.get(key("machine", MachineUid(uid)))
        return self.unit_of(entry) if isinstance(entry, MachineEntry) else None

    def entries_of_servers(self) -> Iterable[ServerEntry]:
        """Entries of servers that are not well."""
        return self._servers.values()

    def metal(self, server: ServerName) -> MetalEntry | None:
        """The entry of that bare server; None where nobody accepted it."""
        return self._metal.get(key("metal", server))

    def lost(self, server: ServerName) -> ServerEntry | None:
        """The entry of a server that is not heard of; None where it is well."""
        return self._servers.get(key("server", server)) if self._servers else None

    def machines_of(self, cluster: ClusterKey) -> list[MachineEntry]:
        """A cluster's machines in the order of their creation; not to be changed."""
        found = self._in_order.get(cluster)
        if found is None:
            members = self.by_cluster.get(cluster, {}).values()
            found = self._in_order[cluster] = sorted(members, key=lambda m: (m.created, m.uid))
        return found

    def running_in(self, cluster: ClusterKey) -> dict[Key, list[MachineEntry]]:
        """A cluster's machines that are to stay by their owner, in the order of their creation; not to be changed."""
        found = self._running.get(cluster)
        if found is None:
            found = self._running[cluster] = {}
            for m in self.machines_of(cluster):
                if m.desired == "run":
                    found.setdefault(m.owner, []).append(m)
        return found

    def all_metal(self) -> Iterable[MetalEntry]:
        """Bare servers that a person accepted."""
        return self._metal.values()

    def carried(self) -> Iterable[MachineEntry]:
        """Machines whose disk was made on another server than where they are."""
        return self._carried.values()

    @property
    def fleet_work(self) -> bool:
        """True where anything is to be decided over all servers: one is lost, is to be emptied, or may change its
        role."""
        return bool(self._servers) or bool(self.fleet.emptied) or bool(self.autos)

    def retained_on(self, server: ServerName) -> list[RetainedDiskEntry]:
        """Disks that are kept on the server itself."""
        found = [e for e in self.entries.values() if isinstance(e, RetainedDiskEntry) and e.server == server]
        return [e for e in found if not self.fleet.is_shared(e.disk_pool)]

    def units_on(self, server: ServerName) -> Iterable[Unit]:
        """Units that have machines or retained disks on the server."""
        return {self.unit_of(m) for m in self.by_server.get(server, {}).values()}

    def all_units(self, spec: Spec) -> set[Unit]:
        """Every unit there is."""
        units: set[Unit] = set(spec.clusters) | set(spec.virtual_machines)
        units.update(key("cluster", c) for c, pools in self.pools_of.items() if pools)
        units.update(key("server", name) for name, machines in self.by_server.items() if machines)
        units.update(key("metal", s.metadata.name) for s in spec.servers.values() if s.spec.accepted)
        units.add(FLEET)
        units.update(self.image_files.units(self.fleet))
        for entry in self.entries.values():
            if not isinstance(entry, CachedImageEntry):
                units.add(self.unit_of(entry) if isinstance(entry, MachineEntry) else entry.key)
        return units

    # --- time ---

    def set_due(self, unit: Unit, at: float) -> None:
        """Have the unit looked at at that time (infinity: never by time alone)."""
        if at == float("inf"):
            self._due.pop(unit, None)
        elif self._due.get(unit) != at:
            self._due[unit] = at
            heapq.heappush(self._timers, (at, unit))

    def forget_waits(self, unit: Unit) -> Iterable[Key]:
        """Take back what the unit said of waits; give of what."""
        before = self.waiting.pop(unit, {})
        for k in before:
            by_unit = self._waits[k]
            del by_unit[unit]
            if not by_unit:
                del self._waits[k]
        return before

    def keep_waits(self, unit: Unit, waits: dict[Key, WaitingOn]) -> None:
        """Keep what the unit says of waits now."""
        if waits:
            self.waiting[unit] = waits
        for k, waiting in waits.items():
            self._waits.setdefault(k, {})[unit] = waiting

    def waits_on(self, k: Key) -> WaitingOn | None:
        """What the thing of that key waits on; None: nothing."""
        by_unit = self._waits.get(k)
        return by_unit[max(by_unit)] if by_unit else None

    def take_due(self, now: float) -> set[Unit]:
        """Units whose time has come."""
        out: set[Unit] = set()
        while self._timers and self._timers[0][0] <= now:
            at, unit = heapq.heappop(self._timers)
            if self._due.get(unit) == at:
                del self._due[unit]
                out.add(unit)
        return out

    def next_due(self) -> float:
        """When the next unit is due; infinity where none is."""
        while self._timers and self._due.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else float("inf")


def _same_place(a: MachineEntry, b: MachineEntry) -> bool:
    """True where nothing changed that is counted anywhere."""
    return (
        a.server == b.server
        and a.source == b.source
        and a.cpu == b.cpu
        and a.memory_mib == b.memory_mib
        and a.disk_mib == b.disk_mib
        and a.disk_pool == b.disk_pool
        and a.nic == b.nic
        and a.name == b.name
        and a.owner == b.owner
    )


class Images:
    """The declared images, ready for use in entries."""

    def __init__(self, spec: Spec) -> None:
        usable = [i for i in spec.images.values() if i.spec.disk.digest and not i.metadata.deletion_timestamp]
        self.refs = {i.metadata.name: image_ref(i) for i in usable}
        self.versions = {i.metadata.name: i.spec.kubernetes_version for i in usable}
        self.newest: dict[str, ImageRef] = {}
        """The newest node image of each Kubernetes version."""
        self.hosts: set[str] = set()
        """Names of those that make a bare server a hypervisor."""
        self.newest_host = ""
        """The newest of them; empty: there is none."""
        for image in sorted(usable, key=lambda i: (i.metadata.creation_timestamp or "", i.metadata.name)):
            if image.spec.kubernetes_version:
                self.newest[image.spec.kubernetes_version] = self.refs[image.metadata.name]
            if image.spec.system == "hypervisor" and image.spec.metal.digest:
                self.newest_host = image.metadata.name
                self.hosts.add(image.metadata.name)
        files = (image_ref(i).pooled for i in spec.images.values())
        self.files: frozenset[Digest] = frozenset().union(*files)
        """Files of all images that are declared, also of those that are being deleted."""
        self.releases = {r.spec.version for r in spec.releases.values() if not r.metadata.deletion_timestamp}


def image_ref(image: Image) -> ImageRef:
    """All that a hypervisor needs of the image."""
    s = image.spec
    return ImageRef(
        name=image.metadata.name,
        disk=Digest(s.disk.digest),
        disk_size=s.disk.size,
        format=s.format,
        virtual_size=s.virtual_size,
        kernel=Digest(s.kernel.digest),
        initrd=Digest(s.initrd.digest),
        metal=Digest(s.metal.digest),
        command_line=s.command_line,
        bootstrap=s.bootstrap,
    )
