"""VMs, metal and a mix of both, side by side on one fleet: the figures, who is better, the verdict, what flips it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from bedplate.advise import capabilities, cost, figures
from bedplate.advise.capabilities import CAPABILITIES, QUANTITIES, Evidence, Quantity
from bedplate.advise.cost import Sensitivity
from bedplate.advise.deciding import ALTERNATIVES, Placed, Plan
from bedplate.advise.draws import Draws, Middle
from bedplate.advise.figures import Figure
from bedplate.advise.fleet import MoneyPerCoreYear, Profile
from bedplate.advise.samples import Judged, Sample, judge, of_draws, of_runs
from bedplate.advise.years import Run

NAMES: dict[str, str] = {"vm": "VMs", "metal": "metal", "mix": "mix"}


class Shown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what is written for people and programs."""


class Row(Shown, frozen=True, kw_only=True):
    """One quantity of all alternatives."""

    name: str
    capability: str
    title: str
    better: str
    """`lower` or `higher`."""
    cells: dict[str, Figure]
    """Empty: it is not known for this fleet."""
    winner: str
    """An alternative, `equal`, `undecided`, or empty where nothing is known."""
    best: tuple[str, ...]
    """Alternatives that are better than the others; several where they are alike."""
    said: str
    """Why it is undecided, or what would change the verdict."""
    note: str = ""


class Verdict(Shown, frozen=True, kw_only=True):
    """The answer."""

    winner: str
    """`vm`, `metal`, `mix`, or `undecided`."""
    sentence: str
    scores: dict[str, float]
    """0 to 1: how near each is to the best, over the capabilities by their weights."""
    by_capability: dict[str, dict[str, float]]
    weights: dict[str, float]
    flips: tuple[str, ...]
    same: str = ""
    """The alternative that the mix is, where its placement is no other; the two count once."""


class Fit(Shown, frozen=True, kw_only=True):
    """What an alternative needs."""

    servers: dict[str, int]
    hypervisors: int
    metal: int
    spares: int
    nodes: int
    count: int
    shortage: dict[str, int]
    impossible: tuple[str, ...]


class Costs(Shown, frozen=True, kw_only=True):
    """Of one alternative, for charts."""

    items: dict[str, Figure]
    quantiles: tuple[float, ...]
    """0 %, 5 % ... 100 % of the draws of the yearly total."""


class PerWorkload(Shown, frozen=True, kw_only=True):
    """A workload's answer."""

    cluster: str
    workload: str
    placed: dict[str, Placed]
    """By alternative."""
    silent: dict[str, Figure]
    """Minutes of a year that a replica does not answer."""
    interruptions: dict[str, Figure]


class Comparison(Shown, frozen=True, kw_only=True):
    """All that was found."""

    fleet: str
    currency: str
    rows: tuple[Row, ...]
    verdict: Verdict
    fits: dict[str, Fit]
    costs: dict[str, Costs]
    sensitivities: tuple[Sensitivity, ...]
    """Of the yearly cost of VMs less that of metal."""
    licence_break_even: float | None
    """For a core and a year, from which on metal costs less than VMs."""
    licence_curve: tuple[tuple[float, dict[str, float]], ...]
    """A licence's price, and the yearly cost of each alternative with it."""
    workloads: tuple[PerWorkload, ...]
    recoveries: dict[str, tuple[float, ...]]
    """Seconds, of each simulated failure that pods felt."""
    runs: int
    years: float
    """Of each run."""
    calibrated: tuple[str, ...]
    """Durations that were measured by the user; the others are the simulated world's own."""
    emulated: bool
    """Those were measured where guests are emulated in software."""
    faults: tuple[str, ...]
    """What was wrong in runs; such a comparison is not to be trusted."""


def compare(profile: Profile, plans: Mapping[str, Plan], runs: Mapping[str, Sequence[Run]]) -> Comparison:
    """Put the alternatives side by side.

    Args:
        runs: Of each alternative, with the same seeds; empty: nothing was simulated, and such rows are not known.
    """
    evidence = capabilities.gather({a: (profile, plans[a]) for a in ALTERNATIVES}, runs, Draws())
    vm, metal = _of(evidence["vm"]), _of(evidence["metal"])
    even = cost.licence_break_even(profile, vm, metal)
    count, years = capabilities.simulated(evidence)
    rows, found = [], {}
    for quantity in QUANTITIES:
        samples = capabilities.find_all(evidence, quantity)
        judged = judge(samples, quantity.better) if samples else Judged(winner="")
        rows.append(_row(quantity, samples, judged))
        found[quantity.name] = (quantity, samples, judged)
    return Comparison(
        fleet=profile.name,
        currency=profile.currency,
        rows=tuple(_with_flip(r, profile, even) for r in rows),
        verdict=_verdict(profile, found, evidence),
        fits={a: fit_of(e.plan) for a, e in evidence.items()},
        costs={a: _costs(e) for a, e in evidence.items()},
        sensitivities=tuple(cost.sensitivities(profile, vm, metal)[:12]),
        licence_break_even=even,
        licence_curve=tuple(_licence_curve(profile, evidence, even)),
        workloads=tuple(_workloads(profile, evidence)),
        recoveries={
            a: tuple(s.recovered for r in e.runs for s in r.struck if s.recovered > 0) for a, e in evidence.items()
        },
        runs=count,
        years=years,
        calibrated=tuple(sorted(profile.durations)),
        emulated=profile.emulated,
        faults=capabilities.faults(evidence, NAMES),
    )


