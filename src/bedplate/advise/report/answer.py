"""The first screen: the answer, the numbers that matter most, who is better in each, and what would flip it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bedplate.advise.comparing import Comparison, Fit, Row
from bedplate.advise.deciding import ALTERNATIVES
from bedplate.advise.figures import Figure
from bedplate.advise.report import tables
from bedplate.advise.report.markup import Html, joined, listed, tag
from bedplate.advise.report.tables import Line
from bedplate.advise.report.words import (
    and_,
    best,
    capital,
    counted,
    direction,
    heading,
    name,
    not_calibrated,
    outcome,
    readable,
    said,
)

KEY_ROWS = {
    "cost": "Cost",
    "silent": "A replica does not answer",
    "killed": "Pods ended by patches",
    "added": "One more node",
    "energy": "Electricity",
}
"""Rows of the comparison that are told first, after the servers."""


def answer(c: Comparison) -> Html:
    """The verdict and what it rests on."""
    return tag(
        "section",
        tag("p", c.verdict.sentence, class_=f"verdict verdict-{c.verdict.winner}", id="verdict"),
        _same(c),
        tag("div", _key_numbers(c), _flips(c), class_="first"),
        aria_labelledby="verdict",
    )


def _same(c: Comparison) -> Html | None:
    """Where the best mix mixes nothing, two columns are one alternative."""
    if not c.verdict.same:
        return None
    said = f"The best mix for this fleet is the same as all on {name(c.verdict.same)}: no workload goes elsewhere."
    return tag("p", said)


# --- warnings -----------------------------------------------------------------------------------------------------


def warnings(c: Comparison) -> Html | None:
    """What must be known before any number is believed."""
    found = [_faults(c), _misfits(c), _durations(c)]
    return tag("section", *found, class_="warnings", aria_label="Warnings") if any(found) else None


def _faults(c: Comparison) -> Html | None:
    if not c.faults:
        return None
    told = tag("strong", "Do not trust this comparison: the simulated runs went wrong.")
    return tag("div", tag("p", told), listed(c.faults), class_="warning", role="alert")


def _durations(c: Comparison) -> Html | None:
    left = not_calibrated(c)
    if not c.runs:
        told = "Nothing was simulated: availability, recovery and agility are not known."
        return tag("p", tag("strong", told), class_="warning")
    if not left and not c.emulated:
        return None
    if c.calibrated:
        where = " under software emulation, which is not what servers take" if c.emulated else ""
        told = f"You measured {and_(list(c.calibrated))}{where}; the other {len(left)} durations are"
    else:
        told = "No duration was measured by you: all are"
    told = f"{told} the simulated world's own, seen in a lab under software emulation."
    names = tag("details", tag("summary", "Which, and what hangs on them"), tag("p", _hanging(left)))
    return tag("div", tag("p", tag("strong", told)), names, class_="warning")


def _hanging(left: tuple[str, ...]) -> str:
    return (
        f"{and_(list(left))}; some of them are published figures. All figures marked simulated hang on them: they tell "
        "the alternatives apart, and promise no seconds. Give your own under durations in the fleet's file."
    )


def _misfits(c: Comparison) -> Html | None:
    """Alternatives that need what is not there."""
    found = [said for a in ALTERNATIVES for said in _misfit(a, c.fits[a])]
    if not found:
        return None
    told = tag("strong", "Not all alternatives fit these servers.")
    return tag("div", tag("p", told), listed(found), class_="warning")


def _misfit(alternative: str, fit: Fit) -> Iterator[str]:
    named = heading(alternative)
    if fit.impossible:
        yield f"{named}: {'; '.join(fit.impossible)}. The figures are without that work."
    if fit.shortage:
        lacking = and_([f"{n} {model}" for model, n in fit.shortage.items()])
        yield f"{named}: {lacking} would have to be bought; the cost has them in it."


# --- numbers ------------------------------------------------------------------------------------------------------


def _key_numbers(c: Comparison) -> Html:
    lines = [_servers(c), *(_key_line(c, key, title) for key, title in KEY_ROWS.items())]
    return tables.table("The numbers that matter most", [("", lines)], answer=c.verdict.winner)


def _key_line(c: Comparison, key: str, title: str) -> Line:
    row = next(r for r in c.rows if r.name == key)
    unit = next((f.unit for f in readable(row.cells).values()), "")
    return msgspec.structs.replace(line(row), title=title, hint=unit)


def line(row: Row) -> Line:
    """A row of the comparison as it is shown."""
    cells = readable(row.cells)
    unit = next((f.unit for f in cells.values()), "")
    return Line(
        title=capital(row.title),
        cells=cells,
        best=best(row),
        hint=", ".join(filter(None, [unit, direction(row.better)])),
        outcome=outcome(row),
        note=row.note,
        undecided=row.winner == "undecided" or not row.cells,
    )


def _servers(c: Comparison) -> Line:
    least = min(f.count for f in c.fits.values())
    first = [a for a in ALTERNATIVES if c.fits[a].count == least]
    alike = len(first) == len(ALTERNATIVES)
    return Line(
        title="Servers",
        cells={a: _count(c.fits[a]) for a in ALTERNATIVES},
        best=() if alike else tuple(first),
        outcome="all are alike" if alike else "",
    )


def _count(fit: Fit) -> Figure:
    models = and_([f"{n} {model}" for model, n in fit.servers.items()])
    how = (
        f"{models}: {counted(fit.hypervisors, 'hypervisor')}, {counted(fit.metal, 'bare server')} and "
        f"{counted(fit.spares, 'bare spare')} for {counted(fit.nodes, 'node')}, packed by what pods request"
    )
    return Figure(value=fit.count, unit="servers", how=how)


# --- flips --------------------------------------------------------------------------------------------------------


def _flips(c: Comparison) -> Html:
    found = list(c.verdict.flips)
    if c.licence_break_even is not None:
        licence = f"{c.licence_break_even:,.0f} {c.currency} per core and year"
        found.append(f"metal costs less than VMs from a hypervisor's licence of {licence} on")
    shown: Html | None = listed(found) if found else None
    if shown is None:
        shown = tag("p", "No weight alone, up to 20 times its own, would have another alternative win.")
    scores = [f"{heading(a)} {s:.2f}" for a, s in c.verdict.scores.items()]
    return tag(
        "aside",
        tag("h2", "What would flip it"),
        shown,
        tag("p", f"Scores, 1 at most: {', '.join(scores)}.") if scores else None,
        _doubts(c),
        class_="flips",
    )


def _doubts(c: Comparison) -> Html | None:
    undecided = [r for r in c.rows if r.winner == "undecided"]
    if not undecided:
        return None
    rows = [joined([f"{r.title}: {said(r)}"]) for r in undecided]
    return joined([tag("h3", "Undecided"), listed(rows)])
