"""A fleet against the same fleet with something changed: both meet the same failures, so the difference is sharp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bedplate.advise import capabilities
from bedplate.advise.capabilities import QUANTITIES
from bedplate.advise.comparing import Fit, Shown, fit_of
from bedplate.advise.deciding import Plan
from bedplate.advise.draws import Draws, bootstrap, interval
from bedplate.advise.figures import Figure
from bedplate.advise.fleet import Profile
from bedplate.advise.samples import Sample, judge
from bedplate.advise.years import Run

BASE, VARIANT = "as it is", "changed"


class Change(Shown, frozen=True, kw_only=True):
    """One quantity, before and after."""

    name: str
    capability: str
    title: str
    base: Figure
    variant: Figure
    difference: Figure
    verdict: str
    """`better`, `worse`, `equal`, or `undecided` with how many runs would tell."""


class Variation(Shown, frozen=True, kw_only=True):
    """All that changes."""

    what: str
    alternative: str
    changes: tuple[Change, ...]
    fits: dict[str, Fit]
    runs: int
    years: float
    faults: tuple[str, ...]


def vary(
    what: str,
    alternative: str,
    fleets: Mapping[str, tuple[Profile, Plan]],
    runs: Mapping[str, Sequence[Run]],
) -> Variation:
    """Put before and after side by side.

    Args:
        fleets: `BASE` and `VARIANT`.
        runs: Of the same seeds.
    """
    evidence = capabilities.gather(fleets, runs, Draws())
    count, years = capabilities.simulated(evidence)
    changes: list[Change] = []
    for q in QUANTITIES:
        samples = capabilities.find_all(evidence, q)
        if not samples:
            continue
        judged = judge(samples, q.better)
        verdict = {VARIANT: "better", BASE: "worse"}.get(judged.winner, judged.winner)
        changes.append(
            Change(
                name=q.name,
                capability=q.capability,
                title=q.title,
                base=samples[BASE].figure,
                variant=samples[VARIANT].figure,
                difference=_difference(samples[BASE], samples[VARIANT]),
                verdict=f"undecided: {judged.said.partition(': ')[2]}" if verdict == "undecided" else verdict,
            )
        )
    return Variation(
        what=what,
        alternative=alternative,
        changes=tuple(changes),
        fits={name: fit_of(plan) for name, (_, plan) in fleets.items()},
        runs=count,
        years=years,
        faults=capabilities.faults(evidence, {}),
    )


def _difference(base: Sample, variant: Sample) -> Figure:
    """After less before, run by run or draw by draw."""
    a, b = base.values, variant.values
    source, unit = variant.figure.source, variant.figure.unit
    if len(a) != len(b):
        return Figure(value=float(b.mean() - a.mean()), unit=unit, source=source, how="difference of means")
    if base.by_chance or variant.by_chance:
        mean, low, high = bootstrap(b - a)
        if len(a) > 1:
            return Figure(value=mean, low=low, high=high, unit=unit, source=source, how="paired by seed")
        return Figure(value=mean, unit=unit, source=source, how="one pair of runs: it has no interval")
    middle, low, high = interval(b - a)
    return Figure(value=middle, low=low, high=high, unit=unit, source=source, how="paired by draw")
