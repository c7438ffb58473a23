"""What follows at once in the world from what an event touched: connections, leases, kubelets, APIs."""

from __future__ import annotations

from collections.abc import Iterable

from bedplate.model.ids import ClusterKey, Key, MachineUid, ServerName
from bedplate.sim import kubelets, leases, network
from bedplate.sim.world import World


def settle(world: World) -> list[Key]:
    """Take what was touched, let follow what follows; give all keys that were touched."""
    touched = world.take_dirty()
    if not touched:
        return []
    _react(world, touched)
    more = world.take_dirty()
    return touched if not more else list(dict.fromkeys((*touched, *more)))


def _react(world: World, touched: Iterable[Key]) -> None:
    for k in touched:
        kind, *rest = k.split("/")
        if kind == "server":
            server = world.servers[ServerName(rest[0])]
            network.refresh(world, server)
            leases.refresh(world, server)
        elif kind == "domain":
            kubelets.refresh(world, MachineUid(rest[1]))
        elif kind == "cluster-view":
            cluster = world.clusters.get(ClusterKey(f"{rest[0]}/{rest[1]}"))
            if cluster is not None:
                kubelets.look_at_api(world, cluster)
