"""The servers with what is allocated on them, and the order in which placement looks at them.

Kept incrementally: allocating and freeing cost the one server. Decides nothing beyond "least allocated first".
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping

from bedplate.model import quantity
from bedplate.model.blueprint import MachineEntry
from bedplate.model.cpus import FEATURES, HOST, CpuModel
from bedplate.model.ids import Key, ServerName
from bedplate.model.inventory import BmcView, Observation, PoolView, ServerView
from bedplate.model.kinds.infrastructure import DiskPool, Server, ServerRole, server_labels
from bedplate.model.times import seconds_of
from bedplate.model.whereabouts import servers_of

_PROFILES_LIMIT = 256
"""Kept orders of servers, one per kind of request. A fleet has few; more than this is a test of patience."""


class ServerState:
    """One server: what it offers, to whom, and what is allocated of it."""

    __slots__ = (
        "bridges",
        "connected",
        "cpu",
        "cpu_capacity",
        "cpu_models",
        "cpu_used",
        "disk_used",
        "domains",
        "failing",
        "given_up",
        "good_until",
        "hypervisor",
        "labels",
        "looked_into",
        "maintenance_until",
        "memory_capacity",
        "memory_used",
        "moving",
        "name",
        "pools",
        "signature",
        "tie",
        "told",
        "unschedulable",
        "wish",
    )

    def __init__(self, name: ServerName, seed: int) -> None:
        self.name = name
        self.tie = zlib.crc32(f"{seed}/{name}".encode())
        self.cpu_used = 0
        self.memory_used = 0
        self.moving = 0
        """Live migrations from or to it that are planned or under way."""
        self.disk_used: Counter[str] = Counter()
        self.signature: object = None
        self.wish: ServerRole = "free"
        """What planning has it be where its declared role is `auto`."""
        self.update(None, None, None)

    def update(
        self, server: Server | None, seen: Observation[ServerView] | None, bmc: Observation[BmcView] | None
    ) -> bool:
        """Take over what is declared and observed; True where more than free space changed."""
        view = seen.value if seen is not None else None
        self.connected = view is not None and view.connected and not view.error
        self.good_until = seen.good_until if seen is not None else 0.0
        self.bridges = view.bridges if view is not None else ()
        self.cpu = view.cpu if view is not None else ""
        self.cpu_models: tuple[CpuModel, ...] = view.cpu_models if view is not None else ()
        self.pools: dict[str, PoolView] = {p.name: p for p in view.pools} if view is not None else {}
        runs = view is None or view.system == "hypervisor"
        self.told = (server, seen, bmc)
        role = self.wish if server is not None and server.spec.role == "auto" else server.spec.role if server else ""
        self.hypervisor = server is not None and role == "hypervisor" and runs
        self.hypervisor = self.hypervisor and server is not None and not server.metadata.deletion_timestamp
        given_up = server is not None and (role != "hypervisor" or server.spec.metal.retired)
        self.given_up = given_up and self.connected and runs
        """Its user, or planning, wants it for something else."""
        self.looked_into = server is not None and self.connected and runs and server.spec.metal.rescue
        """A person wants it in rescue."""
        self.unschedulable = server is not None and server.spec.unschedulable
        self.maintenance_until = _maintenance_until(server)
        said = {bmc.value.health if bmc is not None else "", view.health if view is not None else ""}
        self.failing = next((h for h in ("critical", "warning") if h in said), "")
        """What its BMC and it itself say of its hardware, where that is not well: `warning` or `critical`."""
        self.domains: Mapping[str, str] = server.spec.failure_domain if server is not None else {}
        self.labels: Mapping[str, str] = server_labels(server) if server is not None else {}
        self.cpu_capacity, self.memory_capacity = _capacity(server, view)
        signature = (
            (self.hypervisor, self.unschedulable, self.maintenance_until, self.connected),
            (self.bridges, self.cpu_capacity, self.failing, self.given_up, self.looked_into, self.cpu, self.cpu_models),
            (self.memory_capacity, tuple(sorted(self.labels.items())), tuple(self.pools)),
            (view is not None and view.connected, self.good_until),
        )
        changed = signature != self.signature
        self.signature = signature
        return changed

    def in_maintenance(self, now: float) -> bool:
        """True while a person wants the server empty."""
        return now < self.maintenance_until

    @property
    def may_be_emptied(self) -> bool:
        """True where it is looked at whether it is to be empty."""
        return self.maintenance_until > 0.0 or bool(self.failing) or self.given_up or self.looked_into

    def emptied_because(self, now: float) -> str:
        """Why the server is to be empty, as the end of a sentence; empty where it is not."""
        if self.in_maintenance(now):
            return "is in maintenance"
        if self.given_up:
            return "is to be no hypervisor any more"
        if self.looked_into:
            return "is to be in rescue"
        return "has failing hardware" if self.failing == "critical" else ""

    @property
    def share(self) -> float:
        """The larger of the allocated shares of memory and CPU, 0 to 1."""
        memory = self.memory_used / self.memory_capacity if self.memory_capacity > 0 else 1.0
        cpu = self.cpu_used / self.cpu_capacity if self.cpu_capacity > 0 else 1.0
        return max(memory, cpu)


def _maintenance_until(server: Server | None) -> float:
    """When the server's maintenance is over, in seconds since the epoch; 0: it is in none."""
    if server is None or server.spec.maintenance is None:
        return 0.0
    until = server.spec.maintenance.until
    return seconds_of(until) if until else float("inf")


