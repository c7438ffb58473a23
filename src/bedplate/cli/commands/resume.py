"""End a pause: what was held back is done now.

Examples:
  bedplate resume cluster/shop
  bedplate resume --all
"""

from __future__ import annotations

import argparse

from bedplate.cli import pausing
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session

_USAGE = "bedplate resume cluster/NAME, vm/NAME or server/NAME, or --all"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="*", metavar="KIND/NAME", help="clusters, virtual machines or servers")
    parser.add_argument("--all", action="store_true", help="the whole fleet")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Resume."""
    return pausing.set_paused(Session(args), args, None, _USAGE)
