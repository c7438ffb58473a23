"""A comparison on the screen: the answer first, then the figures by capability, then each workload. Decides nothing."""

from __future__ import annotations

import csv
import io
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from bedplate.advise import claims
from bedplate.advise.comparing import NAMES, Comparison, PerWorkload, Row
from bedplate.advise.deciding import ALTERNATIVES
from bedplate.cli.errors import UserError
from bedplate.cli.output import TableWriter

WIDTH = 110
CSV_COLUMNS = (
    "capability", "quantity", "alternative", "value", "low", "high", "unit", "source", "better", "how", "origin",
)  # fmt: skip
_MARKS = {"equal": "alike", "undecided": "undecided", "": "-"}


def show(c: Comparison, *, wide: bool) -> None:
    """Write all of it."""
    for said in c.faults:
        print(f"NOT TO BE TRUSTED: {said}")
    _paragraph(c.verdict.sentence)
    for said in c.verdict.flips[:4]:
        _paragraph(f"  {said}")
    for a, fit in c.fits.items():
        short = [f"{n} more {m}" for m, n in fit.shortage.items()]
        if short:
            _paragraph(f"{NAMES[a]}: {', '.join(short)} would have to be bought")
        for said in fit.impossible:
            _paragraph(f"{NAMES[a]}: {said}")
    print()
    _table(c, wide=wide)
    print()
    _workloads(c.workloads, wide=wide)
    print()
    _notes(c)


def _table(c: Comparison, *, wide: bool) -> None:
    heads = ["capability", "quantity", *(NAMES[a] for a in ALTERNATIVES), "better", "source"]
    table = TableWriter([*heads, "how"] if wide else heads)
    rows: list[list[str]] = []
    last = ""
    for row in c.rows:
        capability = row.capability if row.capability != last else ""
        last = row.capability
        cells = [row.cells[a].text if row.cells else "-" for a in ALTERNATIVES]
        made = [capability, row.title, *cells, _better(row), _source(row)]
        if wide:
            made.append(next((f.how + (f" [{f.origin}]" if f.origin else "") for f in row.cells.values()), ""))
        rows.append(made)
    table.write(rows)


def _better(row: Row) -> str:
    return " and ".join(NAMES[a] for a in row.best) or _MARKS[row.winner]


def _source(row: Row) -> str:
    return ", ".join(sorted({f.source for f in row.cells.values()})) or "none"


def _workloads(found: Sequence[PerWorkload], *, wide: bool) -> None:
    heads = ["cluster", "workload", "mix", "VMs min/year", "metal min/year", "mix min/year"]
    table = TableWriter([*heads, "because"])
    rows: list[list[str]] = []
    for w in found:
        mix = w.placed["mix"]
        cells = [w.silent[a].text.removesuffix(" min/year").replace(" min/year", "") if a in w.silent else "-"
                 for a in ALTERNATIVES]  # fmt: skip
        because = mix.reason if wide else textwrap.shorten(mix.reason, 60, placeholder=" ...")
        rows.append([w.cluster, w.workload, mix.substrate, *cells, because])
    table.write(rows)


def _notes(c: Comparison) -> None:
    for row in c.rows:
        if row.said:
            _paragraph(f"{row.title}: {row.said}")
    if not c.runs:
        _paragraph("Nothing was simulated (--runs 0): availability, blast radius and agility are not known.")
        return
    known = ", ".join(c.calibrated) or "none"
    if c.emulated:
        known += " (under SOFTWARE EMULATION: not what servers take)"
    _paragraph(
        f"Simulated: {c.runs} histories of {c.years:g} year{'s' if c.years != 1 else ''} for each. Durations that you "
        f"measured: {known}; the others are the simulated world's own, seen in a lab under software emulation "
        "(docs/tasks/decide.md)."
    )


def _paragraph(text: str) -> None:
    indent = " " * (len(text) - len(text.lstrip()))
    print(textwrap.fill(text, WIDTH, initial_indent="", subsequent_indent=indent))


def as_csv(c: Comparison) -> str:
    """One line for each figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("capability", "quantity", "alternative", "value", "low", "high", "unit", "source", "better", "how", "origin")
    )
    for row in c.rows:
        for a, f in row.cells.items():
            writer.writerow(
                (row.capability, row.name, a, f.value, f.low, f.high, f.unit, f.source, row.winner, f.how, f.origin)
            )
    return out.getvalue().rstrip("\n")


def write_report(path: Path, c: Comparison, found: Sequence[claims.Verdict]) -> None:
    """Write the page. Raises `UserError`."""
    from bedplate.advise.report import ReportError, render

    try:
        page = render(c, found)
        path.write_text(page, encoding="utf-8")
    except ReportError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    print(f"wrote {path} ({len(page.encode()) // 1024} KiB)", file=sys.stderr)


def show_claims(found: Iterable[claims.Verdict]) -> None:
    """Write verdicts: a line, then why."""
    bold = sys.stdout.isatty()
    for v in found:
        head = f"{v.id:<4} {v.status}"
        print(f"\033[1m{head}\033[0m" if bold else head)
        for text in (v.claim, f"→ {v.because}"):
            print(textwrap.fill(text, WIDTH, initial_indent="     ", subsequent_indent="     "))
