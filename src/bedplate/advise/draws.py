"""Chance by name: every alternative meets the same draw of the same quantity. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from bedplate.advise.amounts import Amount, Floats

Value = Callable[[str, Amount], Floats]
"""Gives an amount's values, by the quantity's name."""


class Draws:
    """So many draws of each quantity.

    Args:
        count: How many.
        seed: The same seed gives the same draws.
    """

    def __init__(self, count: int = 4000, seed: int = 1) -> None:
        self._count = count
        self._seed = seed
        self._shares: dict[str, Floats] = {}

    def __call__(self, name: str, amount: Amount) -> Floats:
        """Draws of the quantity of that name."""
        share = self._shares.get(name)
        if share is None:
            chance = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
            share = self._shares[name] = chance.random(self._count)
        return amount.draw(share)


class Middle:
    """Every quantity at its likeliest value, but for one that is held at an end of its range.

    Args:
        name: The one; "" for none.
        end: `low` or `high`.
    """

    def __init__(self, name: str = "", end: str = "") -> None:
        self._name = name
        self._end = end
        self.asked: dict[str, Amount] = {}

    def __call__(self, name: str, amount: Amount) -> Floats:
        """One value."""
        self.asked[name] = amount
        value = amount.mid if name != self._name else amount.low if self._end == "low" else amount.high
        return np.array([value])


def interval(draws: Floats) -> tuple[float, float, float]:
    """Middle, 5 % and 95 %."""
    low, middle, high = np.percentile(draws, [5, 50, 95]).tolist()
    return middle, low, high


def bootstrap(values: Floats, *, draws: int = 4000, seed: int = 1) -> tuple[float, float, float]:
    """The mean with its 95 % interval, by resampling (percentile bootstrap, Efron 1979); alone, it has no interval."""
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else float("nan")
        return mean, float("-inf"), float("inf")
    chance = np.random.default_rng(seed)
    means = values[chance.integers(0, len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return float(values.mean()), low, high


def runs_needed(differences: Floats) -> int:
    """Runs that would tell a difference of this size from chance, at 95 % (normal approximation): (1.96 s / d)^2."""
    if len(differences) < 2:
        return 2
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0:
        return len(differences)
    return int(np.ceil((1.96 * deviation / mean) ** 2)) if mean else 10**6
