"""Amounts as people give them: a number or a range, with a unit that is checked, drawn from by a share of one.

`5`, `[3, 5]`, `[3, 4, 9]` (low, likely, high), or as a text with its unit: `0.18 EUR/kWh`, `160 W`, `35 %`.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar, Self, cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(.*)")
_CURRENCY = re.compile(r"[A-Z]{3}")


class Amount:
    """A range with its likeliest value; a plain number where all three are equal. Values do not change.

    Args:
        currency: Of money that was given with it: `EUR`, `USD` ...
    """

    __slots__ = ("currency", "high", "low", "mid")

    unit: ClassVar[str] = ""
    money: ClassVar[bool] = False
    least: ClassVar[float] = 0.0
    most: ClassVar[float] = math.inf

    def __init__(self, low: float, mid: float, high: float, currency: str = "") -> None:
        self.low, self.mid, self.high, self.currency = low, mid, high, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amount) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.low!r}, {self.mid!r}, {self.high!r}, {self.currency!r})"

    def _key(self) -> tuple[str, float, float, float, str]:
        return type(self).__name__, self.low, self.mid, self.high, self.currency

    @classmethod
    def of(cls, low: float, high: float | None = None, mid: float | None = None) -> Self:
        """A number, a range, or a range with its likeliest value."""
        high = low if high is None else high
        return cls(low, (low + high) / 2 if mid is None else mid, high)

    @classmethod
    def read(cls, raw: object) -> Self:
        """Read what a user wrote.

        Raises:
            ValueError: no number, another unit, out of bounds, or a range that falls.
        """
        parts: list[Any] = list(cast(list[Any], raw)) if isinstance(raw, list | tuple) else [raw]
        if not 1 <= len(parts) <= 3:
            raise ValueError(f"{raw!r} is no amount; write a number, [low, high] or [low, likely, high]")
        read = [cls._number(part) for part in parts]
        currencies = {c for _, c in read if c}
        if len(currencies) > 1:
            raise ValueError(f"{raw!r} has two currencies; write all in one")
        values = [v for v, _ in read]
        if values != sorted(values):
            raise ValueError(f"{raw!r} falls; write the low end first")
        made = cls.of(values[0], values[-1], values[1] if len(values) == 3 else None)
        return cls(made.low, made.mid, made.high, next(iter(currencies), ""))

    @classmethod
    def _number(cls, raw: object) -> tuple[float, str]:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            value, unit = float(raw), ""
        else:
            match = _NUMBER.fullmatch(raw.strip()) if isinstance(raw, str) else None
            if match is None:
                raise ValueError(f"{raw!r} is no amount; write a number, as {cls._example()}")
            value, unit = float(match[1]), match[2].strip()
        currency = ""
        if unit and cls.money:
            currency, _, rest = unit.partition("/")
            unit = f"/{rest}" if rest else ""
            if not _CURRENCY.fullmatch(currency) or unit != cls.unit:
                raise ValueError(f"{raw!r} has another unit; write it as {cls._example()}")
        elif unit and unit != cls.unit:
            value = cls._converted(value, unit, raw)
        if not math.isfinite(value) or not cls.least <= value <= cls.most:
            bounds = f"from {cls.least:g}" + (f" to {cls.most:g}" if math.isfinite(cls.most) else "")
            raise ValueError(f"{raw!r} is out of bounds; write a number {bounds}")
        return value, currency

    @classmethod
    def _converted(cls, value: float, unit: str, raw: object) -> float:
        raise ValueError(f"{raw!r} has another unit; write it as {cls._example()}")

    @classmethod
    def _example(cls) -> str:
        return f"0.18 EUR{cls.unit}" if cls.money else f"5 {cls.unit}".strip()

    def write(self) -> object:
        """As it is read."""
        suffix = f" {self.currency}{self.unit}" if self.currency else ""

        def one(value: float) -> object:
            return f"{value:g}{suffix}" if suffix else (int(value) if value == int(value) else value)

        if self.low == self.high:
            return one(self.mid)
        if self.mid == (self.low + self.high) / 2:
            return [one(self.low), one(self.high)]
        return [one(self.low), one(self.mid), one(self.high)]

    def draw(self, share: Floats) -> Floats:
        """The value below which so much of the distribution lies: triangular; even where no likeliest is given.

        The same share gives the same place in the range, so that two alternatives meet the same luck.
        """
        span = self.high - self.low
        if span <= 0:
            return np.full_like(share, self.mid)
        peak = (self.mid - self.low) / span
        if peak == 0.5:  # no likeliest was given
            return self.low + span * share
        rising = self.low + np.sqrt(share * span * (self.mid - self.low))
        falling = self.high - np.sqrt((1 - share) * span * (self.high - self.mid))
        return np.where(share < peak, rising, falling)

    def __str__(self) -> str:
        ends = f"{self.low:g}" if self.low == self.high else f"{self.low:g}–{self.high:g}"
        return f"{ends} {self.currency}{self.unit}".rstrip()


class Watts(Amount):
    """Electrical power."""

    unit = "W"

    @classmethod
    def _converted(cls, value: float, unit: str, raw: object) -> float:
        if unit == "kW":
            return value * 1000.0
        return super()._converted(value, unit, raw)


class Share(Amount):
    """A part of the whole, from 0 to 1; `35 %` is 0.35."""

    unit = ""
    most = 1.0

    @classmethod
    def _number(cls, raw: object) -> tuple[float, str]:
        match = _NUMBER.fullmatch(raw.strip()) if isinstance(raw, str) else None
        if match is not None and match[2].strip() == "%":
            return super()._number(float(match[1]) / 100.0)
        return super()._number(raw)

    @classmethod
    def _example(cls) -> str:
        return "0.35 or 35 %"


class Rate(Share):
    """A change by year or a rate of interest; it may fall."""

    least = -0.9
    most = 10.0


class Count(Amount):
    """So many a year, or so many times."""


class Factor(Amount):
    """A ratio of at least one, such as a PUE."""

    least = 1.0
    most = 10.0


class Ratio(Amount):
    """So many times as much, as it was measured: noise may take it below one."""

    least = 0.01
    most = 1000.0


class Hours(Amount):
    """Hours of work, or of waiting."""

    unit = "h"

    @classmethod
    def _converted(cls, value: float, unit: str, raw: object) -> float:
        sizes = {"min": 1 / 60, "d": 24.0}
        if unit in sizes:
            return value * sizes[unit]
        return super()._converted(value, unit, raw)


class Years(Amount):
    """A span of years."""

    unit = "years"
    least = 0.1
    most = 50.0


class Carbon(Amount):
    """kg of CO2 equivalent."""

    unit = "kg"


class CarbonPerKwh(Amount):
    """The grid's kg of CO2 equivalent for a kWh."""

    unit = "kg/kWh"


class Money(Amount):
    """A price."""

    money = True


class MoneyPerKwh(Money):
    """What electricity costs."""

    unit = "/kWh"


class MoneyPerHour(Money):
    """What an hour of staff costs."""

    unit = "/h"


class MoneyPerYear(Money):
    """What something costs each year."""

    unit = "/year"


class MoneyPerCoreYear(Money):
    """A licence for a physical core and a year."""

    unit = "/core-year"


class MoneyPerUnitYear(Money):
    """A rack unit's space for a year."""

    unit = "/U-year"
