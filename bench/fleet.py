"""A large fleet as users would declare it and agents would show it: racks of equal servers, many middling clusters.

A tenth of everything is a tenth of the machines, so that growth can be compared.
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import BASE_ADDON, AnyEntry, Blueprint, ClusterEntry, MachineEntry
from bedplate.model.ids import Key, Revision, ServerName
from bedplate.model.inventory import (
    AnyView,
    ClusterView,
    DomainView,
    Inventory,
    NodeView,
    Observation,
    PoolView,
    ServerView,
)
from bedplate.model.kinds.base import MachineShape, Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.infrastructure import (
    AddressRange,
    DiskPool,
    DiskPoolSpec,
    Image,
    Network,
    NetworkSpec,
    Release,
    ReleaseSpec,
    Server,
    ServerSpec,
)
from bedplate.model.meta import ObjectMeta
from bedplate.model.spec import Spec, object_key
from bedplate.planner.plan import PlanInput, plan
from bedplate.sim import fleet

NOW = 1_000_000.0
SEED = 7
CLUSTERS_A_NETWORK = 125
"""A network segment has 255 VRRP ids."""
SERVERS_A_RACK = 25
PLANES = 3
WORKERS = 17
"""With three control-plane machines, a cluster has 20."""


class Size(msgspec.Struct, frozen=True):
    """How much there is of a fleet."""

    servers: int
    clusters: int

    @property
    def machines(self) -> int:
        return self.clusters * (PLANES + WORKERS)


LARGE = Size(1000, 500)
MIDDLE = Size(100, 50)
SMALL = Size(10, 5)


def declared(size: Size) -> list[Object]:
    """All objects of the fleet, as a user would apply them."""
    found: list[Object] = []
    for n in range(size.servers):
        spec = ServerSpec(role="hypervisor", failure_domain={"rack": f"r{n // SERVERS_A_RACK:02}"})
        found.append(Server(metadata=_meta(f"hv{n:04}"), spec=spec))
    found.append(DiskPool(metadata=_meta("local"), spec=DiskPoolSpec(type="local", path="/var/lib/bedplate/local")))
    found.append(fleet.image(f"node-{fleet.VERSION}", fleet.VERSION))
    found.append(Release(metadata=_meta(fleet.VERSION), spec=ReleaseSpec(version=fleet.VERSION)))
    for n in range(-(-size.clusters // CLUSTERS_A_NETWORK)):
        found.append(_network(n))
    for n in range(size.clusters):
        found += (_cluster(n), _pool(n))
    return found


def _meta(name: str, namespace: str = "") -> ObjectMeta:
    return ObjectMeta(name=name, namespace=namespace, uid=f"uid-{namespace}-{name}", generation=1)


def _network(n: int) -> Network:
    spec = NetworkSpec(
        cidr=f"10.{n}.0.0/16",
        gateway=f"10.{n}.0.1",
        ranges=(AddressRange(first=f"10.{n}.1.0", last=f"10.{n}.32.255"),),
        vip_ranges=(AddressRange(first=f"10.{n}.0.10", last=f"10.{n}.0.210"),),
    )
    return Network(metadata=_meta(f"lan{n}"), spec=spec)


def _cluster(n: int) -> Cluster:
    made = fleet.cluster(f"c{n:03}", replicas=PLANES, shape=MachineShape(cpu=2, memory="4Gi"), spread="rack")
    spec = msgspec.structs.replace(made.spec, network=f"lan{n // CLUSTERS_A_NETWORK}")
    return Cluster(metadata=_meta(f"c{n:03}", "default"), spec=spec)


def _pool(n: int) -> NodePool:
    shape = MachineShape(cpu=4, memory="16Gi")
    made = fleet.pool(f"c{n:03}-web", of=f"c{n:03}", replicas=WORKERS, shape=shape, spread="rack")
    return NodePool(metadata=_meta(f"c{n:03}-web", "default"), spec=made.spec)


def spec_of(objects: list[Object]) -> Spec:
    """The same as planning reads it."""

    def of(kind: type[Object]) -> dict[Key, Object]:
        return {object_key(o): o for o in objects if isinstance(o, kind)}

    return Spec(
        servers=of(Server),  # type: ignore[arg-type]
        networks=of(Network),  # type: ignore[arg-type]
        disk_pools=of(DiskPool),  # type: ignore[arg-type]
        images=of(Image),  # type: ignore[arg-type]
        releases=of(Release),  # type: ignore[arg-type]
        clusters=of(Cluster),  # type: ignore[arg-type]
        node_pools=of(NodePool),  # type: ignore[arg-type]
    )


# --- what agents and clusters show ---


def server_view(name: str, *, free_mib: int = 3_000_000) -> ServerView:
    """A server with 64 cores, 256 GiB and the node image in its cache."""
    digest = fleet.image(f"node-{fleet.VERSION}", fleet.VERSION).spec.disk.digest
    pool = PoolView(name="local", capacity_mib=4_000_000, free_mib=free_mib, images=(digest,))  # type: ignore[arg-type]
    return ServerView(
        server=ServerName(name),
        connected=True,
        host_uuid=f"host-{name}",
        cpus=64,
        memory_mib=262_144,
        accelerator="kvm",
        bridges=("br0",),
        pools=(pool,),
    )


def empty_inventory(size: Size) -> Inventory:
    """All servers connected, nothing on them."""
    views = [server_view(f"hv{n:04}") for n in range(size.servers)]
    return Inventory(
        observations={v.key: Observation(value=v, time=NOW, source=f"agent/{v.server}") for v in views},
        synced=frozenset(f"agent/{v.server}" for v in views),
    )


def joined(size: Size) -> Blueprint:
    """The fleet planned from nothing, as it is once every machine has joined its cluster."""
    inp = PlanInput(
        spec=spec_of(declared(size)), inventory=empty_inventory(size), parent=Blueprint(), now=NOW, seed=SEED
    )
    entries: dict[Key, AnyEntry] = {}
    for k, entry in plan(inp).delta.changes.items():
        match entry:
            case MachineEntry():
                entries[k] = msgspec.structs.replace(entry, joined=True)
            case ClusterEntry():
                entries[k] = msgspec.structs.replace(entry, initialised=True)
            case _:
                raise AssertionError(f"not of this fleet: {k}")
    return Blueprint(number=Revision(1), entries=entries)


def node_view(m: MachineEntry, *, ready: bool = True) -> NodeView:
    """The machine's node."""
    return NodeView(
        cluster=m.cluster, name=m.name, ready=ready, version=f"v{m.version}", address=m.nic.address, machine=m.uid
    )


