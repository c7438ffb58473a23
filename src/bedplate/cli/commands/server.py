"""Enrol a server: make the file by which its agent becomes known to the controller, once.

Examples:
  bedplate server enrol hv1 -o hv1.enrol
  bedplate server enrol hv1 --replace --controller bedplate.example.com:7444 -o hv1.enrol
  bedplate server enrol hv1 | ssh root@hv1 bedplate agent --enrol-file -
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bedplate.cli.output import as_json
from bedplate.cli.parsing import add_actions, add_connection
from bedplate.cli.private import write_private
from bedplate.cli.session import Session


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


def run(args: argparse.Namespace) -> int:
    """Enrol."""
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
