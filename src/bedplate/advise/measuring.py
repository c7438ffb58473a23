"""Measuring: what to run next, what tools' words mean, whether a sample counts, medians with their intervals. Pure.

Targets are measured by turns (A B A B), so that what drifts (heat, clocks, neighbours) strikes all of them alike. The
order in which samples came never matters to what is made of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bedplate.advise.amounts import Floats
from bedplate.model import measuring
from bedplate.model.kinds.measurement import (
    MeasuredMetric,
    MeasuredSample,
    MeasuredTarget,
    Measurement,
    MeasurementSpec,
)
from bedplate.model.measuring import BY_NAME, FACTS, Benchmark

MOST_REPEATS = 3
"""Runs of one benchmark on one target beyond its repetitions, where samples were disturbed: who is disturbed more often
measures on a busy server, which waiting does not mend."""
LOAD_SHARE, LOAD_CPUS = 0.1, 0.25
"""Of the server's CPUs, or so many CPUs where that is more: what others may use before and after a sample. A tenth is
about what SMT siblings and turbo clocks take from a single thread when a core in ten is busy."""
LEAST_FOR_INTERVAL = 5
"""Fewer values have no 95 % interval of their median: even from the least to the largest of four it lies outside in one
case of eight (2 x 0.5^4); of five in one of sixteen."""
DRAWS = 4000
KERNEL = 1.3
"""Of the standard error: with it 94 to 97 % of the intervals cover, of 5 to 30 values, normal or skewed (800 tries)."""


class Unreadable(Exception):
    """A tool's words are not understood; the text says which."""


class Refused(Exception):
    """Figures that may not enter a comparison; the text says why."""


# --- what to run ----------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What is to run next."""

    target: str
    benchmark: str
    warm_up: bool = False


def next_run(spec: MeasurementSpec, known: Sequence[MeasuredTarget]) -> Run | None:
    """What is to run next after what is known; None: all is done."""
    found = {t.target: t for t in known}
    for target in spec.targets:
        if target not in found or not found[target].facts:
            return Run(target, FACTS)
    targets = [found[t] for t in spec.targets]
    for benchmark in measuring.chosen(spec.only):
        able = [t for t in targets if not skipped(benchmark, t)]
        for t in able:
            if benchmark.name not in t.warmed:
                return Run(t.target, benchmark.name, warm_up=True)
        waiting = [t for t in able if not _enough(spec, _samples(t, benchmark))]
        if waiting:
            fewest = min(waiting, key=lambda t: len(_samples(t, benchmark)))
            return Run(fewest.target, benchmark.name)
    return None


def skipped(benchmark: Benchmark, target: MeasuredTarget) -> bool:
    """Whether a benchmark can't be run there: a bare node has no server of its own to talk to."""
    return benchmark.group == "network" and target.substrate == "metal"


def _samples(target: MeasuredTarget, benchmark: Benchmark) -> tuple[MeasuredSample, ...]:
    name = benchmark.metrics[0].name
    return next((m.samples for m in target.metrics if m.name == name), ())


def _enough(spec: MeasurementSpec, samples: Sequence[MeasuredSample]) -> bool:
    good = sum(1 for s in samples if not s.disturbed)
    return good >= spec.repetitions or len(samples) >= spec.repetitions + MOST_REPEATS


def progress(spec: MeasurementSpec, known: Sequence[MeasuredTarget]) -> tuple[int, int]:
    """Samples that are there, of those that are asked for."""
    chosen = measuring.chosen(spec.only)
    bare = sum(1 for t in known for b in chosen if skipped(b, t))
    asked = (len(chosen) * len(spec.targets) - bare) * spec.repetitions
    there = 0
    for t in known:
        for b in (b for b in chosen if not skipped(b, t)):
            samples = _samples(t, b)
            there += spec.repetitions if _enough(spec, samples) else sum(1 for s in samples if not s.disturbed)
    return there, asked


def disturbance(before: float, after: float, cpus: int) -> str:
    """Why a sample does not count, by the load of the server just before and after it; empty: it does.

    Args:
        before: CPUs in use.
        after: As `before`.
        cpus: Of the server.
    """
    bound = max(LOAD_CPUS, LOAD_SHARE * cpus)
    when = [w for w, load in (("before", before), ("after", after)) if load > bound]
    if not when:
        return ""
    return f"others used {max(before, after):.2f} of {cpus} CPUs {' and '.join(when)} it; {bound:.2f} are let pass"


# --- what tools say -------------------------------------------------------------------------------------------------


def facts(output: bytes) -> dict[str, str]:
    """What a target is: `key=value` lines of the kit's script."""
    pairs = (line.partition("=") for line in output.decode(errors="replace").splitlines())
    return {k: v.strip() for k, mark, v in pairs if mark and v.strip()}


