"""A timeline on the screen: one bar for each span, and whose time the critical path was. Writes only."""

from __future__ import annotations

import shutil
from typing import Any

from bedplate.cli import output

_STYLES = {
    "guest boot": "blue",
    "kubeadm": "green",
    "image and disk": "magenta",
    "hypervisor": "cyan",
    "Bedplate": "red",
}
_LEAST_BAR, _MOST_BAR = 20, 60
_SHORT_SECONDS = 0.05
"""What took less is no line of its own in the list of Bedplate's own times."""
_NAMED = 8
_WAITS = "(Bedplate waits)"

Told = dict[str, Any]


def show(told: Told) -> None:
    """Write the waterfall and the summary to the standard output."""
    from rich.console import Console
    from rich.text import Text

    plain = output.plain()
    width = shutil.get_terminal_size((120, 24)).columns
    console = Console(highlight=False, no_color=plain, width=10_000 if plain else width, soft_wrap=plain)
    for line, style in lines(told, width):
        console.print(Text(line, style), no_wrap=True, overflow="crop", crop=not plain)


def lines(told: Told, width: int) -> list[tuple[str, str]]:
    """All lines with their style; `width` is that of the screen, in columns."""
    total = float(told["seconds"])
    critical = {_identity(span) for span in told["criticalPath"]}
    own = [s for s in told["criticalPath"] if _identity(s) not in {_identity(x) for x in told["spans"]}]
    rows = [(s, s["what"], "*" if _identity(s) in critical else " ") for s in told["spans"]]
    rows += [(s, _WAITS, "*") for s in own if s["seconds"] >= _SHORT_SECONDS]
    rows.sort(key=lambda row: (row[0]["start"], row[0]["start"] + row[0]["seconds"]))
    names = max([len(s["of"] or "-") for s, _, _ in rows] or [1])
    whats = max([len(what) for _, what, _ in rows] or [1])
    bar = min(_MOST_BAR, max(_LEAST_BAR, width - names - whats - 28))
    state = "" if told["complete"] else ", not ready yet"
    found = [(f"{told['object']}: {total:.1f} s{state}", "bold"), ("", "")]
    for span, what, mark in rows:
        place = f"{span['start']:8.1f} s {span['seconds']:8.1f} s"
        text = f"{mark} {span['of'] or '-':<{names}}  {what:<{whats}} {place}  {_bar(span, total, bar)}"
        found.append((text.rstrip(), _STYLES.get(span["work"], "")))
    return [*found, ("", ""), *_summary(told, own)]


def _bar(span: Told, total: float, width: int) -> str:
    if total <= 0:
        return ""
    first = min(width - 1, int(span["start"] / total * width))
    last = min(width, max(first + 1, round((span["start"] + span["seconds"]) / total * width)))
    return " " * first + "█" * (last - first)


def _summary(told: Told, own: list[Told]) -> list[tuple[str, str]]:
    total = float(told["seconds"]) or 1.0
    found = [("On the critical path:", "bold")]
    for work, seconds in told["byWork"].items():
        found.append((f"  {work:<40} {seconds:8.1f} s  {seconds / total:4.0%}", _STYLES.get(work, "")))
    found.append((f"  {'neither guest boot nor kubeadm':<40} {told['neither']:8.1f} s", "bold"))
    longest = sorted((s for s in own if s["seconds"] >= _SHORT_SECONDS), key=lambda s: -s["seconds"])[:_NAMED]
    if longest:
        found.append(("Bedplate's longest waits:", "bold"))
        found += [(f"  {s['seconds']:8.2f} s  {s['of'] or '-'}: {s['what']}", "") for s in longest]
    return found


def _identity(span: Told) -> tuple[str, str, float, float]:
    return span["of"], span["what"], span["start"], span["seconds"]
