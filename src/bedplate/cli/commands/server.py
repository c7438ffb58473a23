"""Enrol a hypervisor, switch a server's power, or take a bare server through its life.

A bare server is added (declared with its BMC, or found by its BMC's address), accepted (from then on it is booted, and
its disks may be overwritten), inspected and tested by that, and then there for node pools of `substrate: metal`.
`inspect`, `test` and `erase` ask for that once more, of a server that nobody uses; `retire` erases it and takes it out
of service. `rescue` has it run the RAM system for you to look into it, with a shell by `console`: a node on it is
drained first, a hypervisor emptied, nothing writes to its disks, and with --undo it goes back to what it was.
`firmware` shows what was found at its inspection against the declared CompatibilityMatrix objects; none is ever
updated. `drift` shows in what a deployed server is not as its image any more: packages, files, kernel, firmware.

`enrol` makes the file by which a server's agent becomes known to the controller, once. `power` has its BMC power it on
or off at once (`cycle`: off, then on), and tells what was read back; it names the machines that run there first.

Examples:
  bedplate server enrol hv1 -o hv1.enrol
  bedplate server enrol hv1 --replace --controller bedplate.example.com:7444 -o hv1.enrol
  bedplate server enrol hv1 | ssh root@hv1 bedplate agent --enrol-file -
  bedplate server add r1-u07 --bmc redfish+https://10.0.0.7 --username root --password-file bmc.txt --domain rack=r1
  bedplate server add -f rack1.csv
  bedplate server add --scan 10.0.0.0/28 --username root --password-file bmc.txt --domain rack=r1 --dry-run
  bedplate server accept r1-u07 r1-u08 --yes --wait
  bedplate server test r1-u07 --suite burn-in
  bedplate server rescue r1-u07 --wait && bedplate server console r1-u07
  bedplate server rescue r1-u07 --undo --wait
  bedplate server firmware --exit-code
  bedplate server drift --exit-code
  bedplate server erase r1-u07 --yes --wait
  bedplate server retire r1-u07 --yes
  bedplate server power on hv1
  bedplate server power cycle hv1 --yes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bedplate.cli import bare, drift, firmware, racking
from bedplate.cli.asking import confirm
from bedplate.cli.commands import console
from bedplate.cli.output import as_json
from bedplate.cli.parsing import add_actions, add_connection, add_timeout, existing_file, output_format
from bedplate.cli.private import write_private
from bedplate.cli.session import Session

POWER_SECONDS = 200.0
"""The controller reads, switches and reads back for up to 160 s."""


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
    _configure_bare(actions)
    power = actions.add_parser("power", help="switch a server's power by its BMC")
    power.add_argument("to", choices=("on", "off", "cycle"), help="off and cycle cut the power at once")
    power.add_argument("name", metavar="NAME", help="the server's name; its BMC must be declared")
    power.add_argument("-y", "--yes", action="store_true", help="don't ask first")
    power.add_argument("--force", action="store_true", help="also where machines run on it; they end at once")
    add_connection(power)


def _configure_bare(actions: Any) -> None:
    add = actions.add_parser("add", help="declare bare servers with their BMCs")
    add.add_argument("name", metavar="NAME", nargs="?", default="", help="the server's name")
    add.add_argument("--bmc", default="", metavar="ADDRESS", help="its BMC, such as redfish+https://10.0.0.7")
    add.add_argument("--credentials", default="", metavar="SECRET", help="a Secret with username and password")
    add.add_argument("--username", default="", metavar="NAME", help="of the BMC; a Secret is made for it")
    add.add_argument("--password-file", default="", metavar="FILE", help="file with the BMC's password, - to read it")
    add.add_argument("--verify-ca", type=existing_file, metavar="FILE", help="PEM of the BMC's certificate or its CA")
    add.add_argument("--insecure", action="store_true", help="take any certificate of the BMC")
    add.add_argument("--network", default="", metavar="NAME", help="Network that it boots in (default: the only one)")
    add.add_argument("--boot-mac", default="", metavar="MAC", help="its interface on that network (default: any)")
    add.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; may be repeated")
    add.add_argument("--domain", action="append", default=[], metavar="KEY=VALUE",
                     help="failure domain, such as rack=r1; may be repeated")  # fmt: skip
    add.add_argument("-f", "--filename", default="", metavar="FILE",
                     help=f"CSV file of many, - for the standard input; columns: {', '.join(racking.COLUMNS)}, "
                     "labels.KEY, failureDomain.KEY")  # fmt: skip
    add.add_argument("--scan", default="", metavar="RANGE",
                     help="find BMCs by their addresses, such as 10.0.0.10-10.0.0.50 or 10.0.0.0/28, and declare what "
                     "is new; each is logged in to once")  # fmt: skip
    add.add_argument("--port", type=int, default=443, metavar="N", help="of the BMCs, with --scan (default: 443)")
    add.add_argument("--dry-run", action="store_true", help="with --scan: show what would be added")
    add.add_argument("-y", "--yes", action="store_true",
                     help="with --scan: don't ask before the password goes to what answered")  # fmt: skip
    add_connection(add)
    for name, what in (
        ("accept", "let servers be booted and overwritten"),
        ("inspect", "look at servers' hardware again"),
        ("test", "test servers again"),
        ("erase", "erase all disks of servers"),
        ("retire", "erase servers and take them out of service"),
        ("rescue", "have servers run the RAM system, to look into them"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("names", metavar="NAME", nargs="+", help="servers")
        if name == "test":
            action.add_argument("--suite", choices=("quick", "burn-in"), default="quick", help="default: quick")
        if name in {"retire", "rescue"}:
            back = "take them back into service" if name == "retire" else "have them be what they were"
            action.add_argument("--undo", action="store_true", help=back)
        if name in {"accept", "erase", "retire", "rescue"}:
            action.add_argument("-y", "--yes", action="store_true", help="don't ask first")
        _add_waiting(action)
    shell = actions.add_parser("console", help="open a shell on a server in rescue; Ctrl-] leaves it")
    shell.add_argument("name", metavar="NAME", help="the server's name")
    add_connection(shell)
    for name, what, wrong in (
        ("firmware", "show servers' firmware against the compatibility matrices", "not supported"),
        ("drift", "show how deployed servers differ from what was deployed", "not as deployed"),
    ):
        shown = actions.add_parser(name, help=what)
        shown.add_argument("names", metavar="NAME", nargs="*", help="servers (default: all that were inspected)")
        shown.add_argument("-o", "--output", type=output_format("table", "json", "yaml"), default="table",
                           metavar="FORMAT", help="table, json or yaml")  # fmt: skip
        shown.add_argument("--exit-code", action="store_true", help=f"exit with 2 where any is {wrong}")
        add_connection(shown)
    role = actions.add_parser("role", help="make bare servers hypervisors, give them back, or leave it to policy")
    role.add_argument("names", metavar="NAME", nargs="+", help="servers")
    role.add_argument("--to", required=True, choices=("hypervisor", "free", "auto"),
                      help="hypervisor: written, booted, used for virtual machines; free: emptied, erased, available "
                      "to pools on metal; auto: either, as what waits for room needs it")  # fmt: skip
    role.add_argument("-y", "--yes", action="store_true", help="don't ask first")
    _add_waiting(role)


def _add_waiting(action: argparse.ArgumentParser) -> None:
    action.add_argument("--wait", action="store_true", help="wait until it is done")
    add_timeout(action, "2h", "longest wait")
    add_connection(action)


def run(args: argparse.Namespace) -> int:
    """Do what is asked."""
    match args.action:
        case "enrol":
            return _enrol(args)
        case "power":
            return _power(args)
        case "add":
            return bare.add(Session(args), args)
        case "firmware":
            return firmware.show(Session(args), args)
        case "drift":
            return drift.show(Session(args), args)
        case "accept":
            return bare.accept(Session(args), args)
        case "role":
            return bare.role(Session(args), args)
        case "retire":
            return bare.retire(Session(args), args)
        case "rescue":
            return bare.rescue(Session(args), args)
        case "console":
            return console.attach(Session(args), f"server/{args.name}")
        case _:
            return bare.ask(Session(args), args)


def _enrol(args: argparse.Namespace) -> int:
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


def _power(args: argparse.Namespace) -> int:
    session = Session(args)
    session.client.timeout = POWER_SECONDS
    path = session.path(session.kind("servers"), args.name, "power")
    asked = {"action": args.to, "force": args.force}
    if args.to != "on" and not args.yes:
        found: dict[str, Any] = session.client.request("POST", path, {**asked, "dryRun": True})
        if not found["runs"] or args.force:  # else the controller refuses, and says what helps
            _confirm(args.name, args.to, found)
    told: dict[str, Any] = session.client.request("POST", path, asked)
    print(f"server {args.name} is {told['power']}, as its BMC was read back")
    return 0


def _confirm(name: str, to: str, found: dict[str, Any]) -> None:
    """Ask on the terminal. Raises `UserError` where the answer is not yes, or nobody can answer."""
    runs: list[str] = found["runs"]
    power = found["power"] if found["power"] != "unknown" else f"not known ({found.get('error') or 'no answer'})"
    print(f"The power of server {name} is {power}.", file=sys.stderr)
    if runs:
        print(f"These machines run on it and end at once: {', '.join(runs)}.", file=sys.stderr)
    else:
        print("No machine runs on it.", file=sys.stderr)
    what = "Power it off" if to == "off" else "Power it off and on again"
    confirm(what, f"power server {name} {to}", f"nothing was done to server {name}")