def values(benchmark: str, output: bytes) -> dict[str, float]:
    """A value for each of the benchmark's metrics, in their units.

    Raises:
        Unreadable: the tool said something else.
    """
    text = output.decode(errors="replace")
    try:
        found = _READERS[benchmark](text)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        said = " ".join(text.split())[-300:] or "nothing"
        raise Unreadable(f"{BY_NAME[benchmark].tool} said what {benchmark} does not understand: {said}") from None
    wrong = [name for name, value in found.items() if not np.isfinite(value) or value <= 0]
    if wrong:
        raise Unreadable(f"{BY_NAME[benchmark].tool} measured nothing: {wrong[0]} is {found[wrong[0]]:g}")
    return found


def _number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(pattern)
    return float(match[1])


def _events(name: str) -> Callable[[str], dict[str, float]]:
    return lambda text: {name: _number(r"events per second:\s*([\d.]+)", text)}


def _transferred(name: str) -> Callable[[str], dict[str, float]]:
    return lambda text: {name: _number(r"transferred \(([\d.]+) MiB/sec\)", text)}


def _job(text: str, side: str) -> dict[str, Any]:
    # fio may warn before its JSON begins.
    told: dict[str, Any] = json.loads(text[text.index("{") :])
    if told["jobs"][0]["error"]:
        raise ValueError(text)
    return told["jobs"][0][side]


def _p99(job: Mapping[str, Any]) -> float:
    return float(job["clat_ns"]["percentile"]["99.000000"]) / 1000.0


def _iops(name: str, side: str) -> Callable[[str], dict[str, float]]:
    def read(text: str) -> dict[str, float]:
        job = _job(text, side)
        return {name: float(job["iops"]), f"{name}-p99": _p99(job)}

    return read


def _single(text: str) -> dict[str, float]:
    job = _job(text, "read")
    return {"disk-single-read": float(job["lat_ns"]["mean"]) / 1000.0, "disk-single-read-p99": _p99(job)}


def _megabytes(name: str, side: str) -> Callable[[str], dict[str, float]]:
    return lambda text: {name: float(_job(text, side)["bw_bytes"]) / 1e6}


def _throughput(text: str) -> dict[str, float]:
    return {"network-throughput": float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e6}


def _round_trip(text: str) -> dict[str, float]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return {
        "network-round-trip": _number(r"percentile 50\.000\s*=\s*([\d.]+)", plain),
        "network-round-trip-p99": _number(r"percentile 99\.000\s*=\s*([\d.]+)", plain),
    }


_READERS: dict[str, Callable[[str], dict[str, float]]] = {
    "cpu-one": _events("cpu-one"),
    "cpu-all": _events("cpu-all"),
    "memory-read": _transferred("memory-read"),
    "memory-write": _transferred("memory-write"),
    "disk-random-read": _iops("disk-random-read", "read"),
    "disk-random-write": _iops("disk-random-write", "write"),
    "disk-single-read": _single,
    "disk-read": _megabytes("disk-read", "read"),
    "disk-write": _megabytes("disk-write", "write"),
    "network-throughput": _throughput,
    "network-round-trip": _round_trip,
}


# --- what it comes to -----------------------------------------------------------------------------------------------


def added(target: MeasuredTarget, benchmark: str, found: Mapping[str, float], sample: MeasuredSample) -> MeasuredTarget:
    """The target with one more sample of each of the benchmark's metrics; `sample` says when and beside what."""
    metrics = {m.name: m for m in target.metrics}
    for info in BY_NAME[benchmark].metrics:
        old = metrics.get(info.name) or MeasuredMetric(name=info.name, unit=info.unit, better=info.better)
        one = msgspec.structs.replace(sample, value=round(found[info.name], 4))
        metrics[info.name] = _summed(msgspec.structs.replace(old, samples=(*old.samples, one)))
    order = [info.name for b in measuring.BENCHMARKS for info in b.metrics]
    return msgspec.structs.replace(target, metrics=tuple(metrics[n] for n in order if n in metrics))


def _summed(metric: MeasuredMetric) -> MeasuredMetric:
    median, low, high = (None if v is None else round(v, 4) for v in median_interval(counted(metric)))
    return msgspec.structs.replace(metric, median=median, low=low, high=high)


def counted(metric: MeasuredMetric) -> list[float]:
    """The values that count: the undisturbed ones, or all where none was undisturbed."""
    good = [s.value for s in metric.samples if not s.disturbed]
    return good or [s.value for s in metric.samples]


def median_interval(found: Iterable[float]) -> tuple[float, float | None, float | None]:
    """The median with its 95 % interval (smoothed percentile bootstrap); None where the values are too few."""
    order = np.sort(np.asarray(list(found), dtype=np.float64))
    middle = float(np.median(order))
    if len(order) < LEAST_FOR_INTERVAL:
        return middle, None, None
    low, high = np.percentile(_medians(order, 1), [2.5, 97.5]).tolist()
    return middle, min(float(low), middle), max(float(high), middle)


