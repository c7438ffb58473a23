"""The debate's claims with what this fleet says to each; a script may filter them, without it all are there. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from bedplate.advise.claims import Status
from bedplate.advise.claims import Verdict as Answered
from bedplate.advise.report import tables
from bedplate.advise.report.markup import Html, prose, tag
from bedplate.advise.report.sections import section

STATUSES: tuple[Status, ...] = get_args(Status)
MARKS: dict[Status, str] = {
    "holds": "✓",
    "does not hold": "✗",
    "holds within bounds": "≈",
    "undecided": "?",
    "not answerable": "–",
}
"""Beside the words, so that colour is not all that tells them apart."""


def debate(claims: Sequence[Answered]) -> Html | None:
    """All claims."""
    if not claims:
        return None
    counts: Counter[Status] = Counter(v.status for v in claims)
    known: list[Status] = [s for s in STATUSES if counts[s]]
    summary = ", ".join(f"{s} {counts[s]}" for s in known)
    shown = tag("ol", *(_claim(v) for v in claims), class_="claims", id="claim-list")
    told = f"What is claimed in the debate, and what this fleet says to it: {summary}."
    return section(
        "claims", f"The debate's {len(claims)} claims", tag("p", told), _filter(claims, known, counts), shown
    )


def _filter(claims: Sequence[Answered], known: Sequence[Status], counts: Counter[Status]) -> Html:
    """Hidden until the script that makes it work has run."""
    options = [_option("", f"all ({len(claims)})", checked=True)]
    options += [_option(s, f"{MARKS[s]} {s} ({counts[s]})", checked=False) for s in known]
    return tag(
        "fieldset",
        tag("legend", "Show claims that"),
        *options,
        tag("output", "", id="claim-count"),
        id="claim-filter",
        class_="filter",
        hidden=True,
    )


def _option(status: str, label: str, *, checked: bool) -> Html:
    chosen = tag("input", type="radio", name="status", value=status, checked=checked, aria_controls="claim-list")
    return tag("label", chosen, " ", label)


def _claim(v: Answered) -> Html:
    figures = None
    if v.figures:
        figures = tag("details", tag("summary", "Where its figures are from"), tables.named(v.figures))
    return tag(
        "li",
        tag("h3", tag("span", v.id, class_="id"), " ", v.claim),
        tag("p", _status(v.status), " ", prose(v.because), "."),
        figures,
        id=f"claim-{v.id}",
        data_status=v.status,
    )


def _status(status: Status) -> Html:
    return tag("span", f"{MARKS[status]} {status}", class_=f"status status-{status.replace(' ', '-')}")
