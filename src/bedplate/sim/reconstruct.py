"""A simulated world made from what is planned and was observed: where a preview starts from."""

from __future__ import annotations

from collections import Counter

from bedplate.model.blueprint import (
    Blueprint,
    CachedImageEntry,
    ClusterEntry,
    MachineEntry,
    MetalEntry,
    RetainedDiskEntry,
    ServerEntry,
)
from bedplate.model.ids import ServerName, StoreId
from bedplate.model.inventory import ClusterView, DomainView, Inventory, NodeView, PoolView, ServerView
from bedplate.model.spec import Spec
from bedplate.sim.things import SimDomain, SimNode, SimPool, SimRecord, SimServer, SimVolume
from bedplate.sim.world import World


def world_from(spec: Spec, inventory: Inventory, blueprint: Blueprint, store: StoreId) -> World:
    """Build the world as it was last seen. Where something was planned and never seen, it is not there."""
    world = World(store)
    shared: dict[str, SimPool] = {}
    for observation in inventory.observations.values():
        if isinstance(observation.value, ServerView):
            _server(world, observation.value, shared)
    for server in spec.servers.values():
        name = ServerName(server.metadata.name)
        if name not in world.servers:
            _away(world.add_server(name, pools={}))
    for entry in blueprint.entries.values():
        match entry:
            case ClusterEntry():
                _cluster(world, inventory, entry)
            case RetainedDiskEntry():
                _retained(world, entry)
            case MachineEntry() | ServerEntry() | MetalEntry() | CachedImageEntry():
                pass
    for m in blueprint.machines():
        for seen in inventory.domains(m.uid):
            _machine(world, m, seen.value)
    _nodes(world, inventory, blueprint)
    for entry in blueprint.entries.values():
        if isinstance(entry, ServerEntry) and entry.standing == "dead" and entry.server in world.servers:
            world.cut_power(world.servers[entry.server], entry.reason)
    world.take_dirty()
    return world


def _server(world: World, view: ServerView, shared: dict[str, SimPool]) -> None:
    pools = {p.name: shared.setdefault(p.name, _pool(p)) if p.shared else _pool(p) for p in view.pools}
    server = world.add_server(
        view.server,
        cpus=view.cpus,
        cpu=view.cpu,
        cpu_models=view.cpu_models,
        memory_mib=view.memory_mib,
        bridges=view.bridges,
        pools=pools,
    )
    server.enrolled = server.host_uuid = view.host_uuid
    if view.connected:
        server.error = view.error
    else:
        _away(server)


def _away(server: SimServer) -> None:
    """Its agent is not heard of, and stays so."""
    server.connected = server.management = False


def _pool(view: PoolView) -> SimPool:
    return SimPool(
        name=view.name,
        capacity_mib=view.capacity_mib,
        shared=view.shared,
        images=set(view.images),
        used_by=Counter(set(view.images) - set(view.unused)),
        used_mib=view.capacity_mib - view.free_mib,
    )


def _machine(world: World, m: MachineEntry, view: DomainView) -> None:
    server = world.servers.get(view.server)
    if server is None:
        return
    server.records[m.uid] = SimRecord(generation=view.generation, boot=view.boot, started=view.started)
    if view.volume:
        world.add_volume(server, _volume(world, server, m, view.disk_pool or m.disk_pool))
        if view.bootstrap == "done" or m.joined:
            server.volumes[m.uid].joined = m.cluster
            server.volumes[m.uid].member = m.role == "control-plane"
    if view.state == "absent":
        return
    domain = SimDomain(entry=m, store=world.store, defined_boot=view.boot, run=1)
    if view.state in {"running", "crashed", "paused"}:
        domain.state = view.state  # type: ignore[assignment]
    elif view.state == "defined":
        domain.defined_boot = view.boot + 1
    domain.guest_agent, domain.bootstrap, domain.detail = view.guest_agent, view.bootstrap, view.detail
    domain.kubelet = domain.registered = domain.state == "running" and view.guest_agent and m.joined
    world.add_domain(server, domain)


def _volume(world: World, server: SimServer, m: MachineEntry, pool: str) -> SimVolume:
    kept = server.pools.setdefault(pool, SimPool(pool))
    kept.used_mib -= m.disk_mib  # it counts already in what was seen of the pool
    return SimVolume(
        uid=m.uid, server=server.name, pool=kept, size_mib=m.disk_mib, store=world.store, images=m.image.pooled
    )


def _retained(world: World, entry: RetainedDiskEntry) -> None:
    server = world.servers.get(entry.server)
    if server is None:
        return
    pool = server.pools.setdefault(entry.disk_pool, SimPool(entry.disk_pool))
    server.retained[entry.uid] = SimVolume(uid=entry.uid, server=server.name, pool=pool, size_mib=0, store=world.store)


def _cluster(world: World, inventory: Inventory, entry: ClusterEntry) -> None:
    cluster = world.cluster(entry.cluster)
    cluster.initialised = entry.initialised
    observation = inventory.cluster(entry.cluster)
    if observation is not None:
        view: ClusterView = observation.value
        cluster.secrets, cluster.addons = view.secrets, set(view.addons)
        cluster.initialised |= view.initialised
    cluster.going = entry.desired == "absent"


def _nodes(world: World, inventory: Inventory, blueprint: Blueprint) -> None:
    by_name = {(m.cluster, m.name): m for m in blueprint.machines() if m.is_node}
    for observation in inventory.observations.values():
        view = observation.value
        if isinstance(view, NodeView) and view.present:
            m = by_name.get((view.cluster, view.name))
            cluster = world.cluster(view.cluster)
            node = cluster.nodes[view.name] = SimNode(
                name=view.name,
                uid=view.machine or (m.uid if m is not None else view.machine),
                version=view.version,
                address=view.address,
                ready=view.ready,
                unschedulable=view.unschedulable,
                out_of_service=view.out_of_service,
                pods=view.pods,
                worker=m is None or m.role != "control-plane",
            )
            world.nodes[node.uid] = (cluster, node)
        elif isinstance(view, ClusterView):
            for name in view.etcd_members:
                member = by_name.get((view.cluster, name))
                if member is not None:
                    world.cluster(view.cluster).members[name] = member.uid
