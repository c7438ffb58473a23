"""Where workloads go: hard rules before money, and each with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from small_fleet import raw

from bedplate.advise import deciding, fleet
from bedplate.advise.deciding import Placed


def placed(alternative: str, *, tenants: list[str] | None = None, **workload: Any) -> Placed:
    found = raw()
    found["servers"][0]["devices"] = ["gpu"]
    found["clusters"][0]["workloads"][0] |= workload
    if tenants:
        found["clusters"][0]["tenants"] = tenants
    plan = deciding.plans(fleet.read(found, "fleet.yaml"))[alternative]
    return next(p for p in plan.placed if p.workload == "web")


@pytest.mark.parametrize(
    ("workload", "tenants", "rule", "substrate"),
    [
        ({"devices": ["gpu"]}, None, "device", "metal"),
        ({"kernel": "real-time"}, None, "kernel", "metal"),
        ({"kernel": "own"}, ["red", "blue"], "tenant", "vm"),
        ({"substrate": "metal"}, None, "yours", "metal"),
        ({"substrate": "vm"}, None, "yours", "vm"),
        ({"substrate": "vm", "devices": ["gpu"]}, None, "device", "metal"),
    ],
)
@pytest.mark.parametrize("alternative", deciding.ALTERNATIVES)
def test_hard_rules_hold_in_every_alternative(
    alternative: str, workload: dict[str, Any], tenants: list[str] | None, rule: str, substrate: str
) -> None:
    found = placed(alternative, tenants=tenants, **workload)
    assert (found.rule, found.substrate) == (rule, substrate)
    assert found.reason


def test_a_kernel_of_ones_own_is_no_rule_where_nobody_shares_the_cluster() -> None:
    assert placed("metal", kernel="own").substrate == "metal"


def test_the_mix_costs_no_more_than_either() -> None:
    found = fleet.read(raw(), "fleet.yaml")
    plans = deciding.plans(found)
    costs = {a: deciding.yearly(found, p.layout) for a, p in plans.items()}
    assert costs["mix"] <= min(costs["vm"], costs["metal"]) + 1e-6


def test_latency_sensitive_work_goes_to_metal_up_to_its_premium() -> None:
    def where(premium: float) -> Placed:
        found = raw(latencyPremium=premium)
        found["servers"][0]["count"] = 60
        found["clusters"][0]["workloads"][1] |= {"latencySensitive": True, "replicas": 14}
        plan = deciding.plans(fleet.read(found, "fleet.yaml"))["mix"]
        return next(p for p in plan.placed if p.workload == "db")

    assert where(0.0).substrate == "vm"
    assert where(1.0).substrate == "metal"
    assert "latency-sensitive" in where(1.0).reason
