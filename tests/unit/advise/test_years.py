"""Simulated years: the same luck for all, what patches and failures do to pods, and runs that are kept and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from small_fleet import profile

from bedplate.advise import capabilities, deciding, runs, trouble
from bedplate.advise.fleet import Profile
from bedplate.advise.runs import Kept, Sweep
from bedplate.advise.years import Run


def sweep(alternative: str, *, seeds: tuple[int, ...] = (1, 2), years: float = 0.5, **changes: Any) -> Sweep:
    found = profile(**changes)
    return Sweep(profile=found, layout=deciding.plans(found)[alternative].layout, seeds=seeds, years=years)


def told(what: Sweep, **more: Any) -> list[Run]:
    return sorted(runs.run(what, **more), key=lambda r: r.seed)


@pytest.fixture(scope="module")
def both() -> dict[str, list[Run]]:
    return {a: told(sweep(a)) for a in ("vm", "metal")}


def test_nothing_is_broken_and_all_is_well_at_the_end(both: dict[str, list[Run]]) -> None:
    for found in both.values():
        for run in found:
            assert run.wrong == ()
            assert run.ready


def test_the_same_servers_fail_at_the_same_moments_whatever_runs_on_them(both: dict[str, list[Run]]) -> None:
    for vm, metal in zip(both["vm"], both["metal"], strict=True):
        few = {s.server for s in vm.struck} | set(_names(vm))
        shared = [(round(s.at), s.server) for s in metal.struck if s.server in few]
        assert [(round(s.at), s.server) for s in vm.struck] == [x for x in shared if x[1] in _names(vm)]


def _names(run: Run) -> set[str]:
    """Servers of the smaller layout."""
    return {p.server for p in run.patched} | {s.server for s in run.struck}


def test_patches_move_vms_live_and_drain_metal(both: dict[str, list[Run]]) -> None:
    assert all(p.interrupted == 0 for r in both["vm"] for p in r.patched)
    metal = [p for r in both["metal"] for p in r.patched if p.bare]
    assert sum(p.interrupted for p in metal) > 0
    assert capabilities.silent_minutes(both["metal"][0]) > capabilities.silent_minutes(both["vm"][0])


def test_a_failure_is_felt_by_the_pods_of_that_server_and_mended(both: dict[str, list[Run]]) -> None:
    struck = [s for r in both["vm"] for s in r.struck if s.pods]
    assert struck
    for s in struck:
        assert 0 < s.share <= 1
        assert 0 < s.recovered < 300


def test_a_run_is_the_same_whoever_tells_it_and_in_whatever_order() -> None:
    what = sweep("mix", seeds=(3, 1, 2), years=0.1)
    together = told(what, jobs=2)
    alone = [told(msgspec.structs.replace(what, seeds=(seed,)), jobs=1)[0] for seed in (1, 2, 3)]
    assert together == alone


def test_what_was_run_is_kept_and_an_interrupted_sweep_goes_on(tmp_path: Path) -> None:
    what = sweep("vm", seeds=(1, 2), years=0.1)
    first = next(iter(runs.run(what, jobs=1, kept=Kept(tmp_path))))
    again = Kept(tmp_path)
    assert again.get(what.digest, first.seed, Run) == first
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
    assert len(files) >= 1
    whole = told(what, kept=again)
    assert [r.seed for r in whole] == [1, 2]
    assert all(p.stat().st_mtime_ns == at for p, at in files.items())  # what was there was not told again


def test_half_a_kept_file_is_told_again(tmp_path: Path) -> None:
    what = sweep("vm", seeds=(1,), years=0.05)
    kept = Kept(tmp_path)
    whole = told(what, kept=kept)
    path = next(tmp_path.rglob("*.json"))
    path.write_bytes(path.read_bytes()[:40])
    assert told(what, kept=kept) == whole


def test_what_decides_a_run_is_part_of_its_key_and_prices_are_not() -> None:
    base = sweep("vm")
    assert sweep("vm", prices__electricity=9).digest == base.digest
    assert sweep("vm", operations__patches=3).digest != base.digest
    assert sweep("vm", operations__failures=2.0).digest != base.digest
    assert sweep("vm", durations={"boot": [5, 6]}).digest != base.digest
    assert sweep("vm", years=2.0).digest != base.digest


def test_failures_come_at_their_rate() -> None:
    found = profile(operations={"failures": 0.5, "repair": 1})
    servers = [(f"s{n}", found.servers[0]) for n in range(400)]
    count = len(trouble.failures(found, servers, seed=1, years=5.0))
    expected = 400 * 0.5 * 5
    assert abs(count - expected) < 4 * np.sqrt(expected)


def test_without_a_rate_of_ones_own_parts_decide() -> None:
    found = profile(operations={})
    assert trouble.failures_a_year(found, found.servers[0]) == pytest.approx(0.024 + 16 * 0.001 + 2 * 0.002)


def test_more_spares_never_lower_availability() -> None:
    """Over the same failures, on metal, where a dead server's node waits for a spare or for the repair."""

    def silent(spares: int) -> float:
        found: Profile = profile(
            operations={"failures": 6.0, "patches": 0, "repair": "3 d", "spares": spares, "headroom": {"metal": 0}}
        )
        what = Sweep(profile=found, layout=deciding.plans(found)["metal"].layout, seeds=tuple(range(1, 5)), years=0.5)
        return sum(capabilities.silent_minutes(r) for r in told(what))

    without, one, two = silent(0), silent(1), silent(2)
    assert without > one >= two


def test_a_power_feed_that_fails_takes_its_servers() -> None:
    found = sweep("vm", seeds=(1,), years=0.2, operations__outages={"power": 20}, operations__outage="1 h")
    run = told(found)[0]
    assert run.outages > 0
    assert run.wrong == ()
    assert sum(d.interruptions for d in run.downtimes) > 0
