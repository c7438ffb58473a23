"""What is run next, which samples count, what the medians and ratios come to: decisions on data."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.advise import measuring as advice
from bedplate.advise.measuring import MOST_REPEATS, Refused, Run
from bedplate.model.kinds.measurement import (
    MeasuredMetric,
    MeasuredSample,
    MeasuredTarget,
    Measurement,
    MeasurementSpec,
    MeasurementStatus,
)
from bedplate.model.measuring import BENCHMARKS, BY_NAME, FACTS
from bedplate.model.meta import ObjectMeta

SPEC = MeasurementSpec(targets=("server/hv1", "machine/a"), only=("cpu", "disk"), repetitions=3)


def played(spec: MeasurementSpec, disturbed: str = "", stop: int = 10**6) -> tuple[list[Run], list[MeasuredTarget]]:
    """All runs to the end, or so many of them, each with its sample."""
    known: dict[str, MeasuredTarget] = {}
    runs: list[Run] = []
    while len(runs) < stop:
        run = advice.next_run(spec, tuple(known.values()))
        if run is None:
            break
        runs.append(run)
        known[run.target] = after(known.get(run.target), run, disturbed)
    return runs, list(known.values())


def after(target: MeasuredTarget | None, run: Run, disturbed: str = "") -> MeasuredTarget:
    if target is None:
        return MeasuredTarget(target=run.target, server="hv1", facts={"kernel": "6.12"})
    if run.warm_up:
        return msgspec.structs.replace(target, warmed=(*target.warmed, run.benchmark))
    found = {i.name: 100.0 for i in BY_NAME[run.benchmark].metrics}
    return advice.added(target, run.benchmark, found, MeasuredSample(value=0, disturbed=disturbed))


def test_targets_are_measured_by_turns_after_a_warm_up_of_each() -> None:
    runs, _ = played(SPEC)
    assert runs[:2] == [Run("server/hv1", FACTS), Run("machine/a", FACTS)]
    first = [r for r in runs if r.benchmark == "cpu-one"]
    assert first[:2] == [Run("server/hv1", "cpu-one", True), Run("machine/a", "cpu-one", True)]
    assert [r.target for r in first[2:]] == ["server/hv1", "machine/a"] * 3


def test_every_chosen_benchmark_has_its_samples_and_no_other_is_run() -> None:
    runs, known = played(SPEC)
    counts = Counter((r.target, r.benchmark) for r in runs if not r.warm_up and r.benchmark != FACTS)
    wanted = [b.name for b in BENCHMARKS if b.group in SPEC.only]
    assert counts == {(t, b): 3 for t in SPEC.targets for b in wanted}
    assert advice.progress(SPEC, known) == (len(wanted) * 6, len(wanted) * 6)


def test_a_bare_node_is_measured_without_its_network() -> None:
    spec = msgspec.structs.replace(SPEC, only=("cpu", "network"), targets=("machine/db", "machine/a"))
    bare = MeasuredTarget(target="machine/db", substrate="metal", server="m1", facts={"kernel": "6.12"})
    known = {"machine/db": bare}
    runs: list[Run] = []
    while (run := advice.next_run(spec, tuple(known.values()))) is not None:
        runs.append(run)
        known[run.target] = after(known.get(run.target), run)
    assert {r.benchmark for r in runs if r.target == "machine/db"} == {"cpu-one", "cpu-all"}
    assert "network-round-trip" in {r.benchmark for r in runs if r.target == "machine/a"}
    assert advice.progress(spec, tuple(known.values())) == (18, 18)


@settings(deadline=None)  # beside other work a draw may take long
@given(stop=st.integers(0, 60))
def test_an_interrupted_measurement_goes_on_where_it_was(stop: int) -> None:
    """What was measured until then, and nothing else, decides what is next."""
    whole, _ = played(SPEC)
    begun, known = played(SPEC, stop=stop)
    again = msgspec.json.decode(msgspec.json.encode(known), type=list[MeasuredTarget])
    rest: list[Run] = []
    table = {t.target: t for t in again}
    while (run := advice.next_run(SPEC, tuple(table.values()))) is not None:
        rest.append(run)
        table[run.target] = after(table.get(run.target), run)
    assert [*begun, *rest] == whole


def test_disturbed_samples_are_repeated_a_bounded_number_of_times() -> None:
    spec = msgspec.structs.replace(SPEC, only=("cpu",))
    runs, known = played(spec, disturbed="others used 1.5 of 2 CPUs before it")
    counts = Counter((r.target, r.benchmark) for r in runs if not r.warm_up and r.benchmark != FACTS)
    assert set(counts.values()) == {spec.repetitions + MOST_REPEATS}
    assert advice.progress(spec, known)[0] == advice.progress(spec, known)[1]
    assert all(len(m.samples) == 6 and m.median == 100.0 for t in known for m in t.metrics)


def test_load_by_others_beyond_the_bound_is_named_with_its_numbers() -> None:
    assert advice.disturbance(0.2, 0.1, 2) == ""
    assert advice.disturbance(3.1, 3.0, 32) == ""
    said = advice.disturbance(0.1, 1.5, 2)
    assert said == "others used 1.50 of 2 CPUs after it; 0.25 are let pass"
    assert "before and after" in advice.disturbance(7.0, 5.0, 32)


def test_a_disturbed_sample_does_not_count() -> None:
    target = MeasuredTarget(target="server/hv1", facts={"kernel": "x"})
    for value, why in ((100.0, ""), (10.0, "others"), (102.0, "")):
        target = advice.added(target, "cpu-one", {"cpu-one": value}, MeasuredSample(value=0, disturbed=why))
    (metric,) = target.metrics
    assert metric.median == 101.0
    assert [s.value for s in metric.samples] == [100.0, 10.0, 102.0]


# --- what tools say -------------------------------------------------------------------------------------------------

FIO = {
    "jobs": [
        {
            "error": 0,
            "read": {
                "iops": 71332.67,
                "bw_bytes": 292178605,
                "lat_ns": {"mean": 447760.0},
                "clat_ns": {"percentile": {"99.000000": 2310144}},
            },
            "write": {
                "iops": 5000.0,
                "bw_bytes": 500_000_000,
                "clat_ns": {"percentile": {"99.000000": 910_000}},
            },
        }
    ]
}
SYSBENCH = "CPU speed:\n    events per second:  4026.62\n"
MEMORY = "28840.00 MiB transferred (28818.75 MiB/sec)\n"
SOCKPERF = "sockperf: \x1b[2;35m---> percentile 99.000 =   41.250\x1b[0m\nsockperf: ---> percentile 50.000 =   21.500\n"
IPERF = json.dumps({"end": {"sum_received": {"bits_per_second": 9.4e9}}})


@pytest.mark.parametrize(
    ("benchmark", "said", "wanted"),
    [
        ("cpu-one", SYSBENCH, {"cpu-one": 4026.62}),
        ("memory-write", MEMORY, {"memory-write": 28818.75}),
        (
            "disk-random-read",
            "fio: a warning\n" + json.dumps(FIO),
            {"disk-random-read": 71332.67, "disk-random-read-p99": 2310.144},
        ),
        ("disk-single-read", json.dumps(FIO), {"disk-single-read": 447.76, "disk-single-read-p99": 2310.144}),
        ("disk-write", json.dumps(FIO), {"disk-write": 500.0}),
        ("network-throughput", IPERF, {"network-throughput": 9400.0}),
        ("network-round-trip", SOCKPERF, {"network-round-trip": 21.5, "network-round-trip-p99": 41.25}),
    ],
)
def test_tools_words_are_read_in_the_units_of_their_metrics(
    benchmark: str, said: str, wanted: dict[str, float]
) -> None:
    assert advice.values(benchmark, said.encode()) == pytest.approx(wanted)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda b: b.name)
@pytest.mark.parametrize("said", ["", "{", "no such file", '{"jobs": []}', "events per second: 0.00"])
def test_what_is_not_understood_is_refused_with_the_tools_words(benchmark: object, said: str) -> None:
    with pytest.raises(advice.Unreadable, match=r"said what|measured nothing"):
        advice.values(benchmark.name, said.encode())  # type: ignore[attr-defined]


def test_a_job_that_fio_calls_failed_gives_no_figure() -> None:
    broken = {"jobs": [{**FIO["jobs"][0], "error": 5}]}
    with pytest.raises(advice.Unreadable, match="fio said"):
        advice.values("disk-read", json.dumps(broken).encode())


# --- medians, intervals, ratios -------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(0.5, 1e6), min_size=1, max_size=12)


def metric(values: list[float], name: str = "cpu-one") -> MeasuredMetric:
    info = next(i for b in BENCHMARKS for i in b.metrics if i.name == name)
    samples = tuple(MeasuredSample(value=v) for v in values)
    return MeasuredMetric(name=info.name, unit=info.unit, better=info.better, samples=samples)


@settings(deadline=None)  # beside other work a draw may take long
@given(values=VALUES, data=st.data())
def test_the_order_of_samples_never_matters(values: list[float], data: st.DataObject) -> None:
    other = data.draw(st.permutations(values))
    assert advice.median_interval(values) == advice.median_interval(other)
    if len(values) >= 5:
        fixed = metric([1.0, 2.0, 3.0, 4.0, 5.0])
        assert advice.times(metric(values), fixed) == advice.times(metric(list(other)), fixed)


@settings(deadline=None)  # beside other work a draw may take long
@given(values=VALUES)
def test_the_median_lies_in_its_interval_and_few_values_have_none(values: list[float]) -> None:
    middle, low, high = advice.median_interval(values)
    if len(values) < 5:
        assert (low, high) == (None, None)
        return
    assert low is not None
    assert high is not None
    assert 0 < low <= middle <= high


@pytest.mark.parametrize(("count", "least"), [(5, 0.92), (7, 0.93), (15, 0.93), (30, 0.93)])
def test_intervals_cover_the_true_median_at_their_rate(count: int, least: float) -> None:
    """95 %, less what the chance of 600 tries explains (two deviations are 1.8 %) and what five values can't know."""
    chance = np.random.default_rng(7)
    hit = 0
    for _ in range(600):
        _, low, high = advice.median_interval(chance.lognormal(3.0, 0.2, count).tolist())
        assert low is not None
        assert high is not None
        hit += low <= np.exp(3.0) <= high
    assert least <= hit / 600 <= 0.99


