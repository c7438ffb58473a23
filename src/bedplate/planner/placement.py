"""Placement: which server takes a machine, and for each other server the one reason why not.

Memory is hard, CPU is over-committed by the server's own factor, disks are thin. The least allocated server that
fits wins; among equals the seed decides. Takes what is observed as it is and allocates nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from contextlib import closing

import msgspec

from bedplate.model.cpus import HOST, CpuModel
from bedplate.model.ids import Key, ServerName
from bedplate.model.labels import matches
from bedplate.model.report import Rejection, Waiting, Wanted
from bedplate.planner.addresses import NetworkState
from bedplate.planner.context import Planning
from bedplate.planner.fleet import Fleet, Order, ServerState

_LOOK_AT = 64
"""Fitting servers that a soft spread compares, least allocated first: bounds the cost in a large fleet."""
_THIN_SHARE = 10
"""A tenth of a disk must be free right now: clones are thin, but a full pool stops every guest in it."""
_SERVERS_SHOWN = 100


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine needs of a server, and where its siblings are.

    `server_limit` and `domain_limit`: how many siblings may share a server or failure domain; None: spread softly.
    """

    cpu: int
    memory_mib: int
    disk_mib: int
    disk_pool: str = ""
    match: Mapping[str, str] = {}
    network: str
    cpu_model: CpuModel = HOST
    """What its guest knows of the server's CPU."""
    like: str = ""
    """With `host-passthrough`: the CPU that the server must have, since the guest runs on such a one and moves live."""
    spread: str = ""
    on_servers: Counter[ServerName]
    in_domains: Counter[str]
    server_limit: int | None = None
    domain_limit: int | None = None
    forbidden: Set[tuple[str, str]] = frozenset()
    required: tuple[tuple[str, Set[str]], ...] = ()
    """As in `affinity.Wishes`."""
    avoid: Set[ServerName] = frozenset()
    """Servers that are to be left alone right now: enough is moving to them already."""


class Place(msgspec.Struct, frozen=True):
    """A server and the disk pool on it."""

    server: ServerName
    disk_pool: str


def choose(p: Planning, r: Request) -> Place | None:
    """The best place for one machine; None where no server can take it."""
    fleet = p.index.fleet
    order = eligible(p, r)
    fitting: list[tuple[int, int, int, ServerState]] = []
    lowest = _lowest_domain(order, r)
    fewest = min(0, *r.on_servers.values()) if r.on_servers else 0  # below zero: a server that is preferred
    with closing(order.walk()) as servers:
        for position, server in enumerate(servers):
            if _not_now(fleet, server, r, p.now) is not None:
                continue
            crowd, siblings = r.in_domains[_domain(server, r)] if r.spread else 0, r.on_servers[server.name]
            fitting.append((crowd, siblings, position, server))
            if (crowd <= lowest and siblings <= fewest) or len(fitting) >= _LOOK_AT:
                break
    if not fitting:
        return None
    server = min(fitting, key=lambda f: f[:3])[3]
    pool = _pool(fleet, server, r)
    assert isinstance(pool, str)
    return Place(server.name, pool)


def _lowest_domain(order: Order, r: Request) -> int:
    """The fewest siblings that any failure domain has."""
    if not r.spread:
        return 0
    domains = order.domains(r.spread)
    if len(r.in_domains) < len(domains):
        return 0  # one of them has none; a fleet has far more racks than a pool has machines
    return min((r.in_domains[d] for d in domains), default=0)


def _domain(server: ServerState, r: Request) -> str:
    return server.domains.get(r.spread, "")


def eligible(p: Planning, r: Request) -> Order:
    """Servers that could ever take such a machine, by load: what changes rarely is sorted out once."""
    fleet, network = p.index.fleet, p.index.network(r.network)
    profile = (r.network, r.disk_pool, tuple(sorted(r.match.items())), r.cpu_model, r.like)
    return fleet.order(profile, (s for s in fleet.servers.values() if _never(fleet, network, s, r) is None))


def _never(fleet: Fleet, network: NetworkState, s: ServerState, r: Request) -> Rejection | None:
    """Why this server can't take any machine of that kind, whatever its size."""
    if not s.hypervisor:
        return Rejection.NOT_HYPERVISOR
    if not s.connected:
        return Rejection.NOT_CONNECTED
    if s.unschedulable:
        return Rejection.UNSCHEDULABLE
    if not matches(r.match, s.labels):
        return Rejection.NO_MATCH
    if not holds(s, r.cpu_model, r.like):
        return Rejection.CPU_MODEL
    spec = network.spec
    if spec is None or spec.bridge not in s.bridges:
        return Rejection.NO_NETWORK
    if not matches(spec.server_selector, s.labels):
        return Rejection.NO_NETWORK
    if not any(_reaches(fleet, s, pool) for pool in ([r.disk_pool] if r.disk_pool else fleet.pool_order)):
        return Rejection.NO_POOL
    return None


