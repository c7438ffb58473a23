"""The page: what stands where, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec

from bedplate.advise.claims import Verdict as Answered
from bedplate.advise.comparing import Comparison
from bedplate.advise.report import answer, debate, sections
from bedplate.advise.report.markup import Html, joined, tag

LIBRARIES = ("altair", "vl_convert")
"""What draws the charts."""


class ReportError(Exception):
    """The page can't be made, and what to do about it."""


def render(comparison: Comparison, claims: Sequence[Answered]) -> str:
    """One HTML page with all that was found. It loads nothing: styles, script and charts are in it.

    Args:
        claims: The debate's claims with their verdicts; without them their part is left out.

    Raises:
        ReportError: the libraries that draw the charts are not installed.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ReportError(f"the report's charts need {' and '.join(missing)}: pip install bedplate[report]")
    # Here and not above: who wants no page needs no library for charts, and pays no second for loading it.
    from bedplate.advise.report import charts, cost_charts, drawing

    main = tag(
        "main",
        answer.warnings(comparison),
        answer.answer(comparison),
        _contents(with_claims=bool(claims)),
        sections.section(
            "scores",
            "Capability by capability",
            drawing.all_of([charts.scores(comparison), charts.times_the_best(comparison)]),
        ),
        sections.money(comparison, drawing.all_of(cost_charts.charts(comparison))),
        sections.workloads(comparison, drawing.all_of([charts.silent(comparison), charts.recoveries(comparison)])),
        sections.capabilities(comparison),
        debate.debate(claims),
        sections.unknown(comparison, claims),
        sections.how_made(comparison),
        id="main",
    )
    return f"<!DOCTYPE html>\n{_document(comparison, main)}\n"


def _document(c: Comparison, main: Html) -> Html:
    style, script = _held("style.css"), _held("script.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    title = f"VMs or metal: {c.fleet}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(style)),
    )
    top = tag("header", tag("h1", "Kubernetes on VMs, on metal, or on both? ", tag("span", c.fleet, class_="fleet")))
    foot = tag("footer", tag("p", "Made by bedplate compare. This page loads nothing and sends nothing."))
    skip = tag("a", "Skip to the answer", href="#main", class_="skip")
    return tag("html", head, tag("body", skip, top, main, foot, tag("script", Html(script))), lang="en")


def _contents(*, with_claims: bool) -> Html:
    parts = {
        "scores": "Scores",
        "cost": "Cost",
        "workloads": "Workloads",
        "capabilities": "Every figure",
        "claims": "Claims",
        "unknown": "What is not known",
    }
    links = [tag("a", said, href=f"#{key}") for key, said in parts.items() if with_claims or key != "claims"]
    return tag("nav", joined(links, " "), aria_label="On this page", class_="contents")


def _held(name: str) -> str:
    """A file of this package."""
    return resources.files("bedplate.advise.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """As a content security policy names an inline part, so that no other may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
