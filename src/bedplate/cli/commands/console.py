"""Attach to a machine's serial console, or to a shell on a server in rescue. Ctrl-] leaves it.

Examples:
  bedplate console shop-web-1
  bedplate console virtualmachine/builder
  bedplate console server/r1-u07
"""

from __future__ import annotations

import argparse
import sys

from bedplate.cli import streams
from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session

_LEAVE = b"\x1d"  # Ctrl-]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("machine", metavar="MACHINE", help="a machine, virtualmachine/NAME, or server/NAME")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show the console until the user leaves or it ends."""
    return attach(Session(args), args.machine)


def attach(session: Session, target: str) -> int:
    """The same, of `NAME` or `KIND/NAME`."""
    resource, name = session.target([target], "bedplate console MACHINE", "machine")
    socket = streams.open_stream(session, session.path(resource, name, "console"))
    print(f"connected to the console of {name}; Ctrl-] leaves", file=sys.stderr, flush=True)
    problem = _raw(socket) if sys.stdin.isatty() else streams.pump(socket, sys.stdin.fileno(), sys.stdout.fileno())
    print("\nleft the console", file=sys.stderr)
    if problem:
        raise UserError(f"the console of {name} ended: {problem}")
    return 0


def _raw(socket: object) -> str:
    """Carry keys as they are pressed; the terminal is set back whatever happens."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        return streams.pump(socket, fd, sys.stdout.fileno(), stop_at=_LEAVE)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
