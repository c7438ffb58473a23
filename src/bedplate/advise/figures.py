"""Figures: a value with its range, its unit, where it is from, and how one gets it again."""

from __future__ import annotations

from typing import Literal

import msgspec

Source = Literal["measured", "simulated", "computed", "literature", "yours", "none"]
"""`computed`: follows from what the user gave by a formula; `none`: nobody knows it yet."""


class Figure(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One number. `low` and `high`: 5 % and 95 % of the draws, or a confidence interval, as `how` says."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    source: Source = "computed"
    how: str = ""
    """The formula, the count of runs, the command: enough to get the number again."""
    origin: str = ""
    """For literature: who published it."""

    @property
    def text(self) -> str:
        """For people: three digits, the range behind."""
        middle = number(self.value)
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None or self.high is None:
            return f"{middle}{unit}"
        low, high = number(self.low), number(self.high)
        return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low}–{high})"


def number(value: float) -> str:
    """Three digits, thousands apart: `1,230,000`, `45.6`, `0.00123`; no smaller than a hundred-thousandth."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        digits = len(str(int(size)))
        return f"{round(value, 3 - digits):,.0f}"
    if size >= 0.001:
        return f"{value:.3g}"
    return f"{value:.5f}".rstrip("0") if size >= 0.00001 else "0.00001" if value > 0 else "-0.00001"
