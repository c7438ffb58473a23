"""Fleets' files read for a person, and years of them simulated with a bar that moves."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bedplate.advise import days, fleet, whatif
from bedplate.advise.days import Load
from bedplate.advise.deciding import Plan, where_of
from bedplate.advise.fleet import FleetError, Profile
from bedplate.advise.runs import Kept, Sweep
from bedplate.advise.runs import run as run_sweep
from bedplate.advise.whatif import WhatIf
from bedplate.advise.years import Run
from bedplate.cli.bars import Bar
from bedplate.cli.errors import UserError
from bedplate.cli.times import span
from bedplate.drivers.artifacts.cache import default_root
from bedplate.sim.scenario.plain import ScenarioError

MOST_BYTES = 16 * 2**20


class FaultyFile(UserError):
    """What is wrong with a file, a line for each fault."""

    has_place = True


def add_fleet(parser: argparse.ArgumentParser) -> None:
    """The option that names the fleet's file."""
    parser.add_argument(
        "-f", "--filename", metavar="FILE", required=True, help="the fleet's file, or - for the standard input"
    )


def add_runs(parser: argparse.ArgumentParser, default: int) -> None:
    """Options that say how much is simulated."""
    parser.add_argument("--runs", type=int, default=default, metavar="N",
                        help=f"histories of each alternative, 0 for none (default: {default})")  # fmt: skip
    parser.add_argument("--years", type=float, default=1.0, metavar="Y", help="of each history (default: 1)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="K", help="the first history's seed (default: 1)")
    parser.add_argument("--jobs", type=int, default=0, metavar="J", help="at a time (default: one per core)")


def check_runs(args: argparse.Namespace) -> None:
    """Raises `UserError` where there is nothing to simulate in them."""
    if args.runs < 0:
        raise UserError(f"--runs {args.runs} is below zero; write how many, or 0 for none")
    if not 0 < args.years <= 50:
        raise UserError(f"--years {args.years:g} is out of bounds; write more than 0 and at most 50")


def raw(name: str) -> tuple[Any, str]:
    """What a file holds, and how it is called in faults. Raises `UserError`."""
    source = "stdin" if name == "-" else name
    try:
        data = sys.stdin.buffer.read(MOST_BYTES + 1) if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{source} is larger than {MOST_BYTES // 2**20} MiB")
    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), source
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark is not None else ""
        raise FaultyFile(f"{source}{place}: {getattr(error, 'problem', None) or 'it is no YAML'}") from None
    except UnicodeDecodeError:
        raise FaultyFile(f"{source}: it is no text in UTF-8") from None


def load(name: str) -> Profile:
    """A fleet's file. Raises `UserError`."""
    found, source = raw(name)
    return _read(found, source)


def load_changed(name: str, change: str) -> tuple[Profile, Profile, WhatIf]:
    """A fleet's file, the same with a what-if, and that. Raises `UserError`."""
    found, source = raw(name)
    base = _read(found, source)
    edits, where = raw(change)
    try:
        what = whatif.read(edits, where)
        return base, fleet.read(whatif.edited(found, what, where), f"{source} with {where}"), what
    except FleetError as error:
        raise FaultyFile(str(error)) from None


def _read(found: Any, source: str) -> Profile:
    try:
        return fleet.read(found, source)
    except FleetError as error:
        raise FaultyFile(str(error)) from None


def seeds(args: argparse.Namespace) -> tuple[int, ...]:
    """Of the histories that are asked for."""
    return tuple(range(args.first_seed, args.first_seed + args.runs))


def simulate(what: Mapping[str, tuple[Profile, Plan]], args: argparse.Namespace) -> dict[str, Sequence[Run]]:
    """Run what is asked for of each, in the order of seeds; what was run before is taken as it was kept.

    Raises:
        UserError: a layout cannot be simulated.
    """
    found: dict[str, Sequence[Run]] = {}
    if not args.runs:
        return found
    kept = Kept(default_root() / "simulated")
    with _Bar(args.runs * len(what)) as bar:
        for name, (profile, plan) in what.items():
            if plan.layout.impossible:
                continue
            sweep = Sweep(profile=profile, layout=plan.layout, seeds=seeds(args), years=args.years)
            runs: list[Run] = []
            bar.say(name)
            try:
                for one in run_sweep(sweep, jobs=args.jobs, kept=kept):
                    runs.append(one)
                    bar.step()
            except ScenarioError as error:
                raise UserError(f"{name} cannot be simulated: {str(error).partition(chr(10))[0]}") from None
            found[name] = sorted(runs, key=lambda r: r.seed)
    return found


def under_load(profile: Profile, plan: Plan) -> Load | None:
    """Days of load on virtual machines, as they were kept where they were told before; None where not all fits there.

    Raises:
        UserError: a layout cannot be simulated.
    """
    if plan.layout.impossible:
        return None
    kept = Kept(default_root() / "simulated")
    digest = days.digest(profile, plan.layout)
    known = kept.get(digest, "load", Load)
    if known is not None:
        return known
    try:
        with _Bar(len(days.levels(profile)) + 1) as bar:
            bar.say("load")
            told = days.evidence(profile, where_of(plan), bar.step)
    except ScenarioError as error:
        raise UserError(f"load cannot be simulated: {str(error).partition(chr(10))[0]}") from None
    kept.put(digest, "load", told)
    return told


class _Bar(Bar):
    """Progress on the standard error: a bar on a terminal, else a line at the end."""

    def __init__(self, total: int) -> None:
        super().__init__("simulating", total, before=("{task.description}",), error=True)
        self._total = total
        self._done = 0
        self._began = time.monotonic()

    def say(self, name: str) -> None:
        """What is run now."""
        self.update(description=f"simulating {name}")

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        self.update(completed=self._done)
        if not self.shown and self._done == self._total:
            print(f"simulated {self._total} histories in {span(time.monotonic() - self._began)}", file=sys.stderr)
