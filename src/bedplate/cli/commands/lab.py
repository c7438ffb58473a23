"""A small datacentre on this computer: real libvirt daemons, each in namespaces of its own, and a controller.

Examples:
  bedplate lab up --hypervisors 3
  bedplate lab up --servers 2
  bedplate lab status
  bedplate lab fault power-off hv2
  bedplate lab fault partition hv1 --storage
  bedplate lab fault clear
  bedplate lab down
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from bedplate.cli import lab_faults
from bedplate.cli.board import Board, Line, board
from bedplate.cli.errors import UserError
from bedplate.cli.output import TableWriter, as_json, as_yaml
from bedplate.cli.parsing import add_actions, output_format
from bedplate.cli.times import span

if TYPE_CHECKING:
    from bedplate.lab.status import LabStatus


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = add_actions(parser)
    up = actions.add_parser("up", help="start it, or mend what is dead of it")
    up.add_argument("--hypervisors", type=int, metavar="N", help="how many (default: as before, or 3)")
    up.add_argument("--servers", type=int, metavar="N", help="how many bare servers (default: as before, or none)")
    up.add_argument("--server-memory", type=int, metavar="MIB",
                    help="memory of those that are added (default: 2048)")  # fmt: skip
    status = actions.add_parser("status", help="what runs")
    form = output_format("table", "json", "yaml")
    status.add_argument("-o", "--output", type=form, default="table", metavar="FORMAT", help="table, json or yaml")
    lab_faults.configure(actions)
    actions.add_parser("down", help="stop it and remove all that is in it; caches of images stay")


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    from bedplate.lab.errors import LabError

    try:
        return {"up": _up, "status": _status, "down": _down, "fault": lab_faults.run}[args.action](args)
    except LabError as error:
        raise UserError(str(error)) from None


class Parts:
    """Shows each part's last words and its time. Called from several threads."""

    def __init__(self, view: Board) -> None:
        self._view = view
        self._began: dict[str, float] = {}

    def __call__(self, part: str, words: str) -> None:
        """Take a part's news."""
        began = self._began.setdefault(part, time.monotonic())
        self._view.set(part, Line(part, words, "", began))


def _up(args: argparse.Namespace) -> int:
    from bedplate.cli import wiring

    began = time.monotonic()
    try:
        with board() as view:
            wiring.lab_up(args.hypervisors, args.servers, args.server_memory, progress=Parts(view))
    except KeyboardInterrupt:
        print("\ninterrupted; `bedplate lab up` goes on from here, `bedplate lab down` removes what is there")
        return 130
    print(f"the lab is up after {span(time.monotonic() - began)}; try `bedplate get servers`")
    return 0


def _down(args: argparse.Namespace) -> int:
    from bedplate.cli import wiring

    with board() as view:
        there = wiring.lab_down(progress=Parts(view))
    print("the lab is gone" if there else "there is no lab")
    return 0


def _status(args: argparse.Namespace) -> int:
    from bedplate.cli import wiring

    status = wiring.lab_status()
    if args.output != "table":
        import msgspec

        plain = msgspec.to_builtins(status)
        print(as_yaml(plain) if args.output == "yaml" else as_json(plain))
    else:
        _table(status)
    return 0 if status.phase in ("up", "down") else 1


def _table(status: LabStatus) -> None:
    print(f'lab "{status.name}" is {status.phase}; folder {status.folder}')
    if not status.hypervisors and not status.servers:
        print("start it with `bedplate lab up`")
        return
    print(f"switch {'runs' if status.switch else 'is dead'}, gateway {'runs' if status.gateway else 'is dead'}, "
          f"machines are reached through {status.socks_url}")  # fmt: skip
    if status.hypervisors:
        print()
        _hypervisors(status)
    if status.servers:
        print()
        _servers(status)


def _servers(status: LabStatus) -> None:
    writer = TableWriter(["bare server", "power", "boot", "medium", "bmc", "bmc address", "faults"])
    writer.write(
        [
            one.name,
            one.power,
            one.boot,
            one.medium or "none",
            "runs" if one.bmc else "dead",
            one.bmc_address,
            ", ".join(one.faults) or "none",
        ]
        for one in status.servers
    )


def _hypervisors(status: LabStatus) -> None:
    writer = TableWriter(["name", "address", "power", "uplink", "libvirt", "bmc", "watchdog", "services", "faults"])
    writer.write(
        [
            h.name,
            h.address,
            h.power,
            h.uplink,
            "answers" if h.libvirt else "silent",
            "runs" if h.bmc else "dead",
            "runs" if h.watchdog else "none",
            ", ".join(h.services) or "none",
            ", ".join(h.faults) or "none",
        ]
        for h in status.hypervisors
    )
