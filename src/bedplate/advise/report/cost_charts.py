"""Charts of money: its range, what it is made of, what it hangs on, and the licence that turns it. Needs altair."""

from __future__ import annotations

import math

import altair as alt

from bedplate.advise import figures
from bedplate.advise.comparing import Comparison
from bedplate.advise.deciding import ALTERNATIVES
from bedplate.advise.report.drawing import (
    FAINT,
    INK,
    NARROW,
    Drawable,
    by_alternative,
    data,
    figure,
    folded_axis,
    layered,
)
from bedplate.advise.report.markup import Html
from bedplate.advise.report.words import and_, heading, name, row_of

NAMES = [heading(a) for a in ALTERNATIVES]
ITEMS = ("servers", "energy", "space", "network", "licences", "staff")
"""As cost has them; each has a colour of its own."""
LOW, HIGH = "low end", "high end"


def charts(c: Comparison) -> list[Html | None]:
    """All that can be drawn of this comparison's money."""
    if row_of(c, "cost") is None:
        return []
    return [_ranges(c), _items(c), _tornado(c), _licence(c)]


def _axis(ticks: int) -> alt.Axis:
    """Of money: 0, 50k, 100k."""
    return alt.Axis(format="~s", tickCount=ticks, grid=True, labelExpr="datum.value == 0 ? '0' : datum.label")


def _money(c: Comparison, value: float) -> str:
    return f"{figures.number(value)} {c.currency}"


def _ranges(c: Comparison) -> Html:
    """Quantiles as bars one over the other: the more certain, the darker."""
    rows = [
        {
            "alternative": heading(a), "least": q[0], "low": q[1], "quarter": q[5], "middle": q[10],
            "threequarters": q[15], "high": q[19], "most": q[20], "said": figures.number(q[10]),
        }
        for a in ALTERNATIVES
        for q in [c.costs[a].quantiles]
    ]  # fmt: skip

    def draw(width: int) -> Drawable:
        base = alt.Chart(data(rows)).encode(y=alt.Y("alternative:N", sort=NAMES, title=None))
        colour = by_alternative(NAMES, legend=False)["color"]
        axis = _axis(5)
        scale = alt.Scale(zero=False, nice=True)

        def span(low: str, high: str, size: int, opacity: float) -> alt.Chart:
            x = alt.X(f"{low}:Q", axis=axis, scale=scale, title=f"{c.currency} a year")
            return base.mark_bar(size=size, opacity=opacity).encode(x=x, x2=f"{high}:Q", color=colour)

        middle = base.mark_tick(color=INK, thickness=3, size=30).encode(x="middle:Q")
        said = base.mark_text(dy=-23, fontWeight="bold").encode(x="middle:Q", text="said:N")
        spans = [span("least", "most", 3, 0.6), span("low", "high", 14, 0.4), span("quarter", "threequarters", 24, 0.9)]
        return layered(*spans, middle, said).properties(width=width, height=alt.Step(68))

    said = and_([f"{name(a)} {_money(c, c.costs[a].quantiles[10])}" for a in ALTERNATIVES])
    return figure(
        "cost-range",
        "What a year may cost",
        f"The middle of all draws is {said}.",
        draw,
        "The dark bar holds half of the draws, the light one 9 of 10, the line all. The same draw of a price counts "
        "for all three, so that bars that overlap can still differ in nearly every draw.",
    )


def _items(c: Comparison) -> Html:
    order = [i for i in ITEMS if any(c.costs[a].items.get(i) for a in ALTERNATIVES)]
    rows = [
        {"alternative": heading(a), "item": i, "cost": f.value, "rank": order.index(i)}
        for a in ALTERNATIVES
        for i, f in c.costs[a].items.items()
        if i in order and f.value > 0
    ]
    kept = [i for i in order if any(r["item"] == i for r in rows)]
    colours = [f"var(--item-{ITEMS.index(i) + 1})" for i in kept]

    def draw(width: int) -> Drawable:
        legend = alt.Legend(symbolType="square", columns=3 if width == NARROW else 6)
        return (
            alt.Chart(data(rows))
            .mark_bar(size=30)
            .encode(
                y=alt.Y("alternative:N", sort=NAMES, title=None),
                x=alt.X("sum(cost):Q", axis=_axis(5), title=f"{c.currency} a year"),
                color=alt.Color("item:N", scale=alt.Scale(domain=kept, range=colours), sort=kept, legend=legend),
                order=alt.Order("rank:Q"),
            )
            .properties(width=width, height=alt.Step(48))
        )

    largest = {a: max(c.costs[a].items.items(), key=lambda kv: kv[1].value) for a in ALTERNATIVES}
    said = and_([f"{item} on {name(a)} ({_money(c, f.value)})" for a, (item, f) in largest.items()])
    return figure(
        "cost-items",
        "What it is made of",
        f"The largest items are {said}.",
        draw,
        "Each item is the middle of its draws.",
    )


