"""How near the simulated world is to what others have published, for a person to read. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from bedplate.advise import validating
from bedplate.advise.validating import Held
from bedplate.cli import output
from bedplate.cli.times import span
from bedplate.sim.scenario import plain

_HEADINGS = ("Figure", "Published", "Here (median)", "From", "To", "Verdict", "Source")


def show(seeds: Sequence[int], form: str) -> int:
    """Show it; 1 where any is outside. Raises `ScenarioError`."""
    found = list(validating.hold(seeds))
    if form == "table":
        output.TableWriter(_HEADINGS).write([_row(h) for h in found])
        for h in found:
            if h.slack:
                print(f"(+{span(h.slack)}) {h.name}: for {h.of}, which the published figure does not count")
    else:
        written = plain.write(found)
        print(output.as_yaml(written) if form == "yaml" else output.as_json(written))
    return 1 if any(h.verdict == "outside" for h in found) else 0


def _row(h: Held) -> list[str]:
    low, high = h.published
    published = span(high) if low == high else f"{span(low)} to {span(high)}"
    if h.slack:
        published += f" (+{span(h.slack)})"
    return [h.name, published, span(h.median), span(h.low), span(h.high), h.verdict, h.origin]
