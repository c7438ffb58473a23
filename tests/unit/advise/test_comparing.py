"""The comparison: every figure has a source, what cannot be told is undecided, and every claim has a verdict."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from small_fleet import profile, raw

from bedplate.advise import capabilities, claims, comparing, deciding, fleet, judges, runs, varying
from bedplate.advise.claims import Case
from bedplate.advise.comparing import Comparison
from bedplate.advise.deciding import ALTERNATIVES
from bedplate.advise.runs import Sweep
from bedplate.advise.samples import judge, of_draws, of_number, of_runs
from bedplate.advise.varying import BASE, VARIANT
from bedplate.advise.years import Run


def case(*, seeds: int = 3, **changes: Any) -> Case:
    found = profile(**changes)
    plans = deciding.plans(found)
    told: dict[str, list[Run]] = {}
    for a in ALTERNATIVES if seeds else ():
        sweep = Sweep(profile=found, layout=plans[a].layout, seeds=tuple(range(1, seeds + 1)), years=0.25)
        told[a] = sorted(runs.run(sweep), key=lambda r: r.seed)
    return Case(profile=found, plans=plans, runs=told, comparison=comparing.compare(found, plans, told))


@pytest.fixture(scope="module")
def simulated() -> Case:
    return case(operations__patches=8)


def test_thirteen_capabilities_each_figure_with_source_unit_and_how(simulated: Case) -> None:
    assert len(capabilities.CAPABILITIES) == 13
    assert {r.capability for r in simulated.comparison.rows} == set(capabilities.CAPABILITIES)
    for row in simulated.comparison.rows:
        for figure in row.cells.values():
            assert figure.source != "none"
            assert figure.unit
            assert figure.how
            if figure.source == "literature":
                assert figure.origin or "literature" in figure.how or row.name == "energy"


def test_computed_for_this_fleet_are_the_five_that_a_first_look_needs(simulated: Case) -> None:
    for name in ("silent", "cost", "used", "added", "share"):
        row = next(r for r in simulated.comparison.rows if r.name == name)
        assert {f.source for f in row.cells.values()} <= {"simulated", "computed", "yours"}
        assert set(row.cells) == set(ALTERNATIVES)


def test_without_runs_what_needs_them_is_not_known_and_the_rest_is() -> None:
    found = case(seeds=0).comparison
    rows = {r.name: r for r in found.rows}
    assert rows["silent"].cells == {}
    assert "runs" in rows["silent"].said
    assert rows["cost"].cells
    assert found.verdict.winner


def test_without_prices_cost_is_not_known_and_says_what_is_missing() -> None:
    found = _unpriced()
    row = next(r for r in found.rows if r.name == "cost")
    assert row.cells == {}
    assert "price" in row.said


def _unpriced() -> Comparison:
    found = raw(prices={}, currency="")
    del found["servers"][0]["price"]
    bare = fleet.read(found, "fleet.yaml")
    return comparing.compare(bare, deciding.plans(bare), {})


def test_within_the_noise_nobody_wins_and_the_runs_that_would_tell_are_named() -> None:
    chance = np.random.default_rng(3)
    a = (10 + chance.normal(0, 3, 8)).tolist()
    b = (10.5 + chance.normal(0, 3, 8)).tolist()
    told = judge({"vm": of_runs(a, "s", "x"), "metal": of_runs(b, "s", "x")}, "lower")
    assert told.winner == "undecided"
    assert "runs would tell" in told.said or "no difference" in told.said


def test_a_difference_that_every_run_shows_is_told() -> None:
    a = [10.0, 20.0, 30.0, 40.0]
    b = [11.0, 21.2, 30.9, 41.1]
    assert judge({"vm": of_runs(a, "s", "x"), "metal": of_runs(b, "s", "x")}, "lower").winner == "vm"
    assert judge({"vm": of_runs(a, "s", "x"), "metal": of_runs(b, "s", "x")}, "higher").winner == "metal"


def test_one_run_decides_nothing() -> None:
    told = judge({"vm": of_runs([1.0], "s", "x"), "metal": of_runs([2.0], "s", "x")}, "lower")
    assert told.winner == "undecided"
    assert "--runs" in told.said


def test_draws_decide_where_nineteen_of_twenty_agree() -> None:
    draws = np.linspace(0, 1, 100)
    vm = of_draws(draws, "EUR", "x")
    assert judge({"vm": vm, "metal": of_draws(draws + 0.01, "EUR", "x")}, "lower").winner == "vm"
    assert judge({"vm": vm, "metal": of_draws(draws[::-1], "EUR", "x")}, "lower").winner == "undecided"


def test_equal_numbers_are_alike() -> None:
    told = judge({a: of_number(5.0, "x", "y") for a in ALTERNATIVES}, "lower")
    assert told.winner == "equal"


def test_weights_decide_and_what_flips_it_does(simulated: Case) -> None:
    found = simulated.comparison.verdict
    heavy = profile(weights={"performance": 1000.0})
    again = comparing.compare(heavy, deciding.plans(heavy), simulated.runs)
    assert again.verdict.winner == "metal"
    if found.flips:
        assert any(word in found.flips[0] for word in ("VMs win", "metal wins", "mix wins"))


def test_a_broken_rule_in_a_run_is_shown_and_not_averaged_away(simulated: Case) -> None:
    bad = {a: list(r) for a, r in simulated.runs.items()}
    bad["vm"][0] = msgspec.structs.replace(bad["vm"][0], wrong=("rule 1 was broken",))
    found = comparing.compare(simulated.profile, simulated.plans, bad)
    assert any("rule 1 was broken" in said for said in found.faults)


# --- claims -------------------------------------------------------------------------------------------------------


def test_forty_claims_each_with_its_judge(simulated: Case) -> None:
    found = claims.judge(simulated, judges.JUDGES)
    assert len(found) == 40
    assert {v.id for v in found} == set(judges.JUDGES)
    assert all(v.because for v in found)
    by_id = {v.id: v for v in found}
    assert by_id["V10"].status == "holds"
    for name in ("V1", "V8", "V17"):
        assert by_id[name].status == "not answerable"


def test_without_runs_no_claim_on_failures_is_judged() -> None:
    found = {v.id: v for v in claims.judge(case(seeds=0), judges.JUDGES)}
    for name in ("S1", "S2", "S4", "V10", "V14"):
        assert found[name].status == "not answerable"


# --- what if ------------------------------------------------------------------------------------------------------


def test_before_and_after_meet_the_same_luck_so_that_no_change_is_no_difference(simulated: Case) -> None:
    one = (simulated.profile, simulated.plans["vm"])
    told = simulated.runs["vm"]
    found = varying.vary("nothing", "vm", {BASE: one, VARIANT: one}, {BASE: told, VARIANT: told})
    assert {c.verdict for c in found.changes} == {"equal"}
    assert all(c.difference.value == 0 for c in found.changes)
