"""Calibration: what a running fleet took replaces the simulated world's own durations, and its twin takes as long."""

from __future__ import annotations

from typing import Any

import told_runs
from small_fleet import profile

from bedplate.advise import calibrating, comparing, deciding, fleet, runs
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
