"""What stands below the answer: money, capabilities, workloads, and what is not known. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from bedplate.advise.claims import Verdict as Answered
from bedplate.advise.comparing import Comparison, PerWorkload
from bedplate.advise.deciding import Placed
from bedplate.advise.figures import Figure
from bedplate.advise.report import answer, tables
from bedplate.advise.report.markup import Html, listed, tag
from bedplate.advise.report.tables import Line
from bedplate.advise.report.words import capital, counted, heading, lacking, name, not_calibrated, said

MISSING = "not counted, for want of a price: "
"""How a cost's figure says what it leaves out."""
TOGETHER = (
    "Workloads of one cluster that no rule binds are placed together, those that are latency-sensitive apart from the "
    "rest: the amount beside each is that of all of them."
)


def section(key: str, title: str, *children: Html | str | None) -> Html:
    """A part of the page with a heading of its own."""
    return tag("section", tag("h2", title, id=key), *children, aria_labelledby=key)


# --- money --------------------------------------------------------------------------------------------------------


def money(c: Comparison, charts: Html) -> Html:
    """Charts of cost and the items as figures."""
    row = next(r for r in c.rows if r.name == "cost")
    if not row.cells:
        return section("cost", "Cost", tag("p", tag("em", f"The cost is not known: {lacking(row)}.")))
    items = list(dict.fromkeys(i for costs in c.costs.values() for i in costs.items))
    lines = [
        Line(
            title=capital(item),
            hint=f"{c.currency}/year",
            cells={a: costs.items[item] for a, costs in c.costs.items() if item in costs.items},
        )
        for item in items
    ]
    shown = tables.table("Cost by item", [("", lines)], answer=c.verdict.winner)
    missing = [tag("p", tag("em", f"Not counted, for want of a price: {m}.")) for m in _unpriced(c)]
    return section("cost", "Cost", charts, *missing, shown)


def _unpriced(c: Comparison) -> list[str]:
    hows = [f.how for r in c.rows if r.name == "cost" for f in r.cells.values()]
    found = [h.partition(MISSING)[2].rpartition("; the middle of")[0] for h in hows if MISSING in h]
    return list(dict.fromkeys(found))


# --- capabilities -------------------------------------------------------------------------------------------------


def capabilities(c: Comparison) -> Html:
    """Every figure, by capability."""
    groups = [
        (_weighed(c, key), [answer.line(r) for r in rows]) for key, rows in groupby(c.rows, key=lambda r: r.capability)
    ]
    told = "Open a row to see where its figures are from. Ranges stand below their values."
    shown = tables.table("Every figure by capability", groups, answer=c.verdict.winner)
    return section("capabilities", "Every figure, by capability", tag("p", told), tables.legend(), shown)


def _weighed(c: Comparison, capability: str) -> str:
    weight = c.verdict.weights.get(capability, 1.0)
    return capital(capability) if weight == 1.0 else f"{capital(capability)} (weighs {weight:g} times)"


# --- workloads ----------------------------------------------------------------------------------------------------


def workloads(c: Comparison, charts: Html) -> Html:
    """Where each goes and why, and what it feels there."""
    groups = [
        (cluster, [line for w in members for line in _of_workload(w)])
        for cluster, members in groupby(c.workloads, key=lambda w: w.cluster)
    ]
    felt = None
    if any(w.silent or w.interruptions for w in c.workloads):
        shown = tables.table("What each workload feels", groups, answer=c.verdict.winner)
        felt = tag("details", tag("summary", "What each workload feels, in figures"), shown, class_="fold")
    return section("workloads", "Workload by workload", charts, tag("p", TOGETHER), _placements(c), felt)


def _of_workload(w: PerWorkload) -> list[Line]:
    found = [("does not answer", w.silent), ("is interrupted", w.interruptions)]
    return [
        Line(title=f"{w.workload} {what}", cells=cells, hint=f"{_unit(cells)}, per replica")
        for what, cells in found
        if cells
    ]


def _unit(cells: Mapping[str, Figure]) -> str:
    return next((f.unit for f in cells.values()), "")


def _placements(c: Comparison) -> Html:
    columns = ("Workload", "Mix", "Why")
    head = tag("thead", tag("tr", *(tag("th", t, scope="col") for t in columns)))
    bodies = [
        tag(
            "tbody",
            tag("tr", tag("th", cluster, scope="rowgroup", colspan=3), class_="group"),
            *(_placement(w) for w in members),
        )
        for cluster, members in groupby(c.workloads, key=lambda w: w.cluster)
    ]
    return tag("table", tag("caption", "Where each workload goes, and why"), head, *bodies, class_="placements")


def _placement(w: PerWorkload) -> Html:
    mix = w.placed.get("mix")
    where = tag("span", heading(mix.substrate), class_=f"on on-{mix.substrate}") if mix else tag("em", "not known")
    stays = [a for a in ("vm", "metal") if (p := w.placed.get(a)) and p.substrate != a]
    return tag(
        "tr",
        tag("th", w.workload, scope="row"),
        tag("td", where),
        tag("td", _reason(mix) if mix else "", *(tag("p", _kept(w.placed[a], a), class_="kept") for a in stays)),
    )


def _reason(p: Placed) -> str:
    return f"{p.reason} (rule: {p.rule})" if p.rule else p.reason


def _kept(p: Placed, alternative: str) -> str:
    """Where a rule puts a workload on the other substrate than the alternative's name says."""
    return f"It is on {name(p.substrate)} even where all else is on {name(alternative)}."


# --- what is not known --------------------------------------------------------------------------------------------


def unknown(c: Comparison, claims: Sequence[Answered]) -> Html:
    """What nobody should read into this page."""
    literature = [r.title for r in c.rows if any(f.source == "literature" for f in r.cells.values())]
    open_claims = [v for v in claims if v.status == "not answerable"]
    found: list[Html | str] = [f"{capital(r.title)}: {lacking(r)}." for r in c.rows if not r.cells]
    found += [
        f"{capital(r.title)}: which is better is undecided ({said(r)})." for r in c.rows if r.winner == "undecided"
    ]
    if literature:
        found.append(f"From literature only, and not measured on these servers: {'; '.join(literature)}.")
    if c.runs and (left := not_calibrated(c)):
        found.append(
            f"How long {counted(len(left), 'kind')} of things take on your servers: they were not measured there."
        )
    found += [f"Cost leaves out, for want of a price: {m}." for m in _unpriced(c)]
    links = [tag("a", v.id, href=f"#claim-{v.id}") for v in open_claims]
    shown = listed(found)
    of_claims = tag("p", "Claims that can't be answered yet: ", _commas(links), ".") if links else None
    told = "A simulation knows the failures that it was told of: those not in its list are not in these figures."
    return section("unknown", "What is not known", shown, of_claims, tag("p", told))


def _commas(links: Sequence[Html]) -> Html:
    return Html(", ".join(links))


def how_made(c: Comparison) -> Html:
    """What the figures rest on."""
    years = f"{c.years:g} year{'s' if c.years != 1 else ''}"
    runs = (
        f"Each alternative was told {c.runs} times, {years} each, with the same seeds: the same servers fail at the "
        "same times as far as the alternative has them."
        if c.runs
        else "No year was simulated."
    )
    return section("made", "How this was made", tag("p", runs), tag("p", *_formulas()))


def _formulas() -> tuple[str | Html, ...]:
    return (
        "Formulas of cost: ",
        tag("code", "docs/tasks/decide.md"),
        ". Money is drawn 4,000 times from its ranges, with the same draw for all three. An alternative is better "
        "where 95 % of the draws say so, or where the interval of the runs' differences leaves out zero.",
    )