def holds(s: ServerState, model: CpuModel, like: str) -> bool:
    """The server can give a guest that CPU: the level, or its own where nobody asks for a certain one. One of an agent
    that tells nothing of its CPU is taken for like the others."""
    if not s.cpu:
        return True
    return not like or s.cpu == like if model == HOST else model in s.cpu_models


def _reaches(fleet: Fleet, s: ServerState, pool: str) -> bool:
    declared = fleet.disk_pools.get(pool)
    if declared is None or pool not in s.pools:
        return False
    return matches(declared.spec.server_selector, s.labels)


def refusal(fleet: Fleet, network: NetworkState, s: ServerState, r: Request, now: float) -> Rejection | None:
    """Why this server can't take the machine now; None where it can."""
    return _never(fleet, network, s, r) or _not_now(fleet, s, r, now)


def _not_now(fleet: Fleet, s: ServerState, r: Request, now: float) -> Rejection | None:
    """Why this server, which could ever take such a machine, can't take this one now."""
    if s.good_until <= now:
        return Rejection.NOT_CONNECTED
    if s.in_maintenance(now):
        return Rejection.MAINTENANCE
    if s.failing:
        return Rejection.UNHEALTHY
    if s.name in r.avoid:
        return Rejection.BUSY
    if r.server_limit is not None and r.on_servers[s.name] >= r.server_limit:
        return Rejection.SAME_SERVER
    if any(_place(s, over) == place for over, place in r.forbidden):
        return Rejection.SAME_SERVER if all(not over for over, _ in r.forbidden) else Rejection.SAME_DOMAIN
    if any(_place(s, over) not in places for over, places in r.required):
        return Rejection.AFFINITY
    if r.domain_limit is not None and r.in_domains[_domain(s, r)] >= r.domain_limit:
        return Rejection.SAME_DOMAIN
    if s.memory_used + r.memory_mib > s.memory_capacity:
        return Rejection.NO_MEMORY
    if s.cpu_used + r.cpu > s.cpu_capacity:
        return Rejection.NO_CPU
    pool = _pool(fleet, s, r)
    return pool if isinstance(pool, Rejection) else None


def _place(s: ServerState, over: str) -> str:
    return (s.domains.get(over, "") if over else "") or s.name


def _pool(fleet: Fleet, s: ServerState, r: Request) -> str | Rejection:
    """The disk pool on that server for the machine: the named one, or the first with room, shared ones first."""
    reached = False
    for name in [r.disk_pool] if r.disk_pool else fleet.pool_order:
        if not _reaches(fleet, s, name):
            continue
        reached = True
        view = s.pools[name]
        fits = fleet.disk_used(s, name) + r.disk_mib <= view.capacity_mib
        if fits and view.free_mib >= r.disk_mib // _THIN_SHARE:
            return name
    return Rejection.NO_DISK if reached else Rejection.NO_POOL


def wait_for_room(p: Planning, k: Key, r: Request, what: str) -> None:
    """Say that no server can take the machine, and for each why not."""
    fleet, network = p.index.fleet, p.index.network(r.network)
    found: dict[str, Rejection] = {}
    for name in sorted(fleet.servers):
        reason = refusal(fleet, network, fleet.servers[name], r, p.now)
        if reason is not None:
            found[name] = reason
    refused(p, k, what, found, wanted(r))


def wanted(r: Request) -> Wanted:
    """The room that such a machine needs."""
    return Wanted(substrate="vm", cpu=r.cpu, memory_mib=r.memory_mib, network=r.network, match=r.match)


def refused(
    p: Planning,
    k: Key,
    what: str,
    found: Mapping[str, Rejection],
    room: Wanted,
    kind: str = "server",
    nobody: str = "there is no server",
) -> None:
    """Say that none of these can take the machine, which are all of that kind; `nobody`: that there is none.

    `room`: what would end the wait.
    """
    counts = Counter(found.values())
    shown = ", ".join(f"{n} {reason.value}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    where = f"no {kind} of {len(found)} can take it ({shown})" if found else nobody
    first = dict(list(found.items())[:_SERVERS_SHOWN])
    p.wait(k, Waiting.NO_ROOM, f"{what}: {where}", rejections=dict(counts), servers=first, wanted=room)
