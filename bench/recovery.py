"""Recovery decided: many servers are confirmed dead at once, and their machines on shared disks get new servers.

The fleet is at rest and planned once, as it is in a controller that has been running. Then the news comes that the
agents of a tenth of its servers are not heard of and that their BMCs, asked, say off. Measured is the planning of that
news: confirming each death, a new server for every machine, and saying why. In production few machines start at a time
(`Policy.recover_at_once`): so it is measured in one go, without that bound, and once more batch by batch to its end.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Set

import msgspec

from bedplate.model.blueprint import (
    AnyEntry,
    Blueprint,
    ClusterEntry,
    Delta,
    MachineEntry,
    ServerEntry,
    apply_delta,
)
from bedplate.model.ids import Key, MachineUid, Revision, ServerName
from bedplate.model.inventory import AnyView, BmcView, DomainView, Inventory, Observation, ServerView
from bedplate.model.kinds.base import MachineShape, Object
from bedplate.model.kinds.cluster import NodePool
from bedplate.model.kinds.infrastructure import DiskPool, Server
from bedplate.model.policy import Policy
from bedplate.planner.plan import PlanCache, PlanInput, PlanResult, plan
from bedplate.sim import fleet as sim_fleet
from bench import fleet
from bench.reference import cpu_loop
from bench.report import Figure, seconds

SECONDS = 1.0
DEAD_SHARE = 10
"""One server of so many."""
AFTER = 7.0
"""Seconds after which they are suspect and their BMCs were read."""
LARGE, SMALL = fleet.Size(1000, 1000), fleet.Size(100, 100)
"""Twenty machines on each server: two thousand on a hundred."""
UNBOUNDED = Policy(recover_at_once=1_000_000, recover_per_server=1_000_000)


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    size = SMALL if small else LARGE
    world = _World(size)
    machines = world.lost()
    loop = cpu_loop(0.5)
    world.decide(UNBOUNDED)
    loop += cpu_loop(0.5)
    assert not world.lost(), "a machine found no new server"
    yield Figure(
        what=f"recovery decided: {len(world.dead)} dead of {size.servers} servers, {machines} machines on them",
        measured=f"{seconds(world.took)} CPU",
        reference=f"loop of 1 reference second: {seconds(loop)} CPU",
        ratio=world.took / loop,
        goal=f"{SECONDS:g} s",
        limit=SECONDS,
    )
    world = _World(size)
    loop = cpu_loop(0.25)
    took = world.recover(Policy())
    loop += cpu_loop(0.25)
    yield Figure(
        what=f"· its first {Policy().recover_at_once}, as bounded in production",
        measured=f"{seconds(took[0])} CPU; {len(took)} batches to the end: {seconds(sum(took))} CPU",
        reference=f"loop of half a reference second: {seconds(loop)} CPU",
        ratio=took[0] / loop / 2,
    )


class _World:
    """The fleet at rest on shared disks, and what is seen of it."""

    def __init__(self, size: fleet.Size) -> None:
        self.dead = [ServerName(f"hv{n:04}") for n in range(0, size.servers, DEAD_SHARE)]
        self._spec = fleet.spec_of([_on_shared_disks(o) for o in fleet.declared(size)])
        self._blueprint = Blueprint()
        self._cache = PlanCache()
        self._seen: dict[Key, Observation[AnyView]] = {}
        self._domains: dict[MachineUid, frozenset[Key]] = {}
        self._synced: set[str] = set()
        for n in range(size.servers):
            self._see(f"agent/hv{n:04}", _server_view(f"hv{n:04}"), fleet.NOW)
        self._take(self._plan(Policy(), None, fleet.NOW).delta)
        self._blueprint = _joined(self._blueprint)
        for source, views in fleet.running(fleet.Size(0, 0), self._blueprint).items():
            for view in views:
                self._see(source, view, fleet.NOW)
        while (delta := self._plan(Policy(), None, fleet.NOW).delta).changes:
            self._take(delta)

    def _see(self, source: str, view: AnyView, at: float) -> Key:
        self._seen[view.key] = Observation(value=view, time=at, source=source)
        self._synced.add(source)
        if isinstance(view, DomainView):
            self._domains[view.uid] = self._domains.get(view.uid, frozenset()) | {view.key}
        return view.key

    def _plan(self, policy: Policy, changed: Set[Key] | None, now: float) -> PlanResult:
        inventory = Inventory(observations=self._seen, domains_by_uid=self._domains, synced=frozenset(self._synced))
        inp = PlanInput(
            spec=self._spec,
            inventory=inventory,
            parent=self._blueprint,
            policy=policy,
            now=now,
            seed=fleet.SEED,
            cache=self._cache,
        )
        gc.collect()
        began = time.process_time()
        result = plan(inp, changed)
        self.took = time.process_time() - began
        return result

    def _take(self, delta: Delta) -> None:
        self._blueprint = apply_delta(self._blueprint, delta, Revision(self._blueprint.number + 1))

    def lost(self) -> int:
        """Machines whose server is one of the dead."""
        dead = frozenset(self.dead)
        return sum(1 for m in self._blueprint.machines() if m.server in dead)

    def _news(self) -> set[Key]:
        """The dead servers' agents are not heard of, and their BMCs say that their power is off."""
        changed: set[Key] = set()
        for name in self.dead:
            gone = msgspec.structs.replace(_server_view(name), connected=False)
            changed.add(self._see(f"agent/{name}", gone, fleet.NOW))
            off = BmcView(server=name, reachable=True, power="off")
            changed.add(self._see(f"bmc/{name}", off, fleet.NOW + AFTER))
        return changed

    def decide(self, policy: Policy) -> None:
        """Plan that news once."""
        self._take(self._plan(policy, self._news(), fleet.NOW + AFTER).delta)
        confirmed = [e for e in self._blueprint.entries.values() if isinstance(e, ServerEntry)]
        assert len(confirmed) == len(self.dead)
        assert all(e.standing == "dead" for e in confirmed)

    def recover(self, policy: Policy) -> list[float]:
        """Plan it batch by batch, each once the one before runs; CPU seconds of each planning."""
        changed, now, took = self._news(), fleet.NOW + AFTER, list[float]()
        while self.lost() or not took:
            result = self._plan(policy, changed, now)
            self._take(result.delta)
            took.append(self.took)
            now += 1.0
            started = [e for e in result.delta.changes.values() if isinstance(e, MachineEntry) and e.carried]
            assert started or not self.lost(), "recovery stands still"
            changed = {self._see(f"agent/{m.server}", fleet.domain_view(m), now) for m in started}
        return took


