"""What agents and watches on clusters' APIs would tell of the simulated world: its state as views."""

from __future__ import annotations

from typing import TypeVar

from bedplate.model.ids import ClusterKey, Generation, Key, MachineUid, ServerName
from bedplate.model.inventory import (
    AnyView,
    ClusterView,
    DomainState,
    DomainView,
    NodeView,
    RetainedDiskView,
    ServerView,
)
from bedplate.sim import leases, power, workload
from bedplate.sim.things import SimCluster, SimDomain, SimPool, SimRecord, SimServer, SimVolume
from bedplate.sim.world import World

Made = TypeVar("Made", SimDomain, SimVolume)


def view(world: World, k: Key) -> AnyView | None:
    """The view of that key as it is now; None for a server or cluster that never was."""
    kind, *rest = k.split("/")
    if kind == "server":
        server = world.servers.get(ServerName(rest[0]))
        return None if server is None else server_view(world, server)
    if kind == "metal":
        bare = world.servers[ServerName(rest[0])].bare
        return None if bare is None else bare.view
    if kind == "domain":
        return domain_view(world, world.servers[ServerName(rest[0])], MachineUid(rest[1]))
    if kind == "retained-disk-view":
        return retained_view(world, world.servers[ServerName(rest[0])], MachineUid(rest[1]))
    if kind == "lease":
        return leases.view(world, world.servers[ServerName(rest[0])], rest[1], world.servers[ServerName(rest[2])])
    if kind == "bmc":
        return power.bmc_view(world.servers[ServerName(rest[0])])
    if kind == "load":
        return world.loads.get(ServerName(rest[0]))
    cluster = world.clusters.get(ClusterKey(f"{rest[0]}/{rest[1]}"))
    if cluster is None:
        return None
    return cluster_view(world, cluster) if kind == "cluster-view" else node_view(world, cluster, rest[2])


def server_view(world: World, server: SimServer) -> ServerView:
    return ServerView(
        server=server.name,
        connected=server.connected,
        host_uuid=server.host_uuid,
        boot_id=f"boot-{server.name}-{server.boots}",
        address=f"10.255.{server.number // 250}.{1 + server.number % 250}",
        agent_version="sim",
        cpus=server.cpus,
        memory_mib=server.memory_mib,
        accelerator="kvm",
        cpu=server.cpu,
        cpu_models=server.cpu_models,
        bridges=server.bridges,
        pools=tuple(p.view() for p in server.pools.values() if not _lost(server, p)),
        error=server.error or _pool_error(server),
        health=server.ails,
        problems=("its hardware fails",) if server.ails else (),
        system=server.bare.system or "hypervisor" if server.bare is not None else "hypervisor",
        run=server.bare.view.run if server.bare is not None and server.bare.view is not None else 0,
    )


def _lost(server: SimServer, pool: SimPool) -> bool:
    return pool.gone or (pool.shared and not server.storage)


def _pool_error(server: SimServer) -> str:
    """A pool that can't be read is no longer shown, and why is said."""
    return "; ".join(f"disk pool {p.name}: I/O error" for p in server.pools.values() if _lost(server, p))


def domain_view(world: World, server: SimServer, uid: MachineUid) -> DomainView:
    record = server.records.get(uid, SimRecord())
    domain, volume = _ours(world, server.domains.get(uid)), _ours(world, server.volumes.get(uid))
    state: DomainState = "absent" if domain is None else domain.state
    if domain is not None and domain.state != "running" and record.boot < domain.defined_boot:
        state = "defined"
    move = world.moves.get(uid) if domain is None else None
    if move is not None and move.target == server.name:
        state = "paused"  # libvirt's half of a guest that arrives
    return DomainView(
        server=server.name,
        uid=uid,
        generation=Generation(record.generation) if domain is None else domain.entry.generation,
        state=state,
        boot=record.boot,
        volume=volume is not None,
        disk_pool=volume.pool.name if volume is not None else "",
        guest_agent=domain is not None and domain.guest_agent,
        started=record.started if domain is not None else 0.0,
        bootstrap=domain.bootstrap if domain is not None else "",
        detail=domain.detail if domain is not None else "",
    )


def _ours(world: World, thing: Made | None) -> Made | None:
    """The thing where this store made it."""
    return thing if thing is not None and thing.store == world.store else None


def retained_view(world: World, server: SimServer, uid: MachineUid) -> RetainedDiskView:
    volume = _ours(world, server.retained.get(uid))
    return RetainedDiskView(
        server=server.name,
        uid=uid,
        present=volume is not None,
        disk_pool=volume.pool.name if volume is not None else "",
    )


def cluster_view(world: World, cluster: SimCluster) -> ClusterView:
    """As a watch on the cluster's own API shows it: nothing of its inside while the API does not answer."""
    if not world.api(cluster):
        error = "the API does not answer" if cluster.initialised else ""
        return ClusterView(cluster=cluster.key, secrets=cluster.secrets, error=error)
    return ClusterView(
        cluster=cluster.key,
        secrets=cluster.secrets,
        initialised=True,
        api=True,
        etcd_members=tuple(sorted(cluster.members)),
        addons=tuple(sorted(cluster.addons)),
    )


def node_view(world: World, cluster: SimCluster, name: str) -> NodeView:
    node = cluster.nodes.get(name)
    if node is None:
        return NodeView(cluster=cluster.key, name=name, present=False)
    return NodeView(
        cluster=cluster.key,
        name=name,
        ready=node.ready,
        unschedulable=node.unschedulable,
        version=node.version,
        address=node.address,
        uid=f"node-{node.uid}",
        machine=node.uid,
        pods=workload.count(cluster, node),
        out_of_service=node.out_of_service,
    )


def everything_on(world: World, server: SimServer) -> list[AnyView]:
    """All that a server's agent would tell a controller that it just connected to."""
    if server.bare is not None and server.bare.view is not None:
        return [server_view(world, server), server.bare.view]
    made = [*server.domains.items(), *server.volumes.items()]
    uids = sorted({uid for uid, thing in made if thing.store == world.store})
    views: list[AnyView] = [server_view(world, server), *(domain_view(world, server, uid) for uid in uids)]
    views += (v for uid in sorted(server.retained) if (v := retained_view(world, server, uid)).present)
    views += leases.told_by(world, server)
    load = world.loads.get(server.name)
    return views if load is None else [*views, load]


def everything_in(world: World, cluster: SimCluster) -> list[AnyView]:
    """All that a watch would tell of a cluster whose API answers."""
    return [cluster_view(world, cluster), *(node_view(world, cluster, name) for name in sorted(cluster.nodes))]
