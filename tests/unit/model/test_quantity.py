"""Sizes as people read them."""

from __future__ import annotations

import pytest

from bedplate.model.quantity import parse, rough_mib


@pytest.mark.parametrize(
    ("mib", "text"),
    [
        (0, "0Mi"),
        (7, "7Mi"),
        (519, "510Mi"),
        (1023, "1000Mi"),
        (1024, "1Gi"),
        (9_999, "9.7Gi"),
        (10_240, "10Gi"),
        (123_456, "120Gi"),
        (1_300_000, "1200Gi"),
    ],
)
def test_free_space_has_two_significant_digits_rounded_down(mib: int, text: str) -> None:
    assert rough_mib(mib) == text
    assert parse(text) <= mib * 2**20
