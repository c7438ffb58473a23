"""Entry point: finds the command's module, imports only that, and turns faults into one sentence and an exit code.

Exit codes: 0 done, 1 a fault, 2 changes ahead (`plan --exit-code`) or firmware that is not supported (`server firmware
--exit-code`), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from bedplate.cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from bedplate.cli.parsing import Parser

GROUPS: dict[str, dict[str, str]] = {
    "Declare": {
        "apply": "declare what files say",
        "plan": "show what would change and why, to the end of the roll-out",
        "delete": "delete objects",
        "scale": "change a pool's number of machines",
        "label": "set and remove labels",
    },
    "Look": {
        "get": "list objects",
        "describe": "one object in full, with conditions and events",
        "why": "why an object is as it is, and what it waits on",
        "timeline": "where the time went until an object was ready",
        "events": "what happened lately",
        "wait": "wait until objects are ready or gone",
        "explain": "the fields of a kind",
    },
    "Reach": {
        "kubeconfig": "credentials of a cluster",
        "console": "a machine's serial console",
        "ssh": "a shell on a machine",
        "proxy": "a machine's TCP port on standard input and output",
    },
    "Build": {
        "image": "build, list and remove machine images",
        "release": "build, download, list and remove Kubernetes releases",
        "cache": "what builds keep for the next one, and how long",
    },
    "Decide": {
        "fleet": "a file of one's own fleet: from a running one, from kubectl, from lists",
        "measure": "servers and the machines on them, with the same tools by turns",
        "compare": "VMs, metal and a mix of both on one's own fleet, with sources",
        "simulate": "years of a fleet, as it is and with something changed",
        "claims": "what is claimed of VMs and metal, judged on one's own fleet",
    },
    "Operate": {
        "lab": "a small datacentre on this computer",
        "sim": "stories in a simulated datacentre: scenarios, and random ones",
        "serve": "run the controller and its API",
        "agent": "run the agent on a server",
        "server": "enrol a server, switch its power",
        "maintain": "empty servers for maintenance, and fill them again",
        "pause": "leave things as they are",
        "resume": "end a pause",
        "backup": "save the store and its key",
        "restore": "bring a saved store back",
        "accept": "let a restored controller act",
        "version": "the versions of client and controller",
    },
}
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}
_GLOBAL = ("--kubeconfig", "--context", "-n", "--namespace")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        # Faults of files start with their place, so that editors and terminals can jump there.
        print(error if error.has_place else f"bedplate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (such as `head`) has gone; a second fault at exit must not be shown either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(argv: list[str]) -> int:
    leading, rest = _leading_options(argv)
    if not rest or rest[0] in ("-h", "--help", "help"):
        if len(rest) > 1 and rest[0] == "help":
            return _run(rest[1], ["--help"])
        print(help_text())
        return 0
    if rest[0] == "--version":
        from bedplate import __version__

        print(f"bedplate {__version__}")
        return 0
    return _run(rest[0], [*leading, *rest[1:]])


def _leading_options(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split off global options that stand before the command, so that both orders work."""
    i = 0
    while i < len(argv):
        if argv[i] in _GLOBAL:
            i += 2
        elif argv[i].split("=")[0] in _GLOBAL:
            i += 1
        else:
            break
    return argv[:i], argv[i:]


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        kind = "option" if command.startswith("-") else "command"
        raise UserError(f'there is no {kind} "{command}"{did_you_mean(command, COMMANDS)} (see `bedplate --help`)')
    try:
        args = parser_of(command).parse(arguments)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return int(_module(command).run(args) or 0)


def _module(command: str) -> Any:
    # Nothing but what this command needs is imported.
    return __import__(f"bedplate.cli.commands.{command}", fromlist=["run"])


def parser_of(command: str) -> Parser:
    """The parser of a command."""
    from bedplate.cli.parsing import Parser

    module = _module(command)
    parser = Parser(f"bedplate {command}", module.__doc__ or "")
    module.configure(parser)
    return parser


def help_text() -> str:
    """The overview of all commands."""
    lines = ["Bedplate runs Kubernetes on virtual machines and on bare metal from one pool of servers.", ""]
    for group, commands in GROUPS.items():
        lines.append(f"{group}:")
        lines.extend(f"  {name:<12} {summary}" for name, summary in commands.items())
        lines.append("")
    lines.append("Help for one command: bedplate COMMAND --help")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
