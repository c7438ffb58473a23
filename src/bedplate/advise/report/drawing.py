"""Charts as static SVG whose colours are the page's own, so that they follow light, dark and print. Needs altair."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import altair as alt

from bedplate.advise.report.markup import Html, joined, tag, text

WIDE, NARROW = 540, 340
"""Pixels: a chart is drawn for a screen and again for a phone, where shrunken letters could not be read."""
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, FAINT, LINES = "var(--ink)", "var(--faint)", "var(--lines)"
COLOURS = {"vm": "var(--vm)", "metal": "var(--metal)", "mix": "var(--mix)"}
SHAPES = {"vm": "circle", "metal": "square", "mix": "diamond"}

Drawable = alt.Chart | alt.LayerChart
Draw = Callable[[int], Drawable]
"""Makes a chart of that width."""
FOLDED = "split(datum.label, '\\n')"
UNFOLDED = "join(split(datum.label, '\\n'), ' ')"
_ID = re.compile(r'(?<=\bid=")clip\d+(?=")|(?<=url\(#)clip\d+(?=\))')
_ROLES = re.compile(r' (?:role="graphics-[a-z]+"|aria-roledescription="[^"<>]*"|aria-hidden="true")')
"""Of an image's parts: the image has one role, and its sentence."""


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows for a chart."""
    return alt.InlineData(values=[dict(r) for r in rows])


def figure(key: str, title: str, sentence: str, draw: Draw, remark: str = "") -> Html:
    """A chart with a title, and the sentence that says what it shows to those who do not see it."""
    drawn = [
        tag("div", Html(_svg(draw(width), sentence, f"{key}-{width}")), class_=f"drawn {name}")
        for width, name in ((WIDE, "wide"), (NARROW, "narrow"))
    ]
    shown = f"{sentence} {remark}".strip()
    return tag("figure", tag("h3", title), *drawn, tag("figcaption", shown), class_="chart", id=f"chart-{key}")


def _svg(chart: Drawable, label: str, prefix: str) -> str:
    """Markup to be put into a page beside others: its ids are its own, and it is one image to a screen reader.

    The library counts ids on from chart to chart; they are counted anew, so that the same chart is the same text.
    """
    held = io.StringIO()
    _dressed(chart).save(held, format="svg")
    known: dict[str, str] = {}
    drawn = _ID.sub(lambda m: known.setdefault(m[0], f"{prefix}-{len(known)}"), held.getvalue())
    drawn = _ROLES.sub("", drawn)
    opened = f'<svg role="img" aria-label="{text(label)}" '
    return drawn.replace("<svg ", opened, 1)


def _dressed(chart: Drawable) -> Drawable:
    words: dict[str, Any] = {"labelColor": INK, "titleColor": FAINT, "labelFontSize": 12, "titleFontSize": 12}
    return (
        chart.configure(
            aria=False, background="transparent", font=FONT, autosize=alt.AutoSizeParams(type="fit", contains="padding")
        )
        .configure_view(stroke=None)
        .configure_axis(
            **words, titleFontWeight="normal", gridColor=LINES, domainColor=LINES, tickColor=LINES, labelLimit=150
        )
        .configure_axisY(domain=False, ticks=False, labelPadding=6, grid=False)
        .configure_legend(**words, orient="top", title=None, symbolType="circle", symbolSize=90, labelLimit=110)
        .configure_text(color=INK, fontSize=12)
    )


def layered(*parts: alt.Chart) -> alt.LayerChart:
    """One upon the other."""
    return cast(alt.LayerChart, alt.layer(*parts))


def folded_axis(*, narrow: bool, folded: bool = True, limit: int = 240, offset: int = -6, **more: Any) -> alt.Axis:
    """Of names: their line breaks are kept, or are spaces. What is longer than the limit (on a phone 130) is cut."""
    return alt.Axis(
        labelExpr=FOLDED if folded else UNFOLDED,
        labelLimit=130 if narrow else limit,
        labelOffset=offset if folded else 0,
        **more,
    )


def by_alternative(names: Sequence[str], *, legend: bool = True) -> dict[str, Any]:
    """Encodings of colour and shape; rows have the heading of their alternative in `alternative`."""
    keys = dict(zip(names, COLOURS, strict=False))
    shown = alt.Legend(symbolType="circle") if legend else None
    scale = alt.Scale(domain=list(names), range=[COLOURS[k] for k in keys.values()])
    shapes = alt.Scale(domain=list(names), range=[SHAPES[k] for k in keys.values()])
    return {
        "color": alt.Color("alternative:N", scale=scale, legend=shown),
        "shape": alt.Shape("alternative:N", scale=shapes, legend=shown),
    }


def all_of(figures: Sequence[Html | None]) -> Html:
    """Charts beside one another, as far as there is room."""
    return tag("div", joined(list(itertools.filterfalse(lambda f: f is None, figures))), class_="charts")
