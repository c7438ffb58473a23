"""Where a machine that exists may go: a place as a new one of its owner would get, on the disk pool that it has.

For recovery, maintenance and balancing alike. Looks for places; moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.cpus import HOST, CpuChoice, CpuModel
from bedplate.model.ids import ServerName, key
from bedplate.model.kinds.base import Object
from bedplate.model.whereabouts import ALIVE
from bedplate.planner import affinity, cpus, machines, placement
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
    match, spread, choice = _wishes(p, m)
    live = runs(p, m)
    model = m.cpu_model if live else cpus.chosen(p, choice)
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
        cpu_model=model,
        like=p.index.fleet.server(m.server).cpu if live and model == HOST else "",
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


def runs(p: Planning, m: MachineEntry) -> bool:
    """It runs on its server, as far as is known: elsewhere it would go live."""
    seen = p.inventory.domain(m.server, m.uid)
    return seen is not None and seen.value.state in ALIVE and not p.ended(m)


def cold(p: Planning, m: MachineEntry) -> CpuModel:
    """The CPU that it gets where it is started anew on another server."""
    return cpus.chosen(p, _wishes(p, m)[2])


def _wishes(p: Planning, m: MachineEntry) -> tuple[Mapping[str, str], str, CpuChoice]:
    """Labels that its server must have, over what its owner's machines spread, and the CPU that is asked for."""
    cluster = p.spec.clusters.get(m.owner)
    if cluster is not None:
        plane = cluster.spec.control_plane
        return plane.machine.match, plane.spread, plane.machine.cpu_model
    pool = p.spec.node_pools.get(m.owner)
    if pool is not None:
        return pool.spec.machine.match, pool.spec.spread, pool.spec.machine.cpu_model
    vm = p.spec.virtual_machines.get(m.owner)
    return (vm.spec.match, "", vm.spec.cpu_model) if vm is not None else ({}, "", "auto")
