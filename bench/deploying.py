"""Many bare servers deployed at once in the simulated world, with the real controller: who is waited for?

Pools claim all servers in one moment. What the controller's link takes to send every server its image, and what one
server takes by itself (its boots, its disk), can't be made shorter by any controller; the rest is its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from bedplate.model.blueprint import MetalEntry
from bedplate.model.kinds.base import MachineShape
from bedplate.sim import fleet
from bedplate.sim.durations import Durations
from bedplate.sim.simulator import Simulator
from bench.reference import cpu_loop
from bench.report import Figure, seconds

SEED = 20261127
LIMIT = 1.15
HYPERVISORS = 6
PER_CLUSTER = 50
LIMIT_SECONDS = 6 * 3600.0


class Told(NamedTuple):
    """A deployment of so many servers."""

    simulated: float
    """From the declaration to the last server's node reporting from its disk."""
    cpu: float
    sent: float
    """What sending the images takes by itself."""


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    count = 50 if small else 500
    one = _tell(1)
    loop = cpu_loop(0.5)
    told = _tell(count)
    loop += cpu_loop(0.5)
    least = one.simulated + told.sent - one.sent
    yield Figure(
        what=f"{count} bare servers claimed at once until all report from their disks (simulated)",
        measured=f"{told.simulated:.0f} s",
        reference=f"one server {one.simulated:.0f} s, and sending the other images {told.sent - one.sent:.0f} s",
        ratio=told.simulated / least,
        goal=f"no more than {LIMIT:g} times",
        limit=LIMIT,
    )
    yield Figure(
        what="· the controller's work for it",
        measured=f"{seconds(told.cpu)} CPU",
        reference=f"loop of 1 reference second: {seconds(loop)} CPU",
        ratio=told.cpu / loop,
    )


def _tell(count: int) -> Told:
    world = fleet.world(HYPERVISORS, memory_mib=262_144, shared=True)
    names = frozenset(f"bm{n:03}" for n in range(count))
    for name in sorted(names):
        world.add_bare(name)
    durations = Durations(SEED, middle=True)
    sim = Simulator(world, seed=SEED, durations=durations, verify=False, keep=False)
    clusters = max(1, count // PER_CLUSTER)
    for obj in fleet.infrastructure(world, bmcs=True, addresses=5_000, vips=clusters + 1):
        sim.apply(fleet.bare(obj.metadata.name) if obj.metadata.name in names else obj)
    for n in range(clusters):
        sim.apply(fleet.cluster(f"c{n}"))
    sim.start_controller()
    _until(sim, count, "available")
    shape = MachineShape(substrate="metal", cpu=2, memory="4Gi")
    began, used = sim.now, time.process_time()
    for n in range(clusters):
        replicas = count // clusters + (n < count % clusters)
        sim.apply(fleet.pool(f"c{n}-metal", of=f"c{n}", replicas=replicas, shape=shape))
    _until(sim, count, "deployed")
    mib = fleet.image(f"node-{fleet.VERSION}").spec.disk.size / 2**20
    return Told(sim.now - began, time.process_time() - used, count * mib / durations.ranges.image_link)


def _until(sim: Simulator, count: int, state: str) -> None:
    """Let time pass until all bare servers are in that state."""
    seen = sim.store.blueprint.number

    def there() -> bool:
        nonlocal seen
        if sim.store.blueprint.number == seen:
            return False
        seen = sim.store.blueprint.number
        entries = sim.store.blueprint.entries.values()
        return sum(1 for e in entries if isinstance(e, MetalEntry) and e.state == state) == count

    assert sim.run(there, seconds=LIMIT_SECONDS, events=100_000_000), f"not all servers became {state} in time"
