"""Leave things as they are: nothing is moved, restarted, fenced or replaced by itself until `bedplate resume`.

What would have been done is shown by `bedplate why`. A fence that has begun is finished first. Changes that users
declare meanwhile are carried out.

Examples:
  bedplate pause cluster/shop --reason "storage is being moved"
  bedplate pause server/hv1
  bedplate pause --all --reason "network work until 14:00"
"""

from __future__ import annotations

import argparse

from bedplate.cli import pausing
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session

_USAGE = "bedplate pause cluster/NAME, vm/NAME or server/NAME, or --all"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="*", metavar="KIND/NAME", help="clusters, virtual machines or servers")
    parser.add_argument("--all", action="store_true", help="the whole fleet")
    parser.add_argument("--reason", default="no reason was given", metavar="TEXT", help="why, for whoever asks")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Pause."""
    return pausing.set_paused(Session(args), args, args.reason or "no reason was given", _USAGE)