def _capacity(server: Server | None, view: ServerView | None) -> tuple[float, int]:
    """Allocatable virtual CPUs and memory (MiB): memory is never over-committed."""
    if server is None or view is None:
        return 0.0, 0
    reserved = server.spec.reservation
    cpus = (view.cpus - reserved.cpu) * server.spec.cpu_overcommit
    return cpus, view.memory_mib - int(quantity.parse(reserved.memory) // quantity.MIB)


class Order:
    """Some servers by load, the least allocated first; stays valid while allocations change."""

    def __init__(self, servers: dict[ServerName, ServerState]) -> None:
        self.servers = servers
        self._last = {name: s.share for name, s in servers.items()}
        self._heap = [(s.share, s.tie, name) for name, s in servers.items()]
        heapq.heapify(self._heap)
        self._domains: dict[str, frozenset[str]] = {}

    def domains(self, spread: str) -> frozenset[str]:
        """The failure domains of that label over which the servers spread."""
        found = self._domains.get(spread)
        if found is None:
            found = frozenset(s.domains.get(spread, "") for s in self.servers.values())
            self._domains[spread] = found
        return found

    def freed(self, server: ServerState) -> None:
        """Tell that the server's share has gone down."""
        if server.name in self.servers:
            self._push(server)

    def _push(self, server: ServerState) -> None:
        share = server.share
        if self._last.get(server.name) != share:
            self._last[server.name] = share
        heapq.heappush(self._heap, (share, server.tie, server.name))

    def walk(self) -> Generator[ServerState, None, None]:
        """Servers, least allocated first. Nothing may be allocated while walking; close it before."""
        aside: list[tuple[float, int, ServerName]] = []
        seen: set[ServerName] = set()
        try:
            while self._heap:
                item = heapq.heappop(self._heap)
                share, _, name = item
                if share != self._last[name] or name in seen:
                    continue  # a newer item of this server is in the heap
                server = self.servers[name]
                if server.share != share:
                    self._push(server)
                    continue
                seen.add(name)
                aside.append(item)
                yield server
        finally:
            for item in aside:
                heapq.heappush(self._heap, item)


class Fleet:
    """All servers, declared or only seen in entries."""

    def __init__(self, seed: int, disk_pools: Mapping[Key, DiskPool]) -> None:
        self._seed = seed
        self.servers: dict[ServerName, ServerState] = {}
        self.disk_pools = {p.metadata.name: p for p in disk_pools.values() if not p.metadata.deletion_timestamp}
        self.pool_order = tuple(sorted(self.disk_pools, key=lambda n: (self.disk_pools[n].spec.type != "shared", n)))
        self._shared_used: Counter[str] = Counter()
        self._orders: dict[object, Order] = {}
        self._cpu_model: CpuModel | None = None
        self.emptied: dict[ServerName, ServerState] = {}
        """Those of which it is looked at whether they are to be empty."""
        self.hypervisors = 0

    def server(self, name: ServerName) -> ServerState:
        """The state of that server; a new, empty one where it was not known."""
        found = self.servers.get(name)
        if found is None:
            found = self.servers[name] = ServerState(name, self._seed)
        return found

    def refresh(
        self,
        name: ServerName,
        server: Server | None,
        seen: Observation[ServerView] | None,
        bmc: Observation[BmcView] | None,
    ) -> bool:
        """Take a server's news in; True where more than free space changed."""
        state = self.server(name)
        self.hypervisors -= state.hypervisor
        changed = state.update(server, seen, bmc)
        self.hypervisors += state.hypervisor
        if state.may_be_emptied:
            self.emptied[name] = state
        else:
            self.emptied.pop(name, None)
        if changed:
            self._orders.clear()
            self._cpu_model = None
        return changed

    def wish(self, name: ServerName, role: ServerRole) -> None:
        """Planning has it be that, where its declared role is `auto`."""
        state = self.server(name)
        if state.wish != role:
            state.wish = role
            self.refresh(name, *state.told)

    @property
    def cpu_model(self) -> CpuModel:
        """The most that guests may know of the CPU so that they can move live between all hypervisors that were heard
        of."""
        found = self._cpu_model
        if found is None:
            told = [s for s in self.servers.values() if s.hypervisor and s.cpu]
            alike = len({s.cpu for s in told}) <= 1
            common: list[CpuModel] = [model for model in FEATURES if all(model in s.cpu_models for s in told)]
            found = self._cpu_model = HOST if alike or not common else common[-1]
        return found

    def is_shared(self, pool: str) -> bool:
        """True for a pool that has one content on all its servers."""
        declared = self.disk_pools.get(pool)
        return declared is not None and declared.spec.type == "shared"

    def allocate(self, m: MachineEntry, sign: int = 1) -> None:
        """Count a machine on its server (`sign` 1), or take it off (-1). One that moves takes room at both ends."""
        server = self.server(m.server)
        for end in servers_of(m):
            state = self.server(end)
            state.cpu_used += sign * m.cpu
            state.memory_used += sign * m.memory_mib
            state.moving += sign * bool(m.source)
        used = self._shared_used if self.is_shared(m.disk_pool) else server.disk_used
        used[m.disk_pool] += sign * m.disk_mib
        if sign < 0:
            for order in self._orders.values():
                for end in servers_of(m):
                    order.freed(self.server(end))

    def disk_used(self, server: ServerState, pool: str) -> int:
        """MiB of disks that are planned in that pool as this server sees it."""
        return self._shared_used[pool] if self.is_shared(pool) else server.disk_used[pool]

    def order(self, profile: object, servers: Iterator[ServerState]) -> Order:
        """The order for a kind of request; `servers` are looked at only where it is not kept."""
        found = self._orders.get(profile)
        if found is None:
            if len(self._orders) >= _PROFILES_LIMIT:
                self._orders.clear()
            found = self._orders[profile] = Order({s.name: s for s in servers})
        return found
