"""How the page calls things: alternatives, sources, who is best of a row, units that people read. Pure."""

from __future__ import annotations

import re

import msgspec

from bedplate.advise.comparing import NAMES, Comparison, Row
from bedplate.advise.figures import Figure, Source
from bedplate.sim.durations import Ranges

SOURCES: dict[Source, str] = {
    "measured": "seen on your own servers",
    "simulated": "counted in simulated years of this fleet; it is as good as the durations that went in",
    "computed": "follows from what you gave, by the formula that stands beside it",
    "literature": "published by others, on other machines than yours",
    "yours": "rests on prices, hours or rates that you gave",
    "none": "nobody knows it yet",
}
MINUTES_FROM = 300.0
"""Seconds from which a duration is shown in minutes."""


def name(alternative: str) -> str:
    """Of an alternative, within a sentence."""
    return "the mix" if alternative == "mix" else NAMES.get(alternative, alternative)


def heading(alternative: str) -> str:
    """Of an alternative, over a column."""
    return {"vm": "VMs", "metal": "Metal", "mix": "Mix"}.get(alternative, alternative)


def capital(title: str) -> str:
    """With its first letter upper-case; the other letters stay."""
    return title[:1].upper() + title[1:]


def counted(count: int, what: str) -> str:
    """`1 server`, `2 servers`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def and_(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def said(row: Row) -> str:
    """What a row says of its verdict, with the alternatives' names."""
    return re.sub(r"\bvm\b", NAMES["vm"], row.said)


def best(row: Row) -> tuple[str, ...]:
    """The alternatives that are better than the others; none where all are alike or it is undecided."""
    return row.best


def lacking(row: Row) -> str:
    """What an unknown row lacks."""
    return re.sub(r"^not known( yet)?: ", "", said(row))


def outcome(row: Row) -> str:
    """What the marks of the best leave untold: that it is undecided, or what would change it."""
    if not row.cells:
        return lacking(row)
    if row.winner == "undecided":
        return f"undecided: {said(row)}"
    if row.winner == "equal":
        return "all are alike"
    return said(row)


def row_of(c: Comparison, wanted: str) -> Row | None:
    """The row of that name, if it is known for this fleet."""
    found = next((r for r in c.rows if r.name == wanted), None)
    return found if found is not None and found.cells else None


def readable(cells: dict[str, Figure]) -> dict[str, Figure]:
    """Seconds as minutes where there are many; all figures of a row alike."""
    if not any(f.unit == "s" and f.value >= MINUTES_FROM for f in cells.values()):
        return cells
    return {a: _in_minutes(f) for a, f in cells.items()}


def _in_minutes(f: Figure) -> Figure:
    low = None if f.low is None else f.low / 60.0
    high = None if f.high is None else f.high / 60.0
    return msgspec.structs.replace(f, value=f.value / 60.0, low=low, high=high, unit="min")


def direction(better: str) -> str:
    """Whether less or more of it is wanted."""
    return "less is better" if better == "lower" else "more is better"


def not_calibrated(c: Comparison) -> tuple[str, ...]:
    """Durations of the simulated world that the user did not measure."""
    known = {f.name for f in msgspec.structs.fields(Ranges)} - {"steps"}
    return tuple(sorted(known - set(c.calibrated)))
