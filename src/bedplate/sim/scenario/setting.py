"""`world.yaml`: the servers there are, what users declared on them, and by which policy they are kept running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from bedplate.model.kinds.base import MachineShape, Object, Rollout
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.fleet import FLEET_POLICY_NAME
from bedplate.model.kinds.infrastructure import Bmc, BmcCredentials, DiskPool, DiskPoolSpec, Server, ServerSpec
from bedplate.model.kinds.virtual_machine import RunStrategy
from bedplate.model.meta import ObjectMeta
from bedplate.model.policy import Policy
from bedplate.model.quantity import QuantityError, parse_mib
from bedplate.model.registry import KINDS
from bedplate.model.validation import shape, single
from bedplate.sim import fleet
from bedplate.sim.scenario.plain import Plain, ScenarioError, Time
from bedplate.sim.things import CPUS, SimPool
from bedplate.sim.workload import App
from bedplate.sim.world import World

FILE = "world.yaml"
NAMESPACE = "default"
LOCAL_MIB = 1_000_000
"""What a local disk pool holds; a shared one as much for each server."""
_KINDS = {info.kind: info.type for info in KINDS}


Generation = Literal["old", "new"]


class Servers(Plain, frozen=True):
    """Equal servers."""

    name: str = "hv"
    count: int = 0
    """So many, numbered: hv1, hv2 ...; 0: one, of just that name."""
    cpus: int = 16
    cpu: Generation | tuple[Generation, ...] = "new"
    """The generation of their CPUs: one for all, or several that are dealt out one after the other."""
    memory: str = "64Gi"
    pools: tuple[str, ...] = ()
    """Disk pools that they reach; empty: all."""
    place: dict[str, str | tuple[str, ...]] = {}
    """Failure domains: one value for all, or several that are dealt out one after the other."""
    bmc: bool = True
    bare: bool = False
    """They are bare servers, switched off, and run no hypervisor."""
    accepted: bool = True
    """Of bare ones: a person has accepted them."""
    disks: int = 2
    """Of bare ones."""
    labels: dict[str, str] = {}
    cpu_overcommit: float = 4.0


class Pool(Plain, frozen=True):
    """A node pool; its object is named after its cluster too: pool `web` of `shop` is `shop-web`."""

    replicas: int = 2
    cpu: int = 2
    memory: str = "4Gi"
    disk_pool: str = ""
    spread: str = ""
    match: dict[str, str] = {}
    drain_timeout: Time = Time(600)
    max_surge: int = 1
    max_unavailable: int = 0
    substrate: Literal["vm", "metal", "auto"] = "vm"


class Application(Plain, frozen=True):
    """A Deployment or StatefulSet that a tenant runs once the cluster is there."""

    name: str
    replicas: int = 1
    stateful: bool = False
    volume: bool = False
    min_available: int = 0
    pool: str = ""
    """The node pool that its pods are bound to; empty: any."""
    cpu: float = 0.0
    """Cores that a pod requests."""
    memory: str = ""


class Tenant(Plain, frozen=True):
    """A cluster with its pools and what runs on it."""

    control_plane: int = 1
    cpu: int = 2
    memory: str = "2Gi"
    disk_pool: str = ""
    spread: str = ""
    pools: dict[str, Pool] = {}
    apps: tuple[Application, ...] = ()


class Vm(Plain, frozen=True):
    """A user's own virtual machine."""

    memory: str = "1Gi"
    disk_pool: str = ""
    run_strategy: RunStrategy = "Always"


def _one_shared_pool() -> dict[str, Literal["shared", "local"]]:
    return {"shared": "shared"}


class Setting(Plain, frozen=True):
    """The whole file."""

    seed: int = 1
    servers: int | tuple[Servers, ...] = 3
    """So many equal ones, or groups."""
    place: dict[str, str | tuple[str, ...]] = {}
    """Where servers stand that are given as a number."""
    pools: dict[str, Literal["shared", "local"]] = msgspec.field(default_factory=_one_shared_pool)
    clusters: dict[str, Tenant] = {}
    machines: dict[str, Vm] = {}
    objects: tuple[dict[str, Any], ...] = ()
    """Further objects as users write them."""
    policy: dict[str, int | float] = {}
    """Bounds and times of `bedplate.model.policy` that are others than the defaults."""
    fleet: dict[str, Any] = {}
    """Fields of the FleetPolicy's spec."""
    controllers: int = 1
    image_locks: bool = True
    """QEMU's image locks work across servers; without them a second start of a disk would write to it."""

    @property
    def groups(self) -> tuple[Servers, ...]:
        """The servers in groups."""
        if isinstance(self.servers, tuple):
            return self.servers
        return (Servers(count=self.servers, place=self.place),)