def test_the_interval_of_a_ratio_covers_the_true_one() -> None:
    """Speeds 100 and 90: a machine takes 1.11 times as long."""
    chance = np.random.default_rng(3)
    hit = 0
    for _ in range(400):
        server, machine = chance.normal(100, 3, 7).tolist(), chance.normal(90, 3, 7).tolist()
        found = advice.times(metric(machine), metric(server))
        hit += found.low <= 100 / 90 <= found.high
    assert hit / 400 >= 0.92


def test_times_are_above_one_where_the_machine_is_slower_whatever_the_unit() -> None:
    slow, fast = [100.0] * 5, [200.0] * 5
    assert advice.times(metric(slow), metric(fast)).mid == 2.0
    late, soon = metric(fast, "network-round-trip"), metric(slow, "network-round-trip")
    assert advice.times(late, soon).mid == 2.0


def test_other_units_or_quantities_are_not_compared() -> None:
    with pytest.raises(Refused, match="cpu-one in events/s and disk-read in MB/s are not the same"):
        advice.times(metric([1.0] * 5), metric([1.0] * 5, "disk-read"))
    other = msgspec.structs.replace(metric([1.0] * 5), unit="events/min")
    with pytest.raises(Refused, match="not the same quantity"):
        advice.times(metric([1.0] * 5), other)


