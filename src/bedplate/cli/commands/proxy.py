"""Bridge a machine's TCP port to the standard input and output; `bedplate ssh` uses it.

Examples:
  ssh -o ProxyCommand="bedplate proxy shop-web-1 22" root@shop-web-1
"""

from __future__ import annotations

import argparse
import sys

from bedplate.cli import streams
from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("machine", metavar="MACHINE", help="a machine, or virtualmachine/NAME")
    parser.add_argument("port", type=int, metavar="PORT", help="its TCP port")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Bridge until one side ends."""
    session = Session(args)
    resource, name = session.target([args.machine], "bedplate proxy MACHINE PORT", "machine")
    socket = streams.open_stream(session, session.path(resource, name, "tcp"), {"port": args.port})
    problem = streams.pump(socket, sys.stdin.fileno(), sys.stdout.fileno())
    if problem:
        raise UserError(f"the stream to port {args.port} of {name} ended: {problem}")
    return 0
