"""Days of load: pools follow their workloads' use, denser packing never serves more, balancing cools what is hot."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import RAW, profile

from bedplate.advise import comparing, days, deciding, judges, packing
from bedplate.advise.claims import Case
from bedplate.advise.days import Days, Load
from bedplate.advise.deciding import where_of
from bedplate.advise.fleet import Profile
from bedplate.advise.packing import Group
from bedplate.sim.load import DAY


def busy(**changes: Any) -> Profile:
    """CPUs, not memory, decide how many servers are needed."""
    found = profile(**changes)
    clusters = tuple(
        msgspec.structs.replace(
            c,
            workloads=tuple(
                msgspec.structs.replace(w, replicas=8 * w.replicas, memory="512Mi", stateful=False, volume=False)
                for w in c.workloads
            ),
        )
        for c in found.clusters
    )
    return msgspec.structs.replace(found, clusters=clusters)


def told(found: Profile, level: float, balance: Any = "manual") -> Days:
    packed = days.overcommitted(found, level)
    return days.tell(packed, packing.lay_out(packed, where_of(deciding.plans(packed)["vm"])), balance=balance, days=1)


@given(st.floats(0.01, 50), st.floats(1, 4), st.integers(1, 20), st.integers(1, 32))
def test_a_pools_curve_has_its_workloads_mean_and_peak(used: float, more: float, nodes: int, cpu: int) -> None:
    group = Group(
        cluster="c", substrate="vm", workloads=(), nodes=nodes, cpu=cpu, memory_mib=1, used=used, peak=used * more
    )
    curve = days.curve_of(group)
    hours = [curve.at(h * 3600.0) * nodes * cpu for h in range(24)]
    assert max(hours) == pytest.approx(group.peak)
    assert curve.at(days.PEAK / 24 * DAY) == pytest.approx(max(hours) / (nodes * cpu))
    assert min(hours) >= -1e-9
    if more <= 2:  # a cosine's mean is the middle between its ends
        assert math.fsum(hours) / 24 == pytest.approx(used)


def test_the_denser_it_is_packed_the_hotter_it_gets() -> None:
    found = busy()
    sparse, dense = told(found, 1.0), told(found, 8.0)
    assert dense.servers < sparse.servers
    assert sparse.unserved == 0.0
    assert dense.unserved > sparse.unserved
    assert dense.hot > sparse.hot
    assert told(found, 8.0) == dense, "the same is told again"


def test_balancing_cools_what_is_hot() -> None:
    found = busy()
    left, moved = told(found, 2.0), told(found, 2.0, "auto")
    assert left.moves == 0
    assert moved.moves > 0
    assert moved.hot <= left.hot


def case(load: Load | None) -> Case:
    found = profile()
    plans = deciding.plans(found)
    return Case(profile=found, plans=plans, runs={}, comparison=comparing.compare(found, plans, {}), load=load)


def seen(servers: int, hot: float, unserved: float = 0.0, moves: int = 0) -> Days:
    return Days(servers=servers, hot=hot, unserved=unserved, moves=moves)


@pytest.mark.parametrize(
    ("claim", "levels", "balance", "status"),
    [
        ("S7", {1.0: seen(8, 0.0), 4.0: seen(4, 0.3, 0.02)}, {}, "holds"),
        ("S7", {1.0: seen(8, 0.0), 4.0: seen(4, 0.001)}, {}, "does not hold"),
        ("S7", {1.0: seen(8, 0.2), 4.0: seen(8, 0.2)}, {}, "does not hold"),
        ("V12", {}, {"manual": seen(8, 0.1), "auto": seen(8, 0.01, moves=40)}, "holds"),
        ("V12", {}, {"manual": seen(8, 0.1), "auto": seen(8, 0.09, moves=40)}, "does not hold"),
        ("V12", {}, {"manual": seen(8, 0.001), "auto": seen(8, 0.0)}, "does not hold"),
    ],
)
def test_claims_on_load_are_judged_by_what_was_seen(
    claim: str, levels: dict[float, Days], balance: dict[str, Days], status: str
) -> None:
    said = judges.JUDGES[claim](case(Load(by_overcommit=levels, by_balance=balance)))
    assert said.status == status
    assert all(f.source == "simulated" and f.unit == "%" and f.how for f in said.figures)
    assert judges.JUDGES[claim](case(None)).status == "not answerable"


def test_what_is_kept_is_told_anew_when_anything_that_decides_it_changes() -> None:
    def digest(**changes: Any) -> str:
        found = profile(**changes)
        return days.digest(found, deciding.plans(found)["vm"].layout)

    base = digest()
    assert digest() == base
    assert digest(prices__staff=90) == base, "a price decides no load"
    assert digest(operations__cpuOvercommit=2.0) != base
    idle = [{**c, "workloads": [{**w, "use": {"mean": 0.01, "peak": 0.02}} for w in c["workloads"]]}
            for c in RAW["clusters"]]  # fmt: skip
    assert digest(clusters=idle) != base
