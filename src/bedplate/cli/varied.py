"""Before and after on the screen. Decides nothing."""

from __future__ import annotations

from bedplate.advise.comparing import NAMES
from bedplate.advise.varying import BASE, VARIANT, Variation
from bedplate.cli.output import TableWriter


def show(v: Variation) -> None:
    """Write all of it."""
    for said in v.faults:
        print(f"NOT TO BE TRUSTED: {said}")
    for name in (BASE, VARIANT) if v.what else (BASE,):
        fit = v.fits[name]
        servers = ", ".join(f"{n} {m}" for m, n in fit.servers.items())
        title = f"{name} ({v.what})" if name == VARIANT else name
        print(f"{title}, on {NAMES[v.alternative]}: {fit.count} servers ({servers}), {fit.nodes} workers")
        for model, n in fit.shortage.items():
            print(f"  {n} more {model} would have to be bought")
        for said in fit.impossible:
            print(f"  {said}")
    print(f"{v.runs} histories of {v.years:g} year{'s' if v.years != 1 else ''}")
    print()
    if not v.what:
        table = TableWriter(("capability", "quantity", "value", "source"))
        table.write([c.capability, c.title, c.base.text, c.base.source] for c in v.changes)
        return
    table = TableWriter(("quantity", BASE, VARIANT, "difference", "verdict"))
    table.write([c.title, c.base.text, c.variant.text, c.difference.text, c.verdict] for c in v.changes)
