"""Enrol a server, or switch its power.

`enrol` makes the file by which a server's agent becomes known to the controller, once. `power` has its BMC power it on
or off at once (`cycle`: off, then on), and tells what was read back; it names the machines that run there first.

Examples:
  bedplate server enrol hv1 -o hv1.enrol
  bedplate server enrol hv1 --replace --controller bedplate.example.com:7444 -o hv1.enrol
  bedplate server enrol hv1 | ssh root@hv1 bedplate agent --enrol-file -
  bedplate server power on hv1
  bedplate server power cycle hv1 --yes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bedplate.cli.errors import UserError
from bedplate.cli.output import as_json
from bedplate.cli.parsing import add_actions, add_connection
from bedplate.cli.private import write_private
from bedplate.cli.session import Session

POWER_SECONDS = 200.0
"""The controller reads, switches and reads back for up to 160 s."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = add_actions(parser)
    enrol = actions.add_parser("enrol", help="make an enrol file")
    enrol.add_argument("name", metavar="NAME", help="the server's name; it must be declared")
    enrol.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there, mode 0600 (default: standard output)"
    )
    enrol.add_argument("--controller", default="", metavar="HOST:PORT",
                       help="where the agent dials (default: the address at which the controller listens)")  # fmt: skip
    enrol.add_argument("--replace", action="store_true", help="let other hardware take over the name")
    add_connection(enrol)
    power = actions.add_parser("power", help="switch a server's power by its BMC")
    power.add_argument("to", choices=("on", "off", "cycle"), help="off and cycle cut the power at once")
    power.add_argument("name", metavar="NAME", help="the server's name; its BMC must be declared")
    power.add_argument("-y", "--yes", action="store_true", help="don't ask first")
    power.add_argument("--force", action="store_true", help="also where machines run on it; they end at once")
    add_connection(power)


def run(args: argparse.Namespace) -> int:
    """Enrol, or switch."""
    return _enrol(args) if args.action == "enrol" else _power(args)


def _enrol(args: argparse.Namespace) -> int:
    session = Session(args)
    server = session.kind("servers")
    asked = {"controller": args.controller, "replace": args.replace}
    told: dict[str, Any] = session.client.request("POST", session.path(server, args.name, "enrol"), asked)
    text = as_json(told) + "\n"
    if args.output is None:
        sys.stdout.write(text)
    else:
        write_private(args.output, text.encode())
        print(f"wrote {args.output}; it is good for one enrolment", file=sys.stderr)
    return 0


def _power(args: argparse.Namespace) -> int:
    session = Session(args)
    session.client.timeout = POWER_SECONDS
    path = session.path(session.kind("servers"), args.name, "power")
    asked = {"action": args.to, "force": args.force}
    if args.to != "on" and not args.yes:
        found: dict[str, Any] = session.client.request("POST", path, {**asked, "dryRun": True})
        if not found["runs"] or args.force:  # else the controller refuses, and says what helps
            _confirm(args.name, args.to, found)
    told: dict[str, Any] = session.client.request("POST", path, asked)
    print(f"server {args.name} is {told['power']}, as its BMC was read back")
    return 0


def _confirm(name: str, to: str, found: dict[str, Any]) -> None:
    """Ask on the terminal. Raises `UserError` where the answer is not yes, or nobody can answer."""
    runs: list[str] = found["runs"]
    power = found["power"] if found["power"] != "unknown" else f"not known ({found.get('error') or 'no answer'})"
    print(f"The power of server {name} is {power}.", file=sys.stderr)
    if runs:
        print(f"These machines run on it and end at once: {', '.join(runs)}.", file=sys.stderr)
    else:
        print("No machine runs on it.", file=sys.stderr)
    if not sys.stdin.isatty():
        raise UserError(f"nobody is here to confirm; add --yes to power server {name} {to} without being asked")
    what = "Power it off" if to == "off" else "Power it off and on again"
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UserError(f"nothing was done to server {name}")
