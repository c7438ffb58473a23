"""The rows about where a cluster's time went."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench import critical_path

TOLD = {
    "object": "cluster/demo",
    "seconds": 100.0,
    "neither": 2.5,
    "byWork": {"guest boot": 20.0, "kubeadm": 77.5, "image and disk": 0.0, "Bedplate": 2.5},
}


def test_goals_are_met_or_not() -> None:
    own, whole = critical_path.figures(TOLD, {"seconds": 95.0})
    assert (own.met, own.measured) == (True, "2.50 s")
    assert "guest boot 20.00 s" in own.reference
    assert "image" not in own.reference
    assert (whole.met, round(whole.ratio, 2)) == (True, 1.05)
    slow = dict(TOLD, neither=3.1, seconds=120.0)
    assert [f.met for f in critical_path.figures(slow, {"seconds": 95.0})] == [False, False]
    assert len(list(critical_path.figures(TOLD, None))) == 1
