"""Times as people read them: `95s`, `12m`, `3h`, `5d`. Reads the clock, for display only."""

from __future__ import annotations

import calendar
import time

_UNITS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"))


def parse(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 text in UTC, or None."""
    if not text:
        return None
    try:
        return float(calendar.timegm(time.strptime(text.split(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def span(seconds: float) -> str:
    """A length of time, short: two units where the first is small, as kubectl does."""
    rest = max(0, int(seconds))
    if rest < 120:
        return f"{rest}s"
    for i, (size, unit) in enumerate(_UNITS):
        if rest >= 2 * size or (unit == "m" and rest >= size):
            whole, left = divmod(rest, size)
            lower = (_UNITS[i + 1] if i + 1 < len(_UNITS) else (1, "s")) if whole < 10 else None
            part = left // lower[0] if lower else 0
            return f"{whole}{unit}" + (f"{part}{lower[1]}" if lower and part else "")
    return f"{rest}s"


def age(text: str | None) -> str:
    """How long ago an RFC 3339 time was."""
    then = parse(text)
    return "<unknown>" if then is None else span(time.time() - then)
