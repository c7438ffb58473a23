"""Amounts: what is read, what is refused in words, and how they are drawn from."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.advise.amounts import Amount, Factor, Hours, MoneyPerCoreYear, MoneyPerKwh, Rate, Share, Watts
from bedplate.advise.draws import Draws, bootstrap


@pytest.mark.parametrize(
    ("type_", "raw", "ends"),
    [
        (Watts, 160, (160, 160, 160)),
        (Watts, "0.77 kW", (770, 770, 770)),
        (Watts, [100, 300], (100, 200, 300)),
        (Hours, ["30 min", "2 h", "1 d"], (0.5, 2, 24)),
        (Share, "35 %", (0.35, 0.35, 0.35)),
        (Rate, -0.02, (-0.02, -0.02, -0.02)),
        (MoneyPerKwh, "0.18 EUR/kWh", (0.18, 0.18, 0.18)),
    ],
)
def test_numbers_ranges_and_units_are_read(type_: type[Amount], raw: object, ends: tuple[float, ...]) -> None:
    found = type_.read(raw)
    assert (found.low, found.mid, found.high) == pytest.approx(ends)
    assert type_.read(found.write()) == found


@pytest.mark.parametrize(
    ("type_", "raw", "said"),
    [
        (Watts, "160 hp", "write it as 5 W"),
        (MoneyPerKwh, "18 ct/kWh", "0.18 EUR/kWh"),
        (MoneyPerKwh, "0.18 EUR", "0.18 EUR/kWh"),
        (MoneyPerCoreYear, -5, "out of bounds"),
        (Share, "140 %", "out of bounds"),
        (Factor, 0.5, "from 1 to 10"),
        (Hours, [4, 1], "write the low end first"),
        (Hours, [1, 2, 3, 4], "[low, likely, high]"),
        (MoneyPerKwh, ["0.1 EUR/kWh", "0.2 USD/kWh"], "two currencies"),
        (Watts, True, "is no amount"),
        (Watts, "many", "is no amount"),
        (Watts, float("nan"), "out of bounds"),
    ],
)
def test_what_is_no_such_amount_is_refused_with_the_remedy(type_: type[Amount], raw: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        type_.read(raw)


@given(
    ends=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted),
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=20).map(sorted),
)
def test_draws_stay_in_the_range_and_rise_with_the_share(ends: list[float], shares: list[float]) -> None:
    amount = Amount(ends[0], ends[1], ends[2])
    drawn = amount.draw(np.array(shares))
    slack = 1e-9 * (1 + ends[2])
    assert np.all(drawn >= ends[0] - slack)
    assert np.all(drawn <= ends[2] + slack)
    assert np.all(np.diff(drawn) >= -slack)


def test_one_quantity_is_drawn_alike_for_everybody_and_two_are_not() -> None:
    amount = Amount(0.0, 0.5, 1.0)
    assert np.array_equal(Draws(100)("price", amount), Draws(100)("price", amount))
    assert not np.array_equal(Draws(100)("price", amount), Draws(100)("wage", amount))


def test_intervals_cover_at_their_rate() -> None:
    """Of 95 % intervals of the mean of 20 runs, about 19 of 20 hold the true mean (the bootstrap: a few less)."""
    chance = np.random.default_rng(7)
    held = 0
    for n in range(400):
        _, low, high = bootstrap(chance.exponential(3.0, size=20), draws=800, seed=n)
        held += low <= 3.0 <= high
    assert 0.86 <= held / 400 <= 0.98


def test_one_run_has_no_interval() -> None:
    _, low, high = bootstrap(np.array([4.0]))
    assert low == float("-inf")
    assert high == float("inf")
