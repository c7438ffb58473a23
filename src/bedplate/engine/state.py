"""What the engine holds in memory, with the indexes that keep one change from costing a look at everything."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

import msgspec

from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import (
    AnyEntry,
    Blueprint,
    CachedImageEntry,
    ClusterEntry,
    MachineEntry,
    MetalEntry,
    RetainedDiskEntry,
)
from bedplate.model.ids import ClusterKey, Key, MachineUid, ServerName, cluster_key, key
from bedplate.model.inventory import (
    AnyView,
    BmcView,
    ClusterView,
    DomainView,
    Inventory,
    LeaseView,
    LoadView,
    MetalView,
    NodeView,
    Observation,
    PoolView,
    RetainedDiskView,
    ServerView,
)
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, Machine, NodePool
from bedplate.model.kinds.control import RetainedDisk
from bedplate.model.kinds.firmware import CompatibilityMatrix
from bedplate.model.kinds.fleet import FleetPolicy
from bedplate.model.kinds.infrastructure import DiskPool, Image, Network, Release, Server
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.policy import PLANNED
from bedplate.model.spec import Spec
from bedplate.model.whereabouts import servers_of


class SpecState:
    """The declared objects, changed in place; `spec` is the snapshot that planning reads."""

    def __init__(self, spec: Spec) -> None:
        self._by_type: dict[type[Object], dict[Key, Object]] = {
            Server: dict(spec.servers),
            Network: dict(spec.networks),
            DiskPool: dict(spec.disk_pools),
            Image: dict(spec.images),
            Release: dict(spec.releases),
            Cluster: dict(spec.clusters),
            NodePool: dict(spec.node_pools),
            VirtualMachine: dict(spec.virtual_machines),
            FleetPolicy: dict(spec.fleet_policies),
            CompatibilityMatrix: dict(spec.compatibility_matrices),
        }
        self._kinds = {t.__name__.lower(): objects for t, objects in self._by_type.items()}
        self.doomed = set(spec.doomed_machines)
        self.released = set(spec.released_disks)
        self.pools_of: dict[ClusterKey, dict[Key, NodePool]] = defaultdict(dict)
        for k, pool in spec.node_pools.items():
            self._link_pool(k, None, pool)
        self.spec = self._snapshot()

    def _link_pool(self, k: Key, old: Object | None, new: Object | None) -> None:
        if isinstance(old, NodePool):
            self.pools_of[cluster_key(old.metadata.namespace, old.spec.cluster)].pop(k, None)
        if isinstance(new, NodePool):
            self.pools_of[cluster_key(new.metadata.namespace, new.spec.cluster)][k] = new

    def _snapshot(self) -> Spec:
        t = self._by_type
        return Spec(
            servers=t[Server],  # type: ignore[arg-type]
            networks=t[Network],  # type: ignore[arg-type]
            disk_pools=t[DiskPool],  # type: ignore[arg-type]
            images=t[Image],  # type: ignore[arg-type]
            releases=t[Release],  # type: ignore[arg-type]
            clusters=t[Cluster],  # type: ignore[arg-type]
            node_pools=t[NodePool],  # type: ignore[arg-type]
            virtual_machines=t[VirtualMachine],  # type: ignore[arg-type]
            fleet_policies=t[FleetPolicy],  # type: ignore[arg-type]
            compatibility_matrices=t[CompatibilityMatrix],  # type: ignore[arg-type]
            doomed_machines=frozenset(self.doomed),
            released_disks=frozenset(self.released),
        )

    def apply(self, k: Key, obj: Object | None) -> Key | None:
        """Take one change in; give the key that planning must look at, or None where it does not matter."""
        if isinstance(obj, Machine | RetainedDisk):
            return self._mark(obj)
        objects = self._kinds.get(k.split("/", 1)[0])
        if objects is None:
            return None
        old = objects.get(k)
        self._link_pool(k, old, obj)
        if obj is None:
            objects.pop(k, None)
            return k
        objects[k] = obj
        same = old is not None and (
            old.metadata.generation == obj.metadata.generation
            and old.metadata.uid == obj.metadata.uid
            and old.metadata.deletion_timestamp == obj.metadata.deletion_timestamp
            and old.metadata.labels == obj.metadata.labels
            and all(old.metadata.annotations.get(a) == obj.metadata.annotations.get(a) for a in PLANNED)
        )
        return None if same else k

    def _mark(self, obj: Machine | RetainedDisk) -> Key | None:
        if obj.metadata.deletion_timestamp is None:
            return None
        marks, uid, kind = (
            (self.doomed, obj.metadata.uid, "machine")
            if isinstance(obj, Machine)
            else (self.released, obj.spec.machine_uid, "retained-disk")
        )
        if uid in marks:
            return None
        marks.add(uid)
        self.spec = self._snapshot()
        return key(kind, uid)


class InventoryState:
    """The observations, changed in place, with the time at which each stops being good."""

    def __init__(self) -> None:
        self._observations: dict[Key, Observation[AnyView]] = {}
        self._by_uid: dict[MachineUid, frozenset[Key]] = {}
        self._leases: dict[ServerName, frozenset[Key]] = {}
        self._by_source: dict[str, set[Key]] = defaultdict(set)
        self._expiry: list[tuple[float, Key]] = []
        self.pools: dict[str, dict[Key, PoolView]] = defaultdict(dict)
        """Disk pools by name, as each server (by its key) last showed them."""
        self.synced: set[str] = set()
        self.inventory = self._snapshot()

    def _snapshot(self) -> Inventory:
        return Inventory(
            observations=self._observations,
            domains_by_uid=self._by_uid,
            leases_by_server=self._leases,
            synced=frozenset(self.synced),
        )

    def apply(self, source: str, observations: Iterable[Observation[AnyView]], full: bool) -> list[AnyView]:
        """Take a collector's changes in; give the views that differ from what was known (of gone ones, the last)."""
        changed: list[AnyView] = []
        given: set[Key] = set()
        for o in observations:
            given.add(o.value.key)
            if self._set(source, o):
                changed.append(o.value)
        if full:
            for gone in self._by_source[source] - given:
                old = self._observations.get(gone)
                if old is not None:
                    changed.append(old.value)
                self._drop(source, gone)
        synced = self.synced.copy()
        if full:
            synced.add(source)
        for view in changed:
            if isinstance(view, ServerView) and not view.connected:
                synced.discard(f"agent/{view.server}")
        if synced != self.synced:
            self.synced = synced
            self.inventory = self._snapshot()
        return changed

    def _set(self, source: str, o: Observation[AnyView]) -> bool:
        view, k = o.value, o.value.key
        old = self._observations.get(k)
        if old is not None and o.time < old.time:
            return False
        if isinstance(view, ClusterView) and old is not None and isinstance(old.value, ClusterView):
            view = _merge_cluster(old.value, view, source)
            o = msgspec.structs.replace(o, value=view)
        self._observations[k] = o
        if isinstance(view, ServerView):
            self._count_pools(old, view)
        if source != "step":
            self._by_source[source].add(k)
        if isinstance(view, DomainView):
            self._by_uid[view.uid] = self._by_uid.get(view.uid, frozenset()) | {k}
            if source == "step":
                self._by_source[f"agent/{view.server}"].add(k)
        elif isinstance(view, LeaseView):
            self._leases[view.server] = self._leases.get(view.server, frozenset()) | {k}
        if o.good_until != float("inf"):
            heapq.heappush(self._expiry, (o.good_until, k))
        return old is None or old.value != view

    def _drop(self, source: str, k: Key) -> None:
        old = self._observations.pop(k, None)
        self._by_source[source].discard(k)
        self._count_pools(old, None)
        if old is not None and isinstance(old.value, DomainView):
            uid = old.value.uid
            rest = self._by_uid.get(uid, frozenset[Key]()) - {k}
            if rest:
                self._by_uid[uid] = rest
            else:
                self._by_uid.pop(uid, None)
        elif old is not None and isinstance(old.value, LeaseView):
            holder = old.value.server
            self._leases[holder] = self._leases.get(holder, frozenset[Key]()) - {k}

    def _count_pools(self, old: Observation[AnyView] | None, new: ServerView | None) -> None:
        if old is not None and isinstance(old.value, ServerView):
            for pool in old.value.pools:
                self.pools[pool.name].pop(old.value.key, None)
        if new is not None:
            for pool in new.pools:
                self.pools[pool.name][new.key] = pool

    def forget_cluster(self, cluster: ClusterKey) -> None:
        """Drop all that was seen of a cluster that is gone: another one may get its name."""
        nodes = f"node/{cluster}/"
        for k in [k for k in self._observations if k.startswith(nodes)]:
            self._drop("step", k)
        self._drop("step", key("cluster-view", cluster))
        self._by_source.pop(f"cluster/{cluster}", None)
        if f"cluster/{cluster}" in self.synced:
            self.synced.discard(f"cluster/{cluster}")
            self.inventory = self._snapshot()

    def view(self, k: Key) -> AnyView | None:
        """The last view of that key."""
        o = self._observations.get(k)
        return None if o is None else o.value

    def expired(self, now: float) -> list[AnyView]:
        """Views whose time has just run out."""
        out: list[AnyView] = []
        while self._expiry and self._expiry[0][0] <= now:
            _, k = heapq.heappop(self._expiry)
            o = self._observations.get(k)
            if o is not None and o.good_until <= now:
                out.append(o.value)
        return out

    def next_expiry(self) -> float:
        """When the next view runs out; infinity where none does."""
        return self._expiry[0][0] if self._expiry else float("inf")


