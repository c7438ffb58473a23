"""What is measured, and in which units: the benchmarks of `bedplate measure` and the metrics of each. Data only.

Each benchmark is one bounded run of one tool of the measuring kit, the same on a server and in a machine.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Group = Literal["cpu", "memory", "disk", "network"]
GROUPS: tuple[Group, ...] = ("cpu", "memory", "disk", "network")
Better = Literal["higher", "lower"]

FACTS, CLEAN = "facts", "clean"
"""Not measured: what the target is, and taking the kit away from it."""

MOST_REPETITIONS, MOST_SECONDS, MOST_SCRATCH_MIB = 50, 120, 65536


class MetricInfo(msgspec.Struct, frozen=True):
    """A quantity that a benchmark gives."""

    name: str
    unit: str
    better: Better


class Benchmark(msgspec.Struct, frozen=True):
    """One run of one tool."""

    name: str
    group: Group
    tool: str
    metrics: tuple[MetricInfo, ...]


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("cpu-one", "cpu", "sysbench", (MetricInfo("cpu-one", "events/s", "higher"),)),
    Benchmark("cpu-all", "cpu", "sysbench", (MetricInfo("cpu-all", "events/s", "higher"),)),
    Benchmark("memory-read", "memory", "sysbench", (MetricInfo("memory-read", "MiB/s", "higher"),)),
    Benchmark("memory-write", "memory", "sysbench", (MetricInfo("memory-write", "MiB/s", "higher"),)),
    Benchmark("disk-random-read", "disk", "fio", (
        MetricInfo("disk-random-read", "IOPS", "higher"), MetricInfo("disk-random-read-p99", "us", "lower"),
    )),
    Benchmark("disk-random-write", "disk", "fio", (
        MetricInfo("disk-random-write", "IOPS", "higher"), MetricInfo("disk-random-write-p99", "us", "lower"),
    )),
    Benchmark("disk-single-read", "disk", "fio", (
        MetricInfo("disk-single-read", "us", "lower"), MetricInfo("disk-single-read-p99", "us", "lower"),
    )),
    Benchmark("disk-read", "disk", "fio", (MetricInfo("disk-read", "MB/s", "higher"),)),
    Benchmark("disk-write", "disk", "fio", (MetricInfo("disk-write", "MB/s", "higher"),)),
    Benchmark("network-throughput", "network", "iperf3", (MetricInfo("network-throughput", "Mbit/s", "higher"),)),
    Benchmark("network-round-trip", "network", "sockperf", (
        MetricInfo("network-round-trip", "us", "lower"), MetricInfo("network-round-trip-p99", "us", "lower"),
    )),
)  # fmt: skip
BY_NAME = {b.name: b for b in BENCHMARKS}


def chosen(groups: tuple[str, ...]) -> tuple[Benchmark, ...]:
    """The benchmarks of some groups, in their order."""
    return tuple(b for b in BENCHMARKS if b.group in groups)


def limit(seconds: float) -> float:
    """Seconds within which a run that measures for `seconds` ends or is ended: emulated guests take long to begin."""
    return 3.0 * seconds + 120.0


INSTALL_SECONDS = 300.0
"""For the kit to come to a target."""
IDLE_SECONDS = 900.0
"""After so long without a run a target takes the kit away by itself: more than one run takes at most."""
