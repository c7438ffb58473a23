"""A fleet's file: what is wrong in it is said with file, field and remedy, all at once; what is right survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_fleet import raw

from bedplate.advise import fleet
from bedplate.advise.fleet import FleetError

EXAMPLE = Path(__file__).parents[3] / "examples" / "fleet.yaml"


def said(found: Any) -> str:
    with pytest.raises(FleetError) as refused:
        fleet.read(found, "fleet.yaml")
    return str(refused.value)


def test_the_example_is_read_and_written_as_it_was() -> None:
    found = fleet.read(yaml.safe_load(EXAMPLE.read_text()), "example")
    assert sum(m.count for m in found.servers) == 40
    assert sum(1 for _ in found.workloads()) == 12
    assert fleet.read(fleet.write(found), "again") == found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prices__electricity": "0.2 USD/kWh"}, ["prices.electricity", "not in EUR", "all prices in one"]),
        ({"currency": ""}, ["currency", "missing"]),
        ({"prices__electricity": -1}, ["prices.electricity", "out of bounds"]),
        ({"operations__headroom": {"cloud": 1}}, ["operations.headroom"]),
        ({"operations__outages": {"power": 0.1}}, ["operations.outage", "how long"]),
        ({"operations__years": 0}, ["operations.years", "1 to 30"]),
        ({"operations__spares": -1}, ["operations.spares", "0 or more"]),
        ({"durations": {"boots": [1, 2]}}, ["durations", "boots", "did you mean"]),
        ({"durations": {"boot": [9, 2]}}, ["durations.boot", "lower one first"]),
        ({"servers": []}, ["servers", "at least one"]),
        ({"colour": "red"}, ["unknown field", "colour"]),
    ],
)
def test_what_is_wrong_is_named_with_its_field(changes: dict[str, Any], words: list[str]) -> None:
    text = said(raw(**changes))
    for word in words:
        assert word in text


def test_all_faults_are_told_at_once() -> None:
    found = raw()
    found["servers"][0]["memory"] = "128GB"
    found["servers"].append({**raw()["servers"][0], "count": -2})
    found["clusters"][0]["workloads"][0]["replicas"] = 0
    found["clusters"][1]["controlPlane"] = 2
    found["clusters"][1]["workloads"][0]["use"] = {"mean": 0.9, "peak": 0.5}
    lines = said(found).splitlines()
    assert [line for line in lines if "128GB" in line and "write 128Gi" in line]
    assert [line for line in lines if "big is there twice" in line]
    assert [line for line in lines if "servers[1].count: -2" in line]
    assert [line for line in lines if "clusters[0].workloads[0].replicas: 0" in line]
    assert [line for line in lines if "clusters[1].controlPlane: 2 keeps no quorum" in line]
    assert [line for line in lines if "the mean 0.9 is above the peak 0.5" in line]


def test_rules_that_contradict_each_other_are_refused() -> None:
    found = raw()
    found["clusters"][0]["workloads"][0] |= {"substrate": "vm", "kernel": "real-time"}
    assert "contradict each other" in said(found)


def test_an_empty_file_says_how_one_is_made() -> None:
    assert "bedplate fleet import" in said(None)