def domain_view(m: MachineEntry) -> DomainView:
    """The machine's domain, up and bootstrapped."""
    return DomainView(
        server=m.server,
        uid=m.uid,
        generation=m.generation,
        state="running",
        boot=m.boot,
        volume=True,
        disk_pool=m.disk_pool,
        guest_agent=True,
        started=NOW,
        bootstrap="done",
    )


def running(size: Size, blueprint: Blueprint) -> dict[str, list[AnyView]]:
    """By source: all that would be seen where everything that is planned runs well."""
    found: dict[str, list[AnyView]] = {f"agent/hv{n:04}": [server_view(f"hv{n:04}")] for n in range(size.servers)}
    members: dict[str, list[str]] = {}
    for m in blueprint.machines():
        found.setdefault(f"agent/{m.server}", []).append(domain_view(m))
        found.setdefault(f"cluster/{m.cluster}", []).append(node_view(m))
        if m.role == "control-plane":
            members.setdefault(m.cluster, []).append(m.name)
    for c in blueprint.clusters():
        view = ClusterView(
            cluster=c.cluster,
            secrets=True,
            initialised=True,
            api=True,
            etcd_members=tuple(sorted(members[c.cluster])),
            addons=(BASE_ADDON.mark,),
        )
        found[f"cluster/{c.cluster}"].append(view)
    return found
