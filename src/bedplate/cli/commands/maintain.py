"""Empty servers for maintenance, keep them empty, and fill them again.

Machines on shared disks move live; nodes on local disks are replaced elsewhere first. With --all, servers take their
turns: emptied, the hook run, filled again. It can be stopped at any time and started again: servers that were done in
the same --run are left out.

Examples:
  bedplate maintain server/hv1 --reason "new firmware" --wait
  bedplate maintain server/hv1 --undo
  bedplate maintain --all --parallel 2 --per rack --reason "kernel update" --hook 'ssh root@$SERVER_ADDRESS ./patch.sh'
"""

from __future__ import annotations

import argparse

from bedplate.cli import rolling
from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_timeout
from bedplate.cli.session import Session

_USAGE = "bedplate maintain server/NAME [--reason TEXT] or bedplate maintain --all"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="*", metavar="server/NAME", help="the servers")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for whoever asks")
    parser.add_argument("--until", default=None, metavar="TIME", help="RFC 3339 time at which it is over by itself")
    parser.add_argument("--undo", action="store_true", help="end the maintenance: machines may come again")
    parser.add_argument("--wait", action="store_true", help="wait until the servers are empty")
    add_timeout(parser, "2h", "longest wait for one server to be empty, and for it to be back after the hook")
    group = parser.add_argument_group("rolling over all servers")
    group.add_argument("--all", action="store_true", help="all hypervisors, one after the other")
    group.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="servers in maintenance at once (default: 1)"
    )
    group.add_argument(
        "--per", default="", metavar="LABEL", help="at once only out of one failure domain, such as rack"
    )
    group.add_argument("--hook", default="", metavar="COMMAND",
                       help="shell command for each empty server, with SERVER and SERVER_ADDRESS set")  # fmt: skip
    group.add_argument("--run", default="", metavar="NAME", help="name of this round; servers done in it are left out")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Begin or end maintenance."""
    session = Session(args)
    if args.all:
        if args.what or args.undo:
            raise UserError(f"--all goes over all servers and ends each maintenance itself: {_USAGE}")
        if args.parallel < 1:
            raise UserError(f"--parallel {args.parallel} would do nothing; write 1 or more")
        return rolling.roll(session, args)
    if not args.what:
        raise UserError(f"name the servers: {_USAGE}")
    names = [_server(session, word) for word in args.what]
    for name in names:
        rolling.set_maintenance(session, name, None if args.undo else rolling.wanted(args))
        print(f"server/{name} {'is in service again' if args.undo else 'is in maintenance'}", flush=True)
    if args.wait and not args.undo:
        for name in names:
            rolling.until(session, name, "Empty", args.timeout)
            print(f"server/{name} is empty", flush=True)
    return 0


def _server(session: Session, word: str) -> str:
    resource, name = session.target([word], _USAGE, "server")
    if resource.kind != "Server":
        raise UserError(f"a {resource.kind} has no maintenance; servers have: {_USAGE}")
    session.read(resource, name)
    return name
