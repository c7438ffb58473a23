"""What-ifs: edits by names, of numbers with or without units, and what leads nowhere."""

from __future__ import annotations

from typing import Any

import pytest
from small_fleet import raw

from bedplate.advise import fleet, whatif
from bedplate.advise.fleet import FleetError


def changed(edits: dict[str, Any], of: dict[str, Any] | None = None) -> fleet.Profile:
    what = whatif.read(edits, "what-if.yaml")
    return fleet.read(whatif.edited(of or raw(), what, "what-if.yaml"), "fleet.yaml")


def test_paths_go_by_names_and_the_fleet_stays_as_it_was() -> None:
    base = raw()
    found = changed(
        {
            "set": {"clusters.shop.workloads.web.substrate": "metal", "prices.hypervisor": "135 EUR/core-year"},
            "multiply": {"prices.electricity": 2, "prices.hypervisor": 2},
            "add": {"servers.big.count": 4},
        },
        base,
    )
    assert base == raw()
    assert found.servers[0].count == 16
    assert found.clusters[0].workloads[0].substrate == "metal"
    assert found.prices.hypervisor is not None
    assert found.prices.hypervisor.mid == 270
    assert found.prices.electricity is not None
    assert (found.prices.electricity.low, found.prices.electricity.high) == (0.2, 0.6)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"set": {"clusters.shpo.workloads.web.substrate": "vm"}}, ["clusters.shpo", 'did you mean "shop"']),
        ({"multiply": {"prices.hypervisor": 2}}, ["prices.hypervisor", "give it there first"]),
        ({"multiply": {"servers.big.name": 2}}, ["servers.big.name", "is no number"]),
        ({"add": {"servers.count": 2}}, ["servers.count", "servers.r650.count"]),
        ({"set": {"name.first.x": 1}}, ["there is nothing below name"]),
        ({}, ["changes nothing"]),
        ({"sett": {}}, ["unknown field", 'did you mean "set"']),
    ],
)
def test_what_leads_nowhere_is_told_with_its_path(edits: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FleetError) as refused:
        changed(edits)
    for word in words:
        assert word in str(refused.value)


def test_the_changed_fleet_is_checked_as_any_other() -> None:
    with pytest.raises(FleetError, match="out of bounds"):
        changed({"set": {"prices.electricity": -3}})