def _merge_cluster(old: ClusterView, new: ClusterView, source: str) -> ClusterView:
    """Keep what only another collector knows: the follower can't see secrets, a step can't see the API."""
    if source == "step":
        return msgspec.structs.replace(
            old,
            secrets=new.secrets,
            initialised=old.initialised or new.initialised,
            addons=new.addons or old.addons,
            etcd_members=new.etcd_members or old.etcd_members,
        )
    return msgspec.structs.replace(
        new,
        secrets=old.secrets or new.secrets,
        initialised=old.initialised or new.initialised,
        addons=new.addons or old.addons,
        etcd_members=new.etcd_members if new.api else old.etcd_members,
    )


class BlueprintIndex:
    """Which entries belong to a server, a cluster, a node's name; kept in step with the blueprint."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.by_server: dict[ServerName, set[Key]] = defaultdict(set)
        self.by_cluster: dict[ClusterKey, set[Key]] = defaultdict(set)
        self.by_node: dict[tuple[ClusterKey, str], Key] = {}
        self.by_owner: dict[Key, set[Key]] = defaultdict(set)
        self.on_network: Counter[str] = Counter()
        """How many machines have an address of each network."""
        self.retained: Counter[str] = Counter()
        """How many disks are retained in each disk pool."""
        self.cached: dict[ServerName, set[Key]] = defaultdict(set)
        """Entries of image files by their server."""
        self.control_planes: dict[Key, tuple[MachineEntry, ...]] = {}
        self._control_plane_of: dict[Key, ClusterKey] = {}
        for entry in blueprint.entries.values():
            self._add(entry)

    def change(self, old: AnyEntry | None, new: AnyEntry | None) -> None:
        """Follow one entry from old to new; None: not there."""
        if isinstance(old, MachineEntry):
            self._remove(old)
        elif isinstance(old, RetainedDiskEntry):
            self.retained[old.disk_pool] -= 1
        elif isinstance(old, CachedImageEntry):
            self.cached[old.server].discard(old.key)
        elif isinstance(old, MetalEntry) and old.left is not None:
            self.by_node.pop((old.left.cluster, old.left.name), None)
        if new is not None:
            self._add(new)

    def _remove(self, m: MachineEntry) -> None:
        for server in servers_of(m):
            self.by_server[server].discard(m.key)
        self.by_owner[m.owner].discard(m.key)
        self.on_network[m.nic.network] -= 1
        if not m.is_node:
            return
        self.by_cluster[m.cluster].discard(m.key)
        self.by_node.pop((m.cluster, m.name), None)
        if m.role == "control-plane":
            k = key("cluster", m.cluster)
            self._control_plane_of.pop(m.key, None)
            self.control_planes[k] = tuple(o for o in self.control_planes.get(k, ()) if o.uid != m.uid)

    def _add(self, entry: AnyEntry) -> None:
        if isinstance(entry, ClusterEntry):
            self.by_cluster[entry.cluster].add(entry.key)
        elif isinstance(entry, RetainedDiskEntry):
            self.retained[entry.disk_pool] += 1
        elif isinstance(entry, CachedImageEntry):
            self.cached[entry.server].add(entry.key)
        elif isinstance(entry, MetalEntry) and entry.left is not None:
            self.by_node[entry.left.cluster, entry.left.name] = entry.key
        if not isinstance(entry, MachineEntry):
            return
        for server in servers_of(entry):
            self.by_server[server].add(entry.key)
        self.by_owner[entry.owner].add(entry.key)
        self.on_network[entry.nic.network] += 1
        if not entry.is_node:
            return
        self.by_cluster[entry.cluster].add(entry.key)
        self.by_node[entry.cluster, entry.name] = entry.key
        if entry.role == "control-plane":
            k = key("cluster", entry.cluster)
            self._control_plane_of[entry.key] = entry.cluster
            machines = (*self.control_planes.get(k, ()), entry)
            self.control_planes[k] = tuple(sorted(machines, key=lambda m: (m.created, m.uid)))

    def touched_by(self, view: AnyView) -> Iterable[Key]:
        """Entries that may need another look because of this view."""
        match view:
            case ServerView() | BmcView():  # of a bare server, power tells whether its machine has ended
                mine = (*self.by_server.get(view.server, ()), *self.cached.get(view.server, ()))
                return (key("server", view.server), key("metal", view.server), *mine)
            case DomainView():
                return self._with_cluster(key("machine", view.uid))
            case NodeView():
                found = self.by_node.get((view.cluster, view.name))
                return () if found is None else self._with_cluster(found)
            case ClusterView():
                return tuple(self.by_cluster.get(view.cluster, ()))
            case RetainedDiskView():
                return (key("retained-disk", view.uid), key("machine", view.uid))
            case LeaseView():
                return (key("server", view.server),)
            case MetalView():
                return (key("metal", view.server),)
            case LoadView():
                return ()

    def _with_cluster(self, k: Key) -> Iterable[Key]:
        """The machine itself; and where it is of a control plane, its cluster's other entries that may wait on it."""
        cluster = self._control_plane_of.get(k)
        return (k,) if cluster is None else (k, *self.by_cluster.get(cluster, ()))


class AttemptState:
    """The history of steps by target."""

    def __init__(self, attempts: dict[Key, dict[str, Attempt]]) -> None:
        self.by_target = attempts

    def get(self, target: Key, step: str) -> Attempt:
        return self.by_target.get(target, {}).get(step, Attempt())

    def set(self, target: Key, step: str, value: Attempt) -> None:
        self.by_target.setdefault(target, {})[step] = value

    def drop(self, target: Key) -> None:
        self.by_target.pop(target, None)
