"""Charts of capabilities and of what pods feel. Needs altair."""

from __future__ import annotations

import textwrap
from typing import Any

import altair as alt
import numpy as np

from bedplate.advise import figures
from bedplate.advise.comparing import Comparison, PerWorkload, Row
from bedplate.advise.deciding import ALTERNATIVES
from bedplate.advise.report.drawing import INK, NARROW, Drawable, by_alternative, data, figure, folded_axis, layered
from bedplate.advise.report.markup import Html
from bedplate.advise.report.words import and_, heading, name, row_of

NAMES = [heading(a) for a in ALTERNATIVES]
MOST_WORKLOADS = 24
"""In a chart; the table below has all."""
MOST_RECOVERIES = 60
"""Marks for an alternative: more lie upon one another; then each mark stands for an equal share of them."""


def scores(c: Comparison) -> Html | None:
    """How near each alternative is to the best, by capability."""
    found = c.verdict.by_capability
    if not found:
        return None
    labels = {k: k if c.verdict.weights.get(k, 1.0) == 1.0 else f"{k} (× {c.verdict.weights[k]:g})" for k in found}
    rows: list[dict[str, Any]] = [
        {"capability": labels[k], "alternative": heading(a), "score": s[a]}
        for k, s in found.items()
        for a in ALTERNATIVES
        if a in s
    ]

    def draw(width: int) -> Drawable:
        return (
            alt.Chart(data(rows))
            .mark_bar(cornerRadiusEnd=2)
            .encode(
                y=alt.Y("capability:N", sort=list(labels.values()), title=None, scale=alt.Scale(paddingInner=0.35)),
                yOffset=alt.YOffset("alternative:N", sort=NAMES, scale=alt.Scale(paddingInner=0.0)),
                x=alt.X("score:Q", scale=alt.Scale(domain=[0, 1]), title="1: as good as the best of the three",
                        axis=alt.Axis(tickCount=5, grid=True)),
                color=by_alternative(NAMES)["color"],
            )
            .properties(width=width, height=alt.Step(8, **{"for": "offset"}))
        )  # fmt: skip

    firsts = {a: sum(s.get(a, 0.0) >= max(s.values()) - 1e-9 for s in found.values()) for a in ALTERNATIVES}
    said = and_([f"{name(a)} in {n}" for a, n in firsts.items()])
    sentence = f"Of {len(found)} capabilities the best score, alone or shared, is that of {said}."
    remark = "A capability's score is the average over its figures; what cannot be told apart counts alike."
    return figure("scores", "Scores by capability", sentence, draw, remark)


def times_the_best(c: Comparison) -> Html | None:
    """Every figure of every capability, as so many times the best alternative's."""
    rows: list[dict[str, Any]] = [
        {"quantity": r.title, "alternative": heading(a), "on": name(a), "times": t}
        for r in c.rows
        for a, t in _times(r).items()
    ]
    if not rows:
        return None
    order = list(dict.fromkeys(r["quantity"] for r in rows))
    widest = max(rows, key=lambda r: r["times"])
    top = max(2.0, widest["times"] * 1.15)

    def draw(width: int) -> Drawable:
        narrow = width == NARROW
        folded = {q: textwrap.fill(q, 24 if narrow else 43) for q in order}
        axis = folded_axis(narrow=narrow, offset=-3, grid=True, labelFontSize=11)
        y = alt.Y("quantity:N", sort=list(folded.values()), title=None, axis=axis)
        marks = [t for t in (1, 2, 5, 10, 20, 50, 100, 1000, 10000) if t < top]
        x = alt.X(
            "times:Q", title="times the best figure; 1: the best",
            scale=alt.Scale(type="log", domain=[0.9, top], nice=False),
            axis=alt.Axis(values=marks, grid=False, format="~g"),
        )  # fmt: skip
        return (
            alt.Chart(data([{**r, "quantity": folded[r["quantity"]]} for r in rows]))
            .mark_point(filled=True, size=80, opacity=0.85)
            .encode(y=y, x=x, **by_alternative(NAMES))
            .properties(width=width, height=alt.Step(46 if narrow else 29))
        )

    said = f"{figures.number(widest['times'])} times the best on {widest['on']}"
    sentence = f"Farthest from the best: {widest['quantity']}, {said}."
    remark = (
        "Where marks lie upon one another the alternatives are alike. Left out: what is undecided, unknown, or zero."
    )
    return figure("times", "How far from the best", sentence, draw, remark)


def _times(row: Row) -> dict[str, float]:
    """Where less is better, a figure over the least; else the most over the figure."""
    values = {a: f.value for a, f in row.cells.items()}
    if not values or row.winner in ("undecided", "") or min(values.values()) <= 0:
        return {}
    if row.better == "lower":
        return {a: v / min(values.values()) for a, v in values.items()}
    return {a: max(values.values()) / v for a, v in values.items()}


