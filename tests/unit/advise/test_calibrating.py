"""Calibration: what a running fleet took replaces what others published and the simulated world's own durations."""

from __future__ import annotations

from typing import Any

import pytest
import told_runs
from small_fleet import profile

from bedplate.advise import calibrating, comparing, deciding, fleet, runs
from bedplate.advise.fleet import FleetError, Profile
from bedplate.advise.measuring import Measured, Times
from bedplate.advise.report import answer
from bedplate.advise.runs import Sweep


def told(*spans: tuple[str, float], complete: bool = True) -> dict[str, Any]:
    return {"complete": complete, "spans": [{"what": what, "seconds": seconds} for what, seconds in spans]}


SEEN = [
    told(("guest boots", 12.0), ("kubeadm init", 104.5), ("kubeadm join", 27.0), ("node becomes Ready", 6.0)),
    told(("guest boots (try 2)", 14.0), ("kubeadm join", 31.25), ("PullImage", 7.0)),
    told(("kubeadm join", 900.0), complete=False),
]


def test_each_duration_is_the_range_that_was_seen() -> None:
    found = calibrating.taken(SEEN)
    assert {n: t.range for n, t in found.items()} == {
        "boot": (12.0, 14.0),
        "init": (104.5, 104.5),
        "join": (27.0, 31.25),
        "kubelet": (6.0, 6.0),
    }


def test_the_files_own_durations_stay_and_it_is_a_fleet_still() -> None:
    base = profile(durations={"write": [40, 50], "boot": [1, 2]})
    found = calibrating.calibrated(base, calibrating.taken(SEEN), emulated=True)
    again = fleet.read(fleet.write(found), "again")
    assert again.durations["write"] == (40, 50)
    assert again.durations["boot"] == (12.0, 14.0)
    assert again.emulated


def test_a_calibrated_twin_takes_as_long_as_was_seen() -> None:
    """A node more on VMs boots, joins and becomes Ready: with exact durations, it takes their sum and little more."""
    base = profile(operations={"patches": 0, "failures": 0})
    exact = calibrating.taken([told(("guest boots", 60.0), ("kubeadm join", 200.0), ("node becomes Ready", 40.0))])
    twin = calibrating.calibrated(base, exact, emulated=False)
    sweep = Sweep(profile=twin, layout=deciding.plans(twin)["vm"].layout, seeds=(1, 2), years=0.01)
    for run in runs.run(sweep):
        assert 300.0 <= run.added["vm"] <= 330.0


def test_a_report_says_that_guests_were_emulated() -> None:
    found = calibrating.calibrated(profile(), calibrating.taken(SEEN), emulated=True)
    plans = deciding.plans(found)
    shown = str(answer.warnings(comparing.compare(found, plans, told_runs.told(found, plans))))
    assert "under software emulation, which is not what servers take" in shown


# --- overheads that were measured -----------------------------------------------------------------------------------

MEASURED = {
    "cpu": Measured(Times(1.02, 1.04, 1.06), "measurement m1, cpu-one, machine/a, 2026-05-01"),
    "tail": Measured(Times(1.5, 1.8, 2.4), "measurement m1, network-round-trip, machine/a, 2026-05-01"),
}


def compared(p: Profile) -> dict[str, comparing.Row]:
    plans = deciding.plans(p)
    return {r.name: r for r in comparing.compare(p, plans, {}).rows}


def test_measured_overheads_stand_where_published_figures_stood() -> None:
    before, after = compared(profile()), compared(calibrating.with_overheads(profile(), MEASURED))
    vm = after["cpu"].cells["vm"]
    assert before["cpu"].cells["vm"].source == "literature"
    assert (vm.source, vm.value, vm.low, vm.high) == ("measured", 1.04, 1.02, 1.06)
    assert vm.origin == MEASURED["cpu"].origin
    assert before["tail"].title == "network latency, at most"
    assert after["tail"].title == "network latency"
    assert after["tail"].cells["vm"].value == 1.8
    assert after["disk"].cells["vm"].source == "literature"
    assert after["disk"].title.endswith(", at most")


def test_a_measured_difference_that_may_be_none_is_no_winner() -> None:
    even = {"cpu": Measured(Times(0.98, 1.015, 1.05), "m")}
    assert compared(calibrating.with_overheads(profile(), even))["cpu"].winner == "undecided"
    sure = {"cpu": Measured(Times(1.02, 1.03, 1.05), "m")}
    assert compared(calibrating.with_overheads(profile(), sure))["cpu"].winner == "metal"


def test_a_fleets_file_with_overheads_is_read_as_it_was_written() -> None:
    found = calibrating.with_overheads(profile(), MEASURED)
    assert fleet.read(fleet.write(found), "again") == found
    kept = calibrating.with_overheads(found, {"disk": Measured(Times(1.0, 1.1, 1.2), "m2")})
    assert set(kept.overheads) == {"cpu", "tail", "disk"}


def test_measured_cpu_overhead_goes_into_energy_too() -> None:
    dear = calibrating.with_overheads(profile(), {"cpu": Measured(Times(1.5, 1.5, 1.5), "m")})
    assert compared(dear)["energy"].cells["vm"].value > compared(profile())["energy"].cells["vm"].value


def test_faults_of_overheads_name_the_field() -> None:
    with pytest.raises(FleetError, match=r"overheads: there is no cpus; did you mean .*cpu"):
        profile(overheads={"cpus": {"times": 1.1, "origin": "m"}})
    with pytest.raises(FleetError, match=r"overheads.cpu.origin: it is empty"):
        profile(overheads={"cpu": {"times": 1.1, "origin": ""}})
    with pytest.raises(FleetError, match="out of bounds"):
        profile(overheads={"cpu": {"times": -1, "origin": "m"}})
    with pytest.raises(FleetError, match="another unit"):
        profile(overheads={"cpu": {"times": "1.1 s", "origin": "m"}})
