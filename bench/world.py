"""The simulated world with the real controller on: a month of a large fleet in which something happens every day.

Servers fail and are repaired, every server is patched once, load follows the day. Bringing the fleet up is not counted.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple

from bedplate.model.kinds.base import MachineShape, Object
from bedplate.sim import fleet
from bedplate.sim.load import Curve
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story
from bench.reference import cpu_loop
from bench.report import Figure, seconds, size

SECONDS = 60.0
GROWTH = 12.0
DAY = 86_400.0
SEED = 20261127
PER_CLUSTER, PLANES = 97, 3
MACHINES_PER_SERVER = 10
REPAIRED_AFTER = 4 * 3600.0
PATCH_SECONDS = 1200.0
"""From a server's maintenance to its reboot; it is given back as long after that."""
BRING_UP_SECONDS = 10 * DAY
POOL_MIB = 10**9


class Size(NamedTuple):
    """How much of it there is."""

    servers: int
    days: int

    @property
    def machines(self) -> int:
        return self.servers * MACHINES_PER_SERVER

    @property
    def clusters(self) -> int:
        return self.machines // (PER_CLUSTER + PLANES)


class Told(NamedTuple):
    """One month as it was told."""

    cpu: float
    events: int
    commits: int
    steps: int
    memory: int
    """Bytes by which the process grew meanwhile."""


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    large = Size(100, 30) if small else Size(1000, 30)
    tenth = Size(large.servers // 10, large.days)
    first = _tell(tenth)
    loop = cpu_loop(0.5)
    told = _tell(large)
    loop += cpu_loop(0.5)
    limit = SECONDS * large.servers / 1000
    yield Figure(
        what=f"{large.days} simulated days of {large.servers} servers and {large.machines} machines: a server fails "
        "each day, all are patched once, load follows the day",
        measured=f"{seconds(told.cpu)} CPU ({told.events} events, {told.commits / told.cpu:.0f} plans and "
        f"{told.steps / told.cpu:.0f} steps a second)",
        reference=f"loop of 1 reference second: {seconds(loop)} CPU",
        ratio=told.cpu / loop,
        goal=f"{limit:g} s on one core",
        limit=limit,
    )
    yield Figure(
        what=f"· growth from {tenth.servers} to {large.servers} servers",
        measured=f"{seconds(told.cpu)} CPU",
        reference=f"{tenth.servers} servers: {seconds(first.cpu)} CPU",
        ratio=told.cpu / first.cpu,
        goal=f"{GROWTH:g} times",
        limit=GROWTH,
    )
    yield Figure(
        what="· memory that it took, by machine and event told",
        measured=size(told.memory),
        reference=f"1 KiB for each of {large.machines} machines and {told.events} events",
        ratio=told.memory / (1024 * (large.machines + told.events)),
        goal="1 KiB",
        limit=1.0,
    )


def _declared(of: Size) -> list[Object]:
    found: list[Object] = []
    plane, worker = MachineShape(cpu=2, memory="2Gi"), MachineShape(cpu=2, memory="4Gi")
    for n in range(of.clusters):
        found.append(fleet.cluster(f"c{n}", replicas=PLANES, shape=plane))
        found.append(fleet.pool(f"c{n}-web", of=f"c{n}", replicas=PER_CLUSTER, shape=worker))
    return found


def _tell(of: Size) -> Told:
    dice = random.Random(SEED)
    world = fleet.world(of.servers, shared=True)
    for server in world.servers.values():
        server.pools["shared"].capacity_mib = POOL_MIB
    sim = Simulator(world, seed=SEED, verify=False, keep=False)
    sim.apply(*fleet.infrastructure(world, racks=of.servers // 10, bmcs=True, addresses=60_000, vips=of.clusters + 1))
    sim.apply(*_declared(of))
    sim.start_controller()
    sim.run(seconds=BRING_UP_SECONDS, events=100_000_000)
    story = Story(sim)
    assert not story.unready(), story.unready()[:3]
    loads = sim.measure(every=1800.0)
    for n in range(of.clusters):
        loads.follow(f"nodepool/default/c{n}-web", Curve(peak=dice.uniform(0.0, 24.0)))
    _schedule(sim, of, dice)
    gc.collect()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    commits, steps, events = sim.store.blueprint.number, sim.commands, sim.events
    sim.run(seconds=of.days * DAY, quiet=2 * DAY, events=100_000_000)
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return Told(took, sim.events - events, sim.store.blueprint.number - commits, sim.commands - steps, grown * 1024)


def _schedule(sim: Simulator, of: Size, dice: random.Random) -> None:
    """What happens, by its time."""
    start, names = sim.now, sorted(sim.world.servers)
    for day in range(of.days):
        at, name = start + day * DAY + dice.uniform(0.0, DAY), dice.choice(names)
        sim.at(at, lambda n=name: sim.power_off(n), idle=True)
        sim.at(at + REPAIRED_AFTER, lambda n=name: sim.power_on(n), idle=True)
    every = of.days * DAY / len(names)
    for place, name in enumerate(names):
        at = start + place * every
        sim.at(at, lambda n=name: sim.maintain(n), idle=True)
        sim.at(at + PATCH_SECONDS, lambda n=name: sim.reboot(n), idle=True)
        sim.at(at + 2 * PATCH_SECONDS, lambda n=name: sim.unmaintain(n), idle=True)