def _medians(found: Floats, seed: int) -> Floats:
    """Medians of resamples, in logarithms as speeds and times are above zero, with a kernel over each value (smoothed
    bootstrap, Efron 1979; Silverman and Young 1987): a plain one knows only the few values that there are, and of seven
    it covers 88 % instead of 95 %."""
    chance, count, order = np.random.default_rng(seed), len(found), np.sort(np.log(found))
    drawn = order[chance.integers(0, count, size=(DRAWS, count))]
    # Of the two scales the smaller: one outlier must not widen the whole.
    quarters = np.percentile(order, [25, 75])
    scale = min(float(order.std(ddof=1)), float(quarters[1] - quarters[0]) / 1.349)
    drawn = drawn + KERNEL * scale / np.sqrt(count) * chance.standard_normal(drawn.shape)
    return np.exp(np.median(drawn, axis=1))


class Times(NamedTuple):
    """How many times as much a machine takes as its own server for the same."""

    low: float
    mid: float
    high: float


def times(machine: MeasuredMetric, server: MeasuredMetric) -> Times:
    """The ratio of the medians with its 95 % interval, both sides resampled; above 1 the machine is slower.

    Raises:
        Refused: different quantities or units, disturbed, or too few values.
    """
    if (machine.name, machine.unit, machine.better) != (server.name, server.unit, server.better):
        raise Refused(f"{machine.name} in {machine.unit} and {server.name} in {server.unit} are not the same quantity")
    sides: list[Floats] = []
    for metric in (machine, server):
        good = [s.value for s in metric.samples if not s.disturbed]
        if len(good) < LEAST_FOR_INTERVAL:
            raise Refused(
                f"{metric.name} has {len(good)} undisturbed samples, an interval needs {LEAST_FOR_INTERVAL}: measure "
                "again on a quieter server, with --repetitions 5 or more"
            )
        sides.append(np.sort(np.asarray(good, dtype=np.float64)))
    upper, lower = (sides[1], sides[0]) if machine.better == "higher" else (sides[0], sides[1])
    ratios = _medians(upper, 1) / _medians(lower, 2)
    low, high = np.percentile(ratios, [2.5, 97.5]).tolist()
    middle = float(np.median(upper) / np.median(lower))
    return Times(min(float(low), middle), middle, max(float(high), middle))


# --- for a comparison -----------------------------------------------------------------------------------------------

OVERHEADS = {
    "cpu": "cpu-one",
    "memory": "memory-write",
    "disk": "disk-single-read",
    "network": "network-throughput",
    "tail": "network-round-trip",
}
"""Rows of a comparison that may be measured, and the metric of each; `tail` is the network's latency."""


class Measured(NamedTuple):
    """An overhead that was measured, and where it is from."""

    times: Times
    origin: str


def overheads(measurement: Measurement) -> tuple[dict[str, Measured], list[str]]:
    """Of every machine against its own server, by the comparison's row; and remarks on what is not among them.

    Of several machines it ranges from the lowest to the highest, with the median in the middle.

    Raises:
        Refused: guests were emulated, or no machine was measured beside its own server.
    """
    meta = measurement.metadata
    emulated = [t.target for t in measurement.status.targets if t.emulated]
    if emulated:
        raise Refused(
            f"measurement {meta.name}: {', '.join(emulated)} ran under software emulation (TCG), which says nothing of "
            "hardware: such figures never enter a comparison; measure where guests run on KVM"
        )
    known = {t.target: t for t in measurement.status.targets}
    found: dict[str, list[tuple[str, Times]]] = {}
    remarks: list[str] = []
    pairs = 0
    for t in measurement.status.targets:
        server = known.get(f"server/{t.server}")
        if t.substrate != "vm" or server is None:
            continue
        pairs += 1
        for row, name in OVERHEADS.items():
            a, b = (next((m for m in side.metrics if m.name == name), None) for side in (t, server))
            if a is None or b is None:
                continue
            try:
                taken = times(a, b)
                found.setdefault(row, []).append((t.target, taken))
            except Refused as error:
                remarks.append(f"{t.target}: {error}")
    if not pairs:
        raise Refused(
            f"measurement {meta.name}: no machine was measured beside its own server; measure both, as in "
            "`bedplate measure server/hv1 machine/shop-web-1`"
        )
    finished = (measurement.status.finished or measurement.status.started)[:10]
    made: dict[str, Measured] = {}
    for row, pairs_of in found.items():
        mids = sorted(t.mid for _, t in pairs_of)
        whole = Times(min(t.low for _, t in pairs_of), float(np.median(mids)), max(t.high for _, t in pairs_of))
        who = ", ".join(sorted(target for target, _ in pairs_of))
        made[row] = Measured(whole, f"measurement {meta.name}, {OVERHEADS[row]}, {who}, {finished}")
    return made, remarks
