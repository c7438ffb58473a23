"""Tables of figures: three alternatives side by side, and below each row where its figures are from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bedplate.advise import figures
from bedplate.advise.deciding import ALTERNATIVES
from bedplate.advise.figures import Figure, Source
from bedplate.advise.report.markup import Child, Html, joined, tag, text
from bedplate.advise.report.words import SOURCES, heading


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    title: str
    cells: Mapping[str, Figure]
    """By alternative; empty: it is not known."""
    best: tuple[str, ...] = ()
    hint: str = ""
    """Behind the title: the unit, what is wanted."""
    outcome: str = ""
    note: str = ""
    undecided: bool = False


def table(caption: str, groups: Iterable[tuple[str, Sequence[Line]]], *, answer: str = "") -> Html:
    """A table with a body for each group; a group without a title has no row of its own."""
    head = tag(
        "thead",
        tag(
            "tr",
            tag("th", tag("span", "Quantity", class_="unseen"), scope="col"),
            *(_column(a, chosen=a == answer) for a in ALTERNATIVES),
        ),
    )
    bodies = [tag("tbody", _group(title), *(_rows(line) for line in lines)) for title, lines in groups]
    return tag("table", tag("caption", caption), head, *bodies, class_="figures")


def _column(alternative: str, *, chosen: bool) -> Html:
    mark = tag("small", " the answer") if chosen else None
    return tag("th", heading(alternative), mark, scope="col", class_=f"column-{alternative}")


def _group(title: str) -> Html | None:
    if not title:
        return None
    return tag("tr", tag("th", title, scope="rowgroup", colspan=1 + len(ALTERNATIVES)), class_="group")


def _rows(line: Line) -> Html:
    title = tag("th", line.title, " ", tag("small", line.hint) if line.hint else None, scope="row")
    if line.cells:
        cells = [_cell(line, a) for a in ALTERNATIVES]
    else:
        cells = [tag("td", tag("em", "not known"), colspan=len(ALTERNATIVES), class_="unknown")]
    return joined([tag("tr", title, *cells, class_="line"), tag("tr", _where_from(line), class_="how")])


def _cell(line: Line, alternative: str) -> Html:
    figure = line.cells.get(alternative)
    if figure is None:
        return tag("td", tag("em", "not known"), class_="unknown")
    mark = tag("span", "best", class_="mark") if alternative in line.best else None
    return tag("td", tag("span", figures.number(figure.value), class_="value"), " ", mark, _range(figure))


def _range(figure: Figure) -> Html | None:
    if figure.low is None or figure.high is None:
        return None
    low, high = figures.number(figure.low), figures.number(figure.high)
    return None if low == high else tag("small", f"{low}–", tag("wbr"), high, class_="range")


def _where_from(line: Line) -> Html:
    """A row that opens: the verdict, and each figure's source, how and origin; what is the same is said once."""
    sources: list[Source] = list(dict.fromkeys(f.source for f in line.cells.values()))
    outcome = tag("span", line.outcome, class_="undecided" if line.undecided else None) if line.outcome else None
    parts: list[Child] = [joined([badge(s) for s in sources], " "), " " if sources else None, outcome]
    if not line.cells:
        return tag("td", *parts, colspan=1 + len(ALTERNATIVES))
    note = tag("p", line.note) if line.note else None
    spoken = tag("span", f" {line.title}: where its figures are from", class_="unseen")
    opened = tag("details", tag("summary", *parts, spoken), origins(line.cells), note)
    return tag("td", opened, colspan=1 + len(ALTERNATIVES))


def origins(cells: Mapping[str, Figure]) -> Html:
    """Where figures are from, by alternative. A source that all have stands in the summary and is not said again."""
    known = {a: (cells[a].source, cells[a].how, cells[a].origin) for a in ALTERNATIVES if a in cells}
    marked = len({source for source, _, _ in known.values()}) > 1
    if len(set(known.values())) == 1:
        return tag("p", origin(next(iter(cells.values())), marked=marked))
    return tag("dl", *(joined([tag("dt", heading(a)), tag("dd", origin(cells[a], marked=marked))]) for a in known))


def origin(figure: Figure, *, marked: bool) -> Html:
    """Where one figure is from: its source (if it is to be marked), how one gets it again, who published it."""
    published = f"Published by {figure.origin}." if figure.origin else None
    how = f"{figure.how}." if figure.how else "No formula is told."
    return joined([badge(figure.source) if marked else None, how, published], " ")


def badge(source: Source) -> Html:
    """A source by word and colour."""
    return tag("span", source, class_=f"source source-{source}", title=SOURCES[source])


def named(figures_: Sequence[Figure]) -> Html:
    """Figures that stand alone, each with its source."""
    return tag("ul", *(tag("li", tag("b", f.text), " ", origin(f, marked=True)) for f in figures_), class_="named")


def legend() -> Html:
    """What the sources mean."""
    entries = [joined([tag("dt", badge(s)), tag("dd", text(f"{said}."))]) for s, said in SOURCES.items()]
    return tag("dl", *entries, class_="legend")