def _on_shared_disks(o: Object) -> Object:
    match o:
        case DiskPool():
            return msgspec.structs.replace(o, spec=msgspec.structs.replace(o.spec, type="shared"))
        case NodePool():
            shape = MachineShape(cpu=4, memory="8Gi")
            return msgspec.structs.replace(o, spec=msgspec.structs.replace(o.spec, machine=shape))
        case Server():
            bmc = sim_fleet.bmc(o.metadata.name)
            return msgspec.structs.replace(o, spec=msgspec.structs.replace(o.spec, bmc=bmc))
        case _:
            return o


def _server_view(name: str) -> ServerView:
    view = fleet.server_view(name)
    pools = tuple(
        msgspec.structs.replace(p, shared=True, capacity_mib=4_000_000_000, free_mib=3_000_000_000) for p in view.pools
    )
    return msgspec.structs.replace(view, pools=pools)


def _joined(b: Blueprint) -> Blueprint:
    """As it is once every machine has joined its cluster."""
    entries: dict[Key, AnyEntry] = {}
    for k, entry in b.entries.items():
        match entry:
            case MachineEntry():
                entries[k] = msgspec.structs.replace(entry, joined=True)
            case ClusterEntry():
                entries[k] = msgspec.structs.replace(entry, initialised=True)
            case _:
                raise AssertionError(f"not of this fleet: {k}")
    return msgspec.structs.replace(b, entries=entries)