# --- into a comparison ----------------------------------------------------------------------------------------------


def measurement(*targets: MeasuredTarget) -> Measurement:
    status = MeasurementStatus(targets=targets, finished="2026-05-01T10:00:00Z")
    return Measurement(metadata=ObjectMeta(name="m1"), status=status)


def measured(name: str, speed: float, *, vm: bool = True, emulated: bool = False) -> MeasuredTarget:
    metrics = (metric([speed * f for f in (0.99, 1.0, 1.0, 1.01, 1.0)]),)
    return MeasuredTarget(
        target=name, server="hv1", substrate="vm" if vm else "server", emulated=emulated, metrics=metrics
    )


SERVER = measured("server/hv1", 100.0, vm=False)


def test_a_machine_against_its_own_server_is_an_overhead() -> None:
    found, remarks = advice.overheads(measurement(SERVER, measured("machine/a", 95.0)))
    assert set(found) == {"cpu"}
    assert found["cpu"].times.mid == pytest.approx(100 / 95)
    assert found["cpu"].origin == "measurement m1, cpu-one, machine/a, 2026-05-01"
    assert remarks == []


def test_several_machines_range_from_the_lowest_to_the_highest() -> None:
    found, _ = advice.overheads(measurement(SERVER, measured("machine/a", 95.0), measured("machine/b", 80.0)))
    assert found["cpu"].times.low < 100 / 94
    assert found["cpu"].times.high > 100 / 81
    assert found["cpu"].origin.startswith("measurement m1, cpu-one, machine/a, machine/b")


def test_figures_of_emulated_guests_are_refused() -> None:
    with pytest.raises(Refused, match=r"machine/a ran under software emulation \(TCG\).*never enter a comparison"):
        advice.overheads(measurement(SERVER, measured("machine/a", 5.0, emulated=True), measured("machine/b", 90.0)))


def test_a_machine_without_its_own_server_says_nothing() -> None:
    elsewhere = msgspec.structs.replace(measured("machine/a", 95.0), server="hv2")
    with pytest.raises(Refused, match="no machine was measured beside its own server"):
        advice.overheads(measurement(SERVER, elsewhere))


def test_too_few_undisturbed_samples_are_no_overhead_and_it_is_said() -> None:
    few = msgspec.structs.replace(measured("machine/a", 95.0), metrics=(metric([95.0, 96.0]),))
    found, remarks = advice.overheads(measurement(SERVER, few))
    assert found == {}
    assert remarks == [
        "machine/a: cpu-one has 2 undisturbed samples, an interval needs 5: measure again on a quieter server, with "
        "--repetitions 5 or more"
    ]