def _of(e: Evidence) -> tuple[cost.Layout, cost.Events]:
    return e.plan.layout, e.events


def _row(q: Quantity, samples: Mapping[str, Sample], judged: Judged) -> Row:
    published = any(s.figure.source == "literature" for s in samples.values())
    return Row(
        name=q.name,
        capability=q.capability,
        title=f"{q.title}, at most" if q.bound and published else q.title,
        better=q.better,
        cells={name: s.figure for name, s in samples.items()},
        winner=judged.winner,
        best=judged.best,
        said=judged.said if samples else q.unknown,
        note=q.note,
    )


def fit_of(plan: Plan) -> Fit:
    """What a plan needs."""
    layout = plan.layout
    return Fit(
        servers=layout.servers,
        hypervisors=sum(layout.hypervisors.values()),
        metal=sum(layout.metal.values()),
        spares=sum(layout.metal_spares.values()),
        nodes=layout.nodes,
        count=layout.count,
        shortage=layout.shortage,
        impossible=layout.impossible,
    )


# --- cost ---------------------------------------------------------------------------------------------------------


def _costs(e: Evidence) -> Costs:
    found = cost.of(e.profile, e.plan.layout, e.events, e.value)
    unit = f"{e.profile.currency}/year".lstrip("/")
    items = {
        k: of_draws(np.broadcast_to(v, found.total.shape), unit, "docs/tasks/decide.md").figure
        for k, v in found.items.items()
    }
    return Costs(items=items, quantiles=tuple(np.quantile(found.total, np.linspace(0, 1, 21)).tolist()))


def _licence_curve(
    profile: Profile, evidence: Mapping[str, Evidence], even: float | None
) -> list[tuple[float, dict[str, float]]]:
    top = max(400.0, 1.5 * (even or 0.0))
    found: list[tuple[float, dict[str, float]]] = []
    for price in np.linspace(0.0, top, 21).tolist():
        licence = MoneyPerCoreYear.of(price)
        priced = msgspec.structs.replace(profile, prices=msgspec.structs.replace(profile.prices, hypervisor=licence))
        found.append((price, {a: float(cost.of(priced, *_of(e), Middle()).total[0]) for a, e in evidence.items()}))
    return found


# --- workloads ----------------------------------------------------------------------------------------------------


def _workloads(profile: Profile, evidence: Mapping[str, Evidence]) -> list[PerWorkload]:
    silent: dict[tuple[str, str], dict[str, list[float]]] = {}
    felt: dict[tuple[str, str], dict[str, list[float]]] = {}
    for a, e in evidence.items():
        for run in e.runs:
            for d in run.downtimes:
                k = (d.cluster, d.workload)
                per = d.replicas * run.years
                silent.setdefault(k, {}).setdefault(a, []).append(d.silent / 60.0 / per)
                felt.setdefault(k, {}).setdefault(a, []).append(d.interruptions / per)
    placed: dict[tuple[str, str], dict[str, Placed]] = {}
    for a, e in evidence.items():
        for p in e.plan.placed:
            placed.setdefault((p.cluster, p.workload), {})[a] = p
    return [
        PerWorkload(
            cluster=c.name,
            workload=w.name,
            placed=placed[c.name, w.name],
            silent={
                a: of_runs(v, "min/year", "a replica does not answer").figure
                for a, v in silent.get((c.name, w.name), {}).items()
            },
            interruptions={
                a: of_runs(v, "times/year", "a replica is interrupted").figure
                for a, v in felt.get((c.name, w.name), {}).items()
            },
        )
        for c, w in profile.workloads()
    ]


# --- the verdict --------------------------------------------------------------------------------------------------

_Found = dict[str, tuple[Quantity, dict[str, Sample], Judged]]