class Racked(msgspec.Struct, frozen=True, kw_only=True):
    """One server as the world has it."""

    name: str
    group: Servers
    place: dict[str, str]
    pools: tuple[str, ...]
    cpu: Generation


def servers_of(setting: Setting) -> list[Racked]:
    """Every server by its name.

    Raises:
        ScenarioError: names are there twice, or pools are not there.
    """
    found: list[Racked] = []
    for i, group in enumerate(setting.groups):
        unknown = [p for p in group.pools if p not in setting.pools]
        if unknown:
            raise ScenarioError(f"{FILE}: servers[{i}].pools: there is no disk pool {unknown[0]}")
        named = sum(1 for r in found if r.group.name == group.name)
        for n in range(max(1, group.count)):
            name = f"{group.name}{named + n + 1}" if group.count else group.name
            place = {k: v if isinstance(v, str) else v[n % len(v)] for k, v in group.place.items() if v}
            cpu = group.cpu if isinstance(group.cpu, str) else group.cpu[n % len(group.cpu)]
            pools = group.pools or tuple(setting.pools)
            found.append(Racked(name=name, group=group, place=place, pools=pools, cpu=cpu))
    doubles = {r.name for r in found if sum(1 for o in found if o.name == r.name) > 1}
    if doubles:
        raise ScenarioError(f"{FILE}: servers: {', '.join(sorted(doubles))} is there twice")
    return found


# --- the world and its objects ------------------------------------------------------------------------------------


def world_of(setting: Setting) -> World:
    """Rack the servers."""
    world = World()
    size = LOCAL_MIB * len(servers_of(setting))
    shared = {
        name: SimPool(name, shared=True, locks=setting.image_locks, capacity_mib=size)
        for name, type_ in setting.pools.items()
        if type_ == "shared"
    }
    for racked in servers_of(setting):
        pools = {name: shared.get(name) or SimPool(name, capacity_mib=LOCAL_MIB) for name in racked.pools}
        memory = _mib(racked.group.memory, f"the memory of {racked.name}")
        if racked.group.bare:
            world.add_bare(
                racked.name,
                cpus=racked.group.cpus,
                memory_mib=memory,
                disks=racked.group.disks,
                pools=pools,
                place=racked.place,
            )
            continue
        world.add_server(
            racked.name,
            cpus=racked.group.cpus,
            cpu=racked.cpu,
            cpu_models=CPUS[racked.cpu],
            memory_mib=memory,
            pools=pools,
            place=racked.place,
        )
    return world


def _mib(text: str, what: str) -> int:
    try:
        return parse_mib(text)
    except QuantityError as error:
        raise ScenarioError(f"{FILE}: {what}: {error}") from None


def objects_of(setting: Setting) -> list[Object]:
    """All that people declare before the story begins, infrastructure first.

    Raises:
        ScenarioError: an object is not valid.
    """
    found = [*_infrastructure(setting), *declared_of(setting)]
    for obj in found:
        for fault in single.check(obj):
            raise ScenarioError(f"{FILE}: {type(obj).__name__} {obj.metadata.name}: {fault.sentence()}")
    return found


def declared_of(setting: Setting) -> list[Object]:
    """What users declare, without the servers and what else it stands on. Raises as `objects_of`."""
    found: list[Object] = []
    for name, tenant in setting.clusters.items():
        found += _tenant(name, tenant)
    for name, vm in setting.machines.items():
        made = fleet.machine(name, memory=vm.memory, strategy=vm.run_strategy)
        found.append(_replaced(made, spec=msgspec.structs.replace(made.spec, disk_pool=vm.disk_pool)))
    found += [read_object(raw, f"{FILE}: objects[{i}]") for i, raw in enumerate(setting.objects)]
    return found


