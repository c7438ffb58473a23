"""Show the versions of this client and of the controller that its context names.

Examples:
  bedplate version
  bedplate version --client
"""

from __future__ import annotations

import argparse

from bedplate import __version__
from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--client", action="store_true", help="this client's only; asks no controller")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show them."""
    print(f"client      {__version__}", flush=True)
    if args.client:
        return 0
    try:
        told = Session(args).client.get("/version")
    except UserError as error:
        print(f"controller  not reached: {error}")
        return 0
    print(f"controller  {str(told.get('bedplateVersion') or told.get('gitVersion') or 'unknown').lstrip('v')}")
    return 0