def silent(c: Comparison) -> Html | None:
    """Minutes of a year that a replica of each workload does not answer, with intervals."""
    known = [w for w in c.workloads if w.silent]
    if not known:
        return None
    worst = sorted(known, key=lambda w: -max(f.value for f in w.silent.values()))[:MOST_WORKLOADS]
    shown = [w for w in known if w in worst]
    order = [_label(w) for w in shown]
    rows: list[dict[str, Any]] = [
        {
            "workload": _label(w), "alternative": heading(a), "minutes": f.value,
            "low": f.low if f.low is not None else f.value, "high": f.high if f.high is not None else f.value,
        }
        for w in shown
        for a, f in w.silent.items()
    ]  # fmt: skip
    top = max(r["high"] for r in rows)
    ticks = [0.0, *(t for t in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0) if t < top * 10)]

    def draw(width: int) -> Drawable:
        scale = alt.Scale(type="symlog", constant=0.01, domain=[0, top], nice=False)
        x = alt.X(
            "minutes:Q", scale=scale, title="minutes a year, per replica",
            axis=alt.Axis(values=[t for t in ticks if t <= top], grid=True, format="~g"),
        )  # fmt: skip
        base = alt.Chart(data(rows)).encode(
            y=alt.Y("workload:N", sort=order, title=None, axis=folded_axis(narrow=width == NARROW, limit=180)),
            yOffset=alt.YOffset("alternative:N", sort=NAMES, scale=alt.Scale(paddingOuter=0.6)),
            color=by_alternative(NAMES)["color"],
        )
        ranges = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x.copy(), x2="high:Q").encode(x=_from("low", x))
        dots = base.mark_point(filled=True, size=55, opacity=1).encode(x=x, shape=by_alternative(NAMES)["shape"])
        return layered(ranges, dots).properties(width=width, height=alt.Step(9, **{"for": "offset"}))

    row = row_of(c, "silent")
    over = and_([f"{figures.number(row.cells[a].value)} min on {name(a)}" for a in ALTERNATIVES]) if row else ""
    sentence = f"Averaged over all replicas of the fleet, one does not answer for {over} a year."
    remark = (
        "Lines are 95 % intervals over the runs. The scale grows tenfold with each mark, so that little is seen too."
    )
    if len(known) > len(shown):
        remark += f" Shown are the {len(shown)} of {len(known)} workloads with the most."
    return figure("silent", "How long a replica does not answer", sentence, draw, remark)


def _from(field: str, x: alt.X) -> alt.X:
    found = x.copy()
    found.shorthand = f"{field}:Q"
    return found


def _label(w: PerWorkload) -> str:
    return f"{w.workload}\n({w.cluster})"


def recoveries(c: Comparison) -> Html | None:
    """Each simulated failure's time until the last of its pods answered again."""
    found = {a: np.asarray(c.recoveries[a]) for a in ALTERNATIVES if c.recoveries.get(a)}
    if not found:
        return None
    unit, size = ("min", 60.0) if max(v.max() for v in found.values()) >= 600 else ("s", 1.0)
    names = [f"{heading(a)} ({len(v)})" for a, v in found.items()]
    rows: list[dict[str, Any]] = [
        {"alternative": heading(a), "label": label, "took": t / size}
        for (a, v), label in zip(found.items(), names, strict=True)
        for t in _thinned(v)
    ]
    middles = [
        {
            "label": label,
            "took": float(np.median(v)) / size,
            "said": f"median {figures.number(float(np.median(v)) / size)}",
        }
        for v, label in zip(found.values(), names, strict=True)
    ]

    def draw(width: int) -> Drawable:
        y = alt.Y("label:N", sort=names, title=None)
        x = alt.X(
            "took:Q", title=f"{unit} from failure until the last pod answers",
            axis=alt.Axis(grid=True, tickCount=6), scale=alt.Scale(zero=False, padding=12),
        )  # fmt: skip
        encoded = by_alternative(NAMES, legend=False)
        dots = (
            alt.Chart(data(rows))
            .mark_point(filled=True, size=70, opacity=0.55)
            .encode(y=y, x=x, color=encoded["color"], shape=encoded["shape"])
        )
        base = alt.Chart(data(middles)).encode(y=y, x=x)
        middle = base.mark_tick(color=INK, thickness=2.5, size=28)
        said = base.mark_text(dy=-22).encode(text="said:N")
        return layered(dots, middle, said).properties(width=width, height=alt.Step(64))

    said = and_([f"{figures.number(float(np.median(v)) / size)} {unit} on {name(a)}" for a, v in found.items()])
    row = row_of(c, "recovery")
    sentence = f"The median is {said}." + (
        " Which is better is undecided." if row and row.winner == "undecided" else ""
    )
    remark = "Each mark is a simulated failure that pods felt; how many there were stands in brackets."
    if any(len(v) > MOST_RECOVERIES for v in found.values()):
        remark = f"Each mark is an equal share of the failures that pods felt, {MOST_RECOVERIES} marks at most."
    return figure("recoveries", "How long a server's failure is felt", sentence, draw, remark)


def _thinned(values: np.ndarray) -> list[float]:
    if len(values) <= MOST_RECOVERIES:
        return sorted(values.tolist())
    return np.quantile(values, np.linspace(0, 1, MOST_RECOVERIES)).tolist()
