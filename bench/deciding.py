"""Deciding: years of a fleet a minute, the same on two cores as on one, and a large comparison from kept results.

The simulated years are told against the goal of ten minutes for 20 runs of a year of 100 servers and 1,000 machines on
two cores; two processes are compared with one in the same run. The fleet is brought up once for all of a sweep's runs,
in one process: that part is told apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bedplate.advise import comparing, deciding, runs
from bedplate.advise.amounts import Count, Money, MoneyPerKwh, Share
from bedplate.advise.fleet import ClusterProfile, Operations, Prices, Profile, ServerModel, Use, Workload
from bedplate.advise.runs import Sweep
from bedplate.advise.twin import setting_of
from bench.report import Figure

GOAL_SECONDS = 600.0
COMPARE_SECONDS = 10.0
PATCHES = 4


def fleet(servers: int, workloads: int, replicas: int) -> Profile:
    """So many equal servers and workloads, ten of them in a cluster."""
    model = ServerModel(
        name="s",
        count=servers * 3,
        cpus=64,
        memory="512Gi",
        price=Money.of(10_000),
        place={"rack": ("r1", "r2", "r3", "r4")},
    )
    return Profile(
        servers=(model,),
        clusters=tuple(_clusters(workloads, replicas)),
        name="bench",
        currency="EUR",
        prices=Prices(electricity=MoneyPerKwh.of(0.2)),
        operations=Operations(patches=Count.of(PATCHES)),
    )


def _clusters(workloads: int, replicas: int) -> Iterator[ClusterProfile]:
    use = Use(mean=Share.of(0.3), peak=Share.of(0.6))
    for first in range(0, workloads, 10):
        work = tuple(
            Workload(name=f"w{n}", replicas=replicas, cpu=2 + n % 4, memory=f"{8 + 4 * (n % 5)}Gi", use=use)
            for n in range(first, min(first + 10, workloads))
        )
        yield ClusterProfile(name=f"c{first // 10}", workloads=work)


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    size = 0.1 if small else 1.0
    profile = fleet(round(100 * size), round(100 * size), 20)
    layout = deciding.plans(profile)["vm"].layout
    machines = layout.nodes + layout.planes
    years = 0.25
    began = time.perf_counter()
    runs.begun(profile, setting_of(profile, layout))
    beginning = time.perf_counter() - began
    one = _seconds(Sweep(profile=profile, layout=layout, seeds=(1, 2), years=years), jobs=1) - beginning
    two = _seconds(Sweep(profile=profile, layout=layout, seeds=(1, 2), years=years), jobs=2) - beginning
    whole = beginning + two / (2 * years) * 20
    yield Figure(
        what=f"20 runs of a year of {layout.count} servers and {machines} machines, two cores",
        measured=f"{whole:.0f} s (from {2 * years:g} years told; {beginning:.0f} s of it until all is up)",
        reference=f"{GOAL_SECONDS:.0f} s",
        ratio=whole / GOAL_SECONDS,
        goal="at most 10 min",
        limit=1.0,
    )
    yield Figure(
        what="two processes against one, once all is up",
        measured=f"{two:.1f} s",
        reference=f"one: {one:.1f} s",
        ratio=two / one,
        goal="1.8 times as fast",
        limit=1 / 1.8,
    )
    large = fleet(round(1000 * size), round(200 * size), 60)
    began = time.perf_counter()
    plans = deciding.plans(large)
    comparing.compare(large, plans, {})
    took = time.perf_counter() - began
    yield Figure(
        what=f"compare {plans['vm'].layout.count} servers and {round(200 * size)} workloads, nothing to simulate",
        measured=f"{took:.1f} s",
        reference=f"{COMPARE_SECONDS:.0f} s",
        ratio=took / COMPARE_SECONDS,
        goal="at most 10 s",
        limit=1.0,
    )


def _seconds(sweep: Sweep, *, jobs: int) -> float:
    began = time.perf_counter()
    found = list(runs.run(sweep, jobs=jobs))
    assert all(r.ready and not r.wrong for r in found), [r.wrong for r in found]
    return time.perf_counter() - began
