"""Open a shell on a machine with the system's ssh, through the controller and the machine's server.

Keys are those of your own ssh (its agent, its files), or the one of --identity; the machine must know it.

Examples:
  bedplate ssh shop-web-1
  bedplate ssh shop-web-1 -- uptime
  bedplate ssh -l debian -i ~/.ssh/lab virtualmachine/builder
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys

from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("-l", "--login", default="root", metavar="USER", help="who to log in as (default: root)")
    parser.add_argument("-i", "--identity", metavar="FILE", help="private key")
    parser.add_argument("--port", type=int, default=22, help="ssh's port on the machine (default: 22)")
    add_namespace(parser)
    add_connection(parser)
    parser.add_argument("machine", metavar="MACHINE", help="a machine, or virtualmachine/NAME")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="[-- COMMAND...]", help="run this, not a shell")


def run(args: argparse.Namespace) -> int:
    """Become ssh."""
    program = shutil.which("ssh")
    if program is None:
        raise UserError("there is no ssh on this computer; install Debian's openssh-client")
    session = Session(args)
    resource, name = session.target([args.machine], "bedplate ssh MACHINE", "machine")
    uid = str(session.read(resource, name)["metadata"].get("uid") or name)
    session.client.close()
    argv = command_line(args, session, f"{resource.singular}/{name}", uid)
    sys.stdout.flush()
    os.execv(program, argv)


def command_line(args: argparse.Namespace, session: Session, target: str, uid: str) -> list[str]:
    """The ssh to run. A machine's host key is kept under its uid: a replaced machine is another one."""
    known = session.config_path.parent / "known_hosts"
    known.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    bridge = [sys.executable, "-m", "bedplate.cli.main", "proxy", "--kubeconfig", str(session.config_path),
              "--context", session.context.name, "-n", session.namespace, target, "%p"]  # fmt: skip
    options = {
        # ssh expands % in it: our own must survive, ssh's %p must not be quoted.
        "ProxyCommand": " ".join(part if part == "%p" else shlex.quote(part.replace("%", "%%")) for part in bridge),
        "HostKeyAlias": f"bedplate-{uid}",
        "UserKnownHostsFile": f'"{known}"',
        "StrictHostKeyChecking": "accept-new",
    }
    argv = ["ssh", *(word for k, v in options.items() for word in ("-o", f"{k}={v}"))]
    if args.identity:
        argv += ["-i", args.identity, "-o", "IdentitiesOnly=yes"]
    rest = args.command[1:] if args.command[:1] == ["--"] else args.command
    return [*argv, "-p", str(args.port), "-l", args.login, target.rpartition("/")[2], *rest]
