"""`bedplate lab fault`: its arguments, what they mean as faults, and how faults are listed."""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING, Any

from bedplate.cli.errors import UserError
from bedplate.cli.output import TableWriter
from bedplate.cli.parsing import Parser, duration
from bedplate.cli.times import span

if TYPE_CHECKING:
    from bedplate.lab.faults import Fault

_RATE = re.compile(r"(\d+)([KMG]?)(?:i?B)?(?:/s)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_SERVER_FAULTS = {
    "power-off": "its power is cut; its BMC lives and says so",
    "power-feed": "its power is cut, and its BMC's with it",
    "hang": "agent, libvirt and all its other programs stand still; its guests run on",
    "libvirt-hang": "libvirt stands still; agent and guests run on",
    "partition": "its network is cut, for the agent and the guests; all of it runs on",
    "slow-disk": "its disk takes and gives so many bytes a second and no more",
    "bmc": "its BMC is slow, flaky, deaf or says what is not so",
}


def configure(actions: Any) -> None:
    """Declare the arguments of `bedplate lab fault` among the lab's actions."""
    fault = actions.add_parser("fault", help="break a server on purpose, list what is broken, mend it")
    kinds = fault.add_subparsers(dest="fault", required=True, metavar="KIND", parser_class=Parser)
    made = {kind: kinds.add_parser(kind, help=words, description=words) for kind, words in _SERVER_FAULTS.items()}
    for parser in made.values():
        parser.add_argument("servers", nargs="+", metavar="SERVER", help="one or more of the lab's servers")
    made["partition"].add_argument(
        "--storage", action="store_true", help="cut the way to the shared disk pool too; guests with a disk there halt"
    )
    made["slow-disk"].add_argument("--rate", type=rate, default=rate("1M"), metavar="BYTES",
                                   help="a second, such as 512K or 4M (default: 1M)")  # fmt: skip
    _configure_bmc(made["bmc"])
    clear = kinds.add_parser("clear", help="undo faults: what is not whole has power, network and programs again")
    clear.add_argument("servers", nargs="*", metavar="SERVER", help="which (default: all)")
    clear.add_argument("--kind", choices=list(_SERVER_FAULTS), metavar="KIND", help="undo only faults of this kind")
    kinds.add_parser("ls", help="what is broken")


def _configure_bmc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delay", type=duration, default=0.0, metavar="TIME", help="before each answer, such as 5s")
    parser.add_argument("--drop", type=share, default=0.0, metavar="SHARE",
                        help="of requests, such as 10%%, left without answer; half are done all the same")  # fmt: skip
    parser.add_argument("--error", type=int, default=0, metavar="STATUS", help="answer all with it, such as 500")
    parser.add_argument("--lie", choices=["on", "off"], default="", help="the power state that it always gives")
    parser.add_argument("--deaf", action="store_true", help="accept power orders and do nothing")
    parser.add_argument("--health", choices=["Warning", "Critical"], default="", help="the health that it gives")
    parser.add_argument("--problem", default="", metavar="SENTENCE", help="what it says is wrong; with --health")


def share(text: str) -> float:
    """Give the number from 0 to 1 of `10%` or `0.1`. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write it as 10% or 0.1")
    return value


def rate(text: str) -> int:
    """Give the bytes of `65536`, `512K` or `4M`, units of 1024. Raises argparse.ArgumentTypeError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; write it as 512K or 4M")
    return int(match[1]) * _UNITS[match[2].upper()]


def wanted(args: argparse.Namespace) -> Fault:
    """The fault that the arguments ask for."""
    from bedplate.lab import faults

    match args.fault:
        case "power-off":
            return faults.PowerOff()
        case "power-feed":
            return faults.PowerFeed()
        case "hang":
            return faults.Hang()
        case "libvirt-hang":
            return faults.LibvirtHang()
        case "partition":
            return faults.Partition(storage=args.storage)
        case "slow-disk":
            return faults.SlowDisk(rate=args.rate)
        case "bmc":
            return faults.BmcFault(
                args.delay, args.drop, args.error, args.lie, args.deaf, args.health, args.problem
            )  # fmt: skip
        case _:
            raise AssertionError(args.fault)


def run(args: argparse.Namespace) -> int:
    """Break, mend or list. Raises LabError."""
    from bedplate.lab import Lab, LabError

    lab = Lab()
    if args.fault == "ls":
        return _list(lab)
    if args.fault == "clear":
        mended = [name for each in args.servers or [""] for name in lab.clear(each, args.kind)]
        print(f"{', '.join(mended)} mended" if mended else "nothing was broken")
        return 0
    state = lab.load()
    known = [*state.hypervisors, *state.servers]
    if unknown := [name for name in args.servers if name not in known]:
        raise UserError(f"there is no server {', '.join(unknown)} in the lab: it has {', '.join(known)}")
    fault = wanted(args)
    for name in args.servers:
        try:
            lab.fault(name, fault)
        except LabError as error:
            raise UserError(f"{name}: {error}" if len(args.servers) > 1 else str(error)) from None
        print(f"{name}: {args.fault}; `bedplate lab fault clear {name}` mends it")
    return 0


def _list(lab: Any) -> int:
    from bedplate.lab import faults

    rows = [
        [name, faults.describe(kept.fault), span(time.time() - kept.since)]
        for name, each in lab.faults().items()
        for kept in each.values()
    ]
    if rows:
        TableWriter(["server", "fault", "for"]).write(rows)
    else:
        print("nothing is broken on purpose")
    return 0