def _verdict(profile: Profile, found: _Found, evidence: Mapping[str, Evidence]) -> Verdict:
    """By weights over capabilities; an alternative that needs what is not there, or cannot be, is told so first."""
    weights = {c: profile.weights.get(c, 1.0) for c in CAPABILITIES}
    by_capability = {c: s for c in CAPABILITIES if (s := _capability_scores(c, found))}
    scores = _weighted(by_capability, weights)
    twin = next((a for a in ("vm", "metal") if evidence["mix"].plan.layout == evidence[a].plan.layout), "")
    possible = {a: s for a, s in scores.items() if not evidence[a].plan.layout.impossible and not (twin and a == "mix")}
    order = sorted(possible, key=lambda a: (-possible[a], a))
    winner = order[0] if order else "undecided"
    if len(order) > 1 and possible[order[0]] - possible[order[1]] < 0.01:
        winner = "undecided"
    return Verdict(
        winner=winner,
        sentence=_sentence(profile, winner, order, possible, evidence, found, twin),
        scores=scores,
        by_capability=by_capability,
        weights=weights,
        flips=tuple(_flips(by_capability, weights, winner, set(possible))),
        same=twin,
    )


def _capability_scores(capability: str, found: _Found) -> dict[str, float]:
    """Of each alternative from 0 to 1, the average over the capability's quantities: the best value over its own."""
    parts = [_scores(q, s, j) for q, s, j in found.values() if q.capability == capability and s]
    return {a: float(np.mean([p[a] for p in parts])) for a in parts[0]} if parts else {}


def _scores(q: Quantity, samples: Mapping[str, Sample], judged: Judged) -> dict[str, float]:
    """What cannot be told apart counts alike."""
    if judged.winner in ("undecided", "equal"):
        return dict.fromkeys(samples, 1.0)
    values = {a: s.figure.value for a, s in samples.items()}
    if q.better == "lower":
        best = min(values.values())
        return {a: (best + 1e-12) / (v + 1e-12) for a, v in values.items()}
    best = max(values.values())
    return {a: v / best if best else 1.0 for a, v in values.items()}


def _weighted(by_capability: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights[c] for c in by_capability) or 1.0
    return {
        str(a): sum(weights[c] * s[a] for c, s in by_capability.items()) / total
        for a in ALTERNATIVES
        if all(a in s for s in by_capability.values())
    }


def _flips(
    by_capability: Mapping[str, Mapping[str, float]], weights: Mapping[str, float], winner: str, possible: set[str]
) -> list[str]:
    """Which weight, alone, would have another possible alternative win, and from what value on."""
    found: list[tuple[float, str]] = []
    for capability in by_capability if winner != "undecided" else ():
        for factor in (1.5, 2.0, 3.0, 5.0, 10.0, 20.0):
            changed = _weighted(by_capability, {**weights, capability: weights[capability] * factor})
            best = max(possible, key=lambda a: (changed[a], a))
            if best != winner:
                verb = "win" if best == "vm" else "wins"
                found.append((factor, f"{NAMES[best]} {verb} if {capability} weighs {factor:g} times as much"))
                break
    return [said for _, said in sorted(found)]


def _sentence(
    profile: Profile,
    winner: str,
    order: list[str],
    scores: Mapping[str, float],
    evidence: Mapping[str, Evidence],
    found: _Found,
    twin: str,
) -> str:
    if not order:
        return "No alternative holds all workloads on these servers."
    if winner == "undecided":
        alike = " and ".join(NAMES[a] for a in order[:2])
        return f"Undecided: {alike} are within a hundredth of each other over all capabilities."
    name = {"vm": "all on VMs", "metal": "all on metal", "mix": "a mix of both"}[winner]
    if twin == winner:
        name += ", and no mix costs less"
    layout = evidence[winner].plan.layout
    money = found["cost"][1]
    parts = [f"{layout.count} servers"]
    if money and profile.currency and not layout.shortage:
        parts.append(f"{figures.number(money[winner].figure.value)} {profile.currency} a year")
    silent = found["silent"][1]
    if silent:
        parts.append(f"{figures.number(silent[winner].figure.value)} minutes a year in which a replica does not answer")
    second = order[1] if len(order) > 1 else ""
    next_ = {"vm": "VMs come", "metal": "metal comes", "mix": "a mix comes"}
    behind = f"; {next_[second]} next ({scores[second]:.2f} against {scores[winner]:.2f})" if second else ""
    return f"For this fleet: {name}. It takes {', '.join(parts)}{behind}."


def _with_flip(row: Row, profile: Profile, even: float | None) -> Row:
    """What would change a row's verdict, where that is known."""
    if row.name != "cost" or row.said or even is None:
        return row
    price = f"{even:,.0f} {profile.currency}"
    said = f"metal costs less than VMs from a hypervisor's licence of {price} per core and year on"
    return msgspec.structs.replace(row, said=said)