def _tornado(c: Comparison) -> Html | None:
    if not c.sensitivities:
        return None
    order = [f"{s.name}\n({s.amount.replace(' /', '/')})" for s in c.sensitivities]
    rows = [
        {"what": label, "low": s.at_low, "high": s.at_high} for label, s in zip(order, c.sensitivities, strict=True)
    ]
    ends = [
        {"what": r["what"], "end": end, "difference": r[key]}
        for r in rows
        for end, key in ((LOW, "low"), (HIGH, "high"))
    ]

    def draw(width: int) -> Drawable:
        narrow = width == NARROW
        y = alt.Y("what:N", sort=order, title=None, axis=folded_axis(narrow=narrow, folded=narrow))
        x = alt.X(
            "low:Q",
            axis=_axis(3 if narrow else 5),
            title=f"cost of VMs less metal's, {c.currency} a year",
        )
        bars = alt.Chart(data(rows)).mark_bar(size=6, color="var(--lines-strong)").encode(y=y, x=x, x2="high:Q")
        colours = alt.Scale(domain=[LOW, HIGH], range=["var(--low-end)", "var(--high-end)"])
        shapes = alt.Scale(domain=[LOW, HIGH], range=["circle", "triangle-right"])
        dots = (
            alt.Chart(data(ends))
            .mark_point(filled=True, size=90, opacity=1)
            .encode(
                y=y,
                x="difference:Q",
                color=alt.Color("end:N", scale=colours, legend=alt.Legend()),
                shape=alt.Shape("end:N", scale=shapes),
            )
        )
        zero = alt.Chart(data([{"at": 0}])).mark_rule(color=INK, strokeWidth=1.5).encode(x="at:Q")
        return layered(bars, zero, dots).properties(width=width, height=alt.Step(36 if narrow else 26))

    widest = c.sensitivities[0]
    turned = [s.name for s in c.sensitivities if min(s.at_low, s.at_high) < 0 < max(s.at_low, s.at_high)]
    outcome = (
        f"{and_(turned)} alone can turn who costs less."
        if turned
        else "None of them alone turns who costs less, within its range."
    )
    sentence = (
        f"What lies between VMs and metal hangs most on {widest.name} ({widest.amount}): VMs cost "
        f"{_apart(c, widest.at_low)} at its low end, {_apart(c, widest.at_high)} at its high end. {outcome}"
    )
    return figure("tornado", "What the difference hangs on", sentence, draw)


def _apart(c: Comparison, difference: float) -> str:
    return f"{_money(c, abs(difference))} a year {'less' if difference < 0 else 'more'}"


def _folded(title: str) -> list[str]:
    """In two lines, for a phone."""
    words = title.split(" ")
    half = math.ceil(len(words) / 2)
    return [" ".join(words[:half]), " ".join(words[half:])]


def _licence(c: Comparison) -> Html | None:
    if not c.licence_curve:
        return None
    rows = [
        {"price": price, "alternative": heading(a), "cost": totals[a]}
        for price, totals in c.licence_curve
        for a in ALTERNATIVES
    ]
    even = c.licence_break_even
    price = f"{c.currency} for a hypervisor's licence, per core and year"

    def draw(width: int) -> Drawable:
        colour = by_alternative(NAMES)["color"]
        colour.legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=3)
        curves = (
            alt.Chart(data(rows))
            .mark_line(strokeWidth=2.5)
            .encode(
                x=alt.X("price:Q", title=_folded(price) if width == NARROW else price, axis=alt.Axis(tickCount=5)),
                y=alt.Y(
                    "cost:Q", title=f"{c.currency} a year",
                    axis=_axis(5), scale=alt.Scale(zero=False),
                ),
                color=colour,
            )
        )  # fmt: skip
        if even is None:
            return curves.properties(width=width, height=240)
        at = alt.Chart(data([{"price": even, "said": f"VMs = metal at {even:,.0f}"}]))
        rule = at.mark_rule(color=FAINT, strokeDash=[5, 4]).encode(x="price:Q")
        left = even < c.licence_curve[-1][0] / 2
        align, dx = ("left", 6) if left else ("right", -6)
        said = at.mark_text(align=align, dx=dx, baseline="top", dy=4).encode(x="price:Q", y=alt.value(0), text="said:N")
        return layered(curves, rule, said).properties(width=width, height=240)

    if even is None:
        sentence = "At no price of a hypervisor's licence do VMs and metal cost the same."
    else:
        sentence = (
            f"From a hypervisor's licence of {even:,.0f} {c.currency} per core and year on, metal costs less than VMs."
        )
    return figure(
        "licence", "What a hypervisor's licence changes", sentence, draw, "All else is at its likeliest value."
    )
