"""Cost and carbon: the formulas by hand, what has no price, and that a dearer licence never makes VMs cheaper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import profile, raw

from bedplate.advise import cost, deciding, fleet
from bedplate.advise.cost import Events
from bedplate.advise.draws import Draws, Middle
from bedplate.advise.fleet import Profile

NONE = Events(failures=0.0, patches=0.0)


def test_energy_and_servers_are_as_one_reckons_by_hand() -> None:
    found = profile(
        prices={"electricity": 0.2, "pue": 1.5, "life": 5}, operations={"spares": 0, "headroom": {"metal": 0}}
    )
    layout = deciding.plans(found)["vm"].layout
    priced = cost.of(found, layout, NONE, Middle())
    count = layout.count
    used = sum(g.used for g in layout.groups) * 1.05  # what virtualisation takes
    watts = count * (160 + (770 - 160) * used / (count * 32))
    assert priced.items["energy"][0] == pytest.approx(watts * 1.5 * 8_766 / 1000 * 0.2)
    assert priced.items["servers"][0] == pytest.approx(count * 10_000 / 5, rel=1e-4)


def test_spare_bare_servers_draw_no_power() -> None:
    found = profile()
    layout = deciding.plans(found)["metal"].layout
    more = profile(operations__spares=2)
    again = deciding.plans(more)["metal"].layout
    virtual = cost.kilowatt_hours(found, layout, Middle())[0]
    assert again.metal_spares["big"] == layout.metal_spares["big"] + 1
    grown = cost.kilowatt_hours(more, again, Middle())[0]
    extra = again.hypervisors.get("big", 0) - layout.hypervisors.get("big", 0)
    assert grown - virtual == pytest.approx(extra * 160 * 1.58 * 8.766, rel=0.05)


def test_a_suite_counts_sixteen_cores_a_cpu_and_seventy_two_in_all() -> None:
    found = raw(clusters=raw()["clusters"][:1])
    found["servers"][0] |= {"cores": 8, "sockets": 2}
    small = fleet.read(found, "fleet.yaml")
    layout = deciding.plans(small)["vm"].layout
    assert cost.licensed_cores(small, layout) == max(72, 32 * layout.count)


def test_what_has_no_price_is_left_out_and_said() -> None:
    found = raw(prices={})
    del found["servers"][0]["price"]
    found["currency"] = ""
    bare = fleet.read(found, "fleet.yaml")
    priced = cost.of(bare, deciding.plans(bare)["vm"].layout, NONE, Middle())
    assert priced.total[0] == 0.0
    text = "; ".join(priced.missing)
    assert "big has no price" in text
    assert "prices.electricity" in text


@given(low=st.floats(0, 2_000), more=st.floats(0, 2_000))
def test_a_dearer_licence_never_makes_vms_cheaper(low: float, more: float) -> None:
    def total(price: float, alternative: str) -> Any:
        found = profile(prices__hypervisor=price)
        return cost.of(found, deciding.plans(found)[alternative].layout, NONE, Draws(50)).total

    assert np.all(total(low + more, "vm") >= total(low, "vm") - 1e-6)


def test_at_the_break_even_both_cost_the_same() -> None:
    found = profile()
    plans = deciding.plans(found)
    sides = [(plans[a].layout, cost.expected_events(found, plans[a].layout)) for a in ("vm", "metal")]
    even = cost.licence_break_even(found, sides[0], sides[1])
    assert even is not None
    priced = profile(prices__hypervisor=even)
    vm, metal = (cost.of(priced, *side, Middle()).total[0] for side in sides)
    assert vm == pytest.approx(metal)


def test_sensitivities_name_what_was_given_as_a_range() -> None:
    found = profile()
    plans = deciding.plans(found)
    sides = [(plans[a].layout, cost.expected_events(found, plans[a].layout)) for a in ("vm", "metal")]
    names = [s.name for s in cost.sensitivities(found, sides[0], sides[1])]
    assert names[0] == "price of big"
    assert "electricity" in names
    assert "wage" not in names  # it is a number, no range


def test_growth_and_interest_make_one_equal_amount() -> None:
    def total(**operations: Any) -> float:
        found: Profile = profile(operations=operations, prices={"electricity": 0.2})
        return float(cost.of(found, deciding.plans(found)["vm"].layout, NONE, Middle()).items["energy"][0])

    flat, grown = total(years=3), total(years=3, growth=0.1)
    assert grown == pytest.approx(flat * (1 + 1.1 + 1.21) / 3)