def _replaced(obj: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(obj, **changes)


def _infrastructure(setting: Setting) -> Iterator[Object]:
    for racked in servers_of(setting):
        credentials = BmcCredentials(secret="bmc")
        bmc = Bmc(address=f"redfish+https://{racked.name}", credentials=credentials) if racked.group.bmc else None
        bare = racked.group.bare
        spec = ServerSpec(
            role="free" if bare else "hypervisor",
            bmc=bmc,
            failure_domain=racked.place,
            accepted=bare and racked.group.accepted,
            cpu_overcommit=racked.group.cpu_overcommit,
        )
        yield Server(metadata=ObjectMeta(name=racked.name, labels=racked.group.labels), spec=spec)
    yield fleet.network(addresses=2_000, vips=20)
    for name, type_ in setting.pools.items():
        yield DiskPool(metadata=ObjectMeta(name=name), spec=DiskPoolSpec(type=type_, path=f"/var/lib/bedplate/{name}"))
    yield fleet.image(f"node-{fleet.VERSION}", fleet.VERSION)
    yield fleet.hypervisor_image()
    yield _release()
    if setting.fleet:
        raw = {"metadata": {"name": FLEET_POLICY_NAME}, "spec": setting.fleet}
        yield read_object({"kind": "FleetPolicy", **raw}, f"{FILE}: fleet")


def _release() -> Object:
    return next(o for o in fleet.infrastructure(World()) if type(o).__name__ == "Release")


def _tenant(name: str, tenant: Tenant) -> Iterator[Object]:
    shape_ = MachineShape(cpu=tenant.cpu, memory=tenant.memory, disk_pool=tenant.disk_pool)
    cluster: Cluster = fleet.cluster(name, replicas=tenant.control_plane, shape=shape_, spread=tenant.spread)
    yield cluster
    for pool_name, pool in tenant.pools.items():
        yield pool_of(name, pool_name, pool)


def pool_of(cluster: str, name: str, pool: Pool) -> NodePool:
    """The NodePool that is declared."""
    shape_ = MachineShape(
        substrate=pool.substrate, cpu=pool.cpu, memory=pool.memory, disk_pool=pool.disk_pool, match=pool.match
    )
    made = fleet.pool(f"{cluster}-{name}", of=cluster, replicas=pool.replicas, shape=shape_, spread=pool.spread)
    rollout = Rollout(
        max_surge=pool.max_surge,
        max_unavailable=pool.max_unavailable,
        drain_timeout_seconds=int(pool.drain_timeout),
    )
    return _replaced(made, spec=msgspec.structs.replace(made.spec, rollout=rollout))


def read_object(raw: dict[str, Any], where: str) -> Object:
    """An object as users write it.

    Raises:
        ScenarioError: its kind is not known or it is not shaped as that is.
    """
    type_ = _KINDS.get(str(raw.get("kind", "")))
    if type_ is None:
        raise ScenarioError(f"{where}: there is no kind {raw.get('kind')!r}")
    shaped = shape.shape(type_, raw)
    for fault in (*shaped.faults, *shaped.unknown):
        raise ScenarioError(f"{where}: {fault.sentence()}")
    return shape.decode(type_, shaped.value)


def apps_of(name: str, tenant: Tenant) -> list[App]:
    """What the tenant of that name runs."""
    return [
        App(
            name=a.name,
            replicas=a.replicas,
            stateful=a.stateful,
            volume=a.volume,
            min_available=a.min_available,
            pool=f"{name}-{a.pool}" if a.pool else "",
            cpu=a.cpu,
            memory_mib=_mib(a.memory, f"the memory of {a.name}") if a.memory else 0,
        )
        for a in tenant.apps
    ]


def policy_of(setting: Setting) -> Policy:
    """The engine's bounds and times.

    Raises:
        ScenarioError: there is no such bound.
    """
    known = [f.name for f in msgspec.structs.fields(Policy)]
    for name in setting.policy:
        if name not in known:
            raise ScenarioError(f"{FILE}: policy: there is no bound {name}; known are {', '.join(known)}")
    try:
        return msgspec.convert(setting.policy, Policy)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{FILE}: policy: {error}") from None
