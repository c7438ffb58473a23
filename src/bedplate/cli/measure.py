"""`bedplate measure`: makes the kit, declares the Measurement, and carries it on until all is there.

Thin: the controller decides what runs next; this asks it again and again, so that whoever interrupts it loses one run.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from bedplate.cli import output
from bedplate.cli.bars import Bar
from bedplate.cli.client import Client
from bedplate.cli.errors import UserError
from bedplate.cli.registering import send_file
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session
from bedplate.model import registry
from bedplate.model.measuring import GROUPS, INSTALL_SECONDS, MOST_SECONDS, limit

SLACK_SECONDS = 60.0
"""Beyond what the controller allows a run."""


def run(args: argparse.Namespace) -> int:
    """Measure, and show what came of it. Raises `UserError`."""
    session = Session(args)
    kind = session.kind("measurements")
    name = args.resume or _declare(session, kind, args)
    client = Client(session.context, timeout=limit(MOST_SECONDS) + INSTALL_SECONDS + SLACK_SECONDS)
    try:
        found = _carry_on(client, session.path(kind, name, "carry-on"), name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | UserError):
            print(f"what was measured is kept; `bedplate measure --resume {name}` goes on", file=sys.stderr)
            _stop(client, session.path(kind, name, "stop"))
        raise
    match args.output:
        case "json":
            print(output.as_json(found))
        case "yaml":
            print(output.as_yaml(found))
        case _:
            show(found)
    return 0


def _declare(session: Session, kind: Resource, args: argparse.Namespace) -> str:
    if not args.targets:
        raise UserError("name what to measure: bedplate measure server/hv1 machine/shop-web-1 (or --resume NAME)")
    targets = [_target(word) for word in args.targets]
    digest, path, size = _kit()
    send_file(session.client, digest, path, lambda _: None)
    spec: dict[str, Any] = {
        "targets": targets,
        "only": [g.strip() for g in args.only.split(",") if g.strip()] or list(GROUPS),
        "repetitions": args.repetitions,
        "seconds": args.seconds,
        "scratch": args.scratch,
        "kit": digest,
    }
    meta = {"name": args.name} if args.name else {"generateName": "measure-"}
    body = {"apiVersion": "bedplate.dev/v1alpha1", "kind": "Measurement", "metadata": meta, "spec": spec}
    made: dict[str, Any] = session.client.request("POST", session.path(kind), body)
    name = str(made["metadata"]["name"])
    print(f"measurement {name}: {', '.join(targets)}; kit {digest[7:19]}, {size >> 20} MiB", file=sys.stderr)
    return name


def _target(word: str) -> str:
    kind, slash, name = word.partition("/")
    if not slash or not name:
        raise UserError(f'"{word}" is no target; write server/NAME, machine/NAME or virtualmachine/NAME')
    info = registry.find(kind)
    return f"{info.kind.lower() if info is not None else kind}/{name}"


def _kit() -> tuple[str, Path, int]:
    from bedplate.drivers.artifacts.measuring_kit import build_measuring_kit
    from bedplate.drivers.artifacts.proc import ArtifactError

    try:
        kit = build_measuring_kit(progress=lambda words: print(words, file=sys.stderr))
    except ArtifactError as error:
        raise UserError(str(error)) from error
    return kit.digest, kit.path, kit.size


def _carry_on(client: Client, path: str, name: str) -> dict[str, Any]:
    began, left = time.monotonic(), ""
    with Bar("measuring", 1, before=("{task.description}",), error=True) as bar:
        while True:
            told: dict[str, Any] = client.request("POST", path, {})
            found: dict[str, Any] = told["object"]
            if told["done"]:
                break
            said = str(told["said"])
            there, _, asked = str(found.get("status", {}).get("progress") or "0/1").partition("/")
            bar.update(description=said[:60], completed=int(there), total=int(asked))
            if not bar.shown:
                print(f"[{there}/{asked}] {said}", file=sys.stderr, flush=True)
            left = said
    if not left:
        print(f"measurement {name} was complete already", file=sys.stderr)
    else:
        print(f"measured in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found


def _stop(client: Client, path: str) -> None:
    """Wait for the run under way and take the tools away; the targets do so by themselves too, only later."""
    print("taking the tools away from the targets ...", file=sys.stderr, flush=True)
    try:
        client.request("POST", path, {})
    except (UserError, KeyboardInterrupt):
        print("the tools will leave the targets by themselves, in a quarter of an hour", file=sys.stderr)


# --- showing --------------------------------------------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    """A row for each metric, a column for each target."""
    targets: list[dict[str, Any]] = found.get("status", {}).get("targets") or []
    names = [str(m["name"]) for t in targets for m in t.get("metrics") or ()]
    rows: list[list[str]] = []
    for name in dict.fromkeys(names):
        metrics = [next((m for m in t.get("metrics") or () if m["name"] == name), None) for t in targets]
        unit = next(str(m["unit"]) for m in metrics if m is not None)
        rows.append([name, unit, *(_cell(m) for m in metrics)])
    output.TableWriter(["metric", "unit", *(str(t["target"]) for t in targets)]).write(rows)
    for said in warnings(targets):
        print(said if output.plain(sys.stdout) else f"\x1b[31m{said}\x1b[0m")


def warnings(targets: list[dict[str, Any]]) -> list[str]:
    """What has to be known of the figures."""
    found: list[str] = []
    for t in targets:
        if t.get("emulated"):
            said = "ran under software EMULATION: its figures say nothing of hardware and enter no comparison"
            found.append(f"{t['target']} {said}")
        found += [f"{t['target']}: {said}" for said in t.get("remarks") or ()]
        marked = sum(1 for m in t.get("metrics") or () for s in m.get("samples") or () if s.get("disturbed"))
        if marked:
            found.append(f"{t['target']}: {marked} values were disturbed by others on {t['server']} and do not count")
        alone = [m["name"] for m in t.get("metrics") or () if all(s.get("disturbed") for s in m.get("samples") or ())]
        if alone:
            found.append(
                f"{t['target']}: every value of {', '.join(alone)} was disturbed: they are shown, not to be used"
            )
    return found


def _cell(metric: dict[str, Any] | None) -> str:
    if metric is None or metric.get("median") is None:
        return "-"
    if metric.get("low") is None:
        return _number(metric["median"])
    return f"{_number(metric['median'])} ({_number(metric['low'])}–{_number(metric['high'])})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
