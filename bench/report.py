"""What a measurement gives: one figure beside its reference and its goal, and the table of all of them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. The ratio decides; `limit` None: told only, nothing was promised."""

    what: str
    measured: str
    reference: str
    """What the measured value is compared with, and its value in this run."""
    ratio: float
    goal: str = ""
    limit: float | None = None
    """The highest ratio that meets the goal."""

    @property
    def met(self) -> bool:
        return self.limit is None or self.ratio <= self.limit

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return "–"
        return "yes" if self.met else "**no**"


_COLUMNS = ("what", "measured", "reference", "ratio", "goal", "met?")


def header() -> str:
    """The two first lines of the table."""
    return "\n".join((_line(_COLUMNS), _line("---" for _ in _COLUMNS)))


def row(f: Figure) -> str:
    """One line of the table."""
    return _line((f.what, f.measured, f.reference, f"{f.ratio:.2f}", f.goal or "–", f.verdict))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def seconds(value: float) -> str:
    """A duration as people read it."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def size(value: float) -> str:
    """Bytes as people read them."""
    if value >= 2**20:
        return f"{value / 2**20:.0f} MiB"
    return f"{value / 2**10:.1f} KiB"


def percentile(values: list[float], share: float) -> float:
    """The value that this share (0 to 1) of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
