"""Where a machine that exists may go: a place as a new one of its owner would get, on the disk pool that it has.

For recovery, maintenance and balancing alike. Looks for places; moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ServerName, key
from bedplate.model.kinds.base import Object
from bedplate.planner import affinity, machines, placement
from bedplate.planner.context import Planning
from bedplate.planner.placement import Place, Request


def declared_owner(p: Planning, m: MachineEntry) -> Object | None:
    """The object that the machine belongs to as users declared it."""
    spec = p.spec
    return spec.clusters.get(m.owner) or spec.node_pools.get(m.owner) or spec.virtual_machines.get(m.owner)


def paused(p: Planning, m: MachineEntry) -> str:
    """Why this machine is to be left as it is; empty where nobody said so."""
    cluster = p.spec.clusters.get(key("cluster", m.cluster)) if m.is_node else None
    return p.paused(declared_owner(p, m), cluster)


def request(p: Planning, m: MachineEntry, avoid: Set[ServerName] = frozenset()) -> Request:
    """What the machine asks of another server: its disk pool is given, its own server counts as taken."""
    match, spread = _wishes(p, m)
    if m.is_node:
        family = [o for o in p.index.by_cluster[m.cluster].values() if o.owner == m.owner and o.uid != m.uid]
    else:
        family = []
    on_servers, in_domains = machines.siblings(p, family, spread)
    vm = p.spec.virtual_machines.get(m.owner)
    w = affinity.wishes(p, vm) if vm is not None else affinity.NONE
    on_servers.update(w.crowd)
    return Request(
        cpu=m.cpu,
        memory_mib=m.memory_mib,
        disk_mib=0,  # its disk is there already
        disk_pool=m.disk_pool,
        match=match,
        network=m.nic.network,
        spread=spread,
        on_servers=on_servers,
        in_domains=in_domains,
        server_limit=1 if m.role == "control-plane" else None,
        forbidden=w.forbidden,
        required=w.required,
        avoid=avoid | {m.server},
    )


def find(p: Planning, m: MachineEntry, avoid: Set[ServerName] = frozenset(), *, must: bool = False) -> Place | None:
    """The best other server. `must`: rather beside a sibling of its control plane than nowhere."""
    r = request(p, m, avoid)
    place = placement.choose(p, r)
    if place is None and must and r.server_limit is not None:
        place = placement.choose(p, msgspec.structs.replace(r, server_limit=None))
    return place


def _wishes(p: Planning, m: MachineEntry) -> tuple[Mapping[str, str], str]:
    """Labels that its server must have, and over what its owner's machines spread."""
    cluster = p.spec.clusters.get(m.owner)
    if cluster is not None:
        return cluster.spec.control_plane.machine.match, cluster.spec.control_plane.spread
    pool = p.spec.node_pools.get(m.owner)
    if pool is not None:
        return pool.spec.machine.match, pool.spec.spread
    vm = p.spec.virtual_machines.get(m.owner)
    return (vm.spec.match if vm is not None else {}), ""
