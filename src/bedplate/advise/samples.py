"""What was found for one alternative: values that belong together by run or draw with another alternative's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from bedplate.advise.amounts import Floats
from bedplate.advise.draws import bootstrap, interval, runs_needed
from bedplate.advise.figures import Figure, Source

Better = Literal["lower", "higher"]
SAME = 0.01
"""Values that follow from a formula and differ by less than this share are as good as equal."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one quantity, and the figure that is shown for them."""

    values: Floats
    figure: Figure
    by_chance: bool = False
    """Its values are of runs, and others would differ."""


def of_runs(values: list[float], unit: str, how: str) -> Sample:
    """The mean over runs, with its interval."""
    found = np.asarray(values, dtype=np.float64)
    mean, low, high = bootstrap(found)
    said = f"{how}; mean of {len(found)} runs with its 95 % bootstrap interval"
    known = np.isfinite(low)
    figure = Figure(
        value=mean,
        low=low if known else None,
        high=high if known else None,
        unit=unit,
        source="simulated",
        how=said if known else f"{how}; one run only: it has no interval",
    )
    return Sample(values=found, figure=figure, by_chance=True)


def of_draws(values: Floats, unit: str, how: str, source: Source = "computed") -> Sample:
    """The middle of draws, with 5 % and 95 %."""
    middle, low, high = interval(values)
    said = f"{how}; the middle of {len(values)} draws, 5 % and 95 % behind it"
    return Sample(values=values, figure=Figure(value=middle, low=low, high=high, unit=unit, source=source, how=said))


def of_number(value: float, unit: str, how: str, source: Source = "computed") -> Sample:
    """A number without chance."""
    return Sample(values=np.array([value]), figure=Figure(value=value, unit=unit, source=source, how=how))


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Who is better, if that can be told."""

    winner: str
    """A name; `equal`, or `undecided` where the difference is within the noise."""
    best: tuple[str, ...] = ()
    """Who is better than the others: several where they are alike, nobody where all are or it is undecided."""
    said: str = ""


def judge(samples: Mapping[str, Sample], better: Better) -> Judged:
    """Compare the best with the others, run by run or draw by draw."""
    sign = 1.0 if better == "lower" else -1.0
    order = sorted(samples, key=lambda n: (sign * samples[n].figure.value, n))
    best = order[0]
    equal = [best]
    for name in order[1:]:
        told = _told(samples[best], samples[name], sign)
        if told == "apart":
            break
        if told != "equal":
            return Judged(winner="undecided", said=f"{best} against {name}: {told}")
        equal.append(name)
    if len(equal) == len(order):
        return Judged(winner="equal")
    return Judged(winner=best, best=tuple(equal))


def _told(a: Sample, b: Sample, sign: float) -> str:
    """`apart` (a is better), `equal`, or why it cannot be told."""
    if a.by_chance or b.by_chance:
        return _told_by_runs(a.values, b.values, sign)
    difference = sign * (b.values - a.values)
    if not np.any(difference):
        return "equal"
    if len(difference) > 1:
        sure = float((difference > 0).mean())
        return "apart" if sure >= 0.95 else f"better in {sure:.0%} of the draws only"
    scale = max(abs(a.figure.value), abs(b.figure.value))
    return "apart" if abs(float(difference[0])) > SAME * scale else "equal"


def _told_by_runs(a: Floats, b: Floats, sign: float) -> str:
    """Runs of the same seeds are paired; where the counts differ (each failure is one), each side is resampled."""
    if len(a) == len(b) and not np.any(a != b):
        return "equal"
    if len(a) != len(b):
        chance = np.random.default_rng(1)
        means = [v[chance.integers(0, len(v), size=(4000, len(v)))].mean(axis=1) for v in (a, b)]
        return "apart" if float(np.percentile(sign * (means[1] - means[0]), 2.5)) > 0 else "within the noise"
    difference = sign * (b - a)
    if len(difference) < 2:
        return "one run tells no difference from chance; run more (--runs)"
    _, low, _ = bootstrap(difference)
    if low > 0:
        return "apart"
    needed = runs_needed(difference)
    return f"within the noise; some {needed} runs would tell" if needed < 10_000 else "no difference is seen"
