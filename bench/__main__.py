"""Runs the measurements and prints one table: `python -m bench [NAME...] [--small]`. Exit code 1: a goal is not met."""

from __future__ import annotations

import argparse
import importlib
import sys

from bench import report
from bench.reference import machine

NAMES = ("planning", "change", "listing", "rest", "balance", "recovery", "metal", "deciding", "world", "deploying")
FULL = ("balance",)
"""Those that can also measure what takes a quarter of an hour."""


def main() -> int:
    """Run what was asked for, all where nothing was."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--small", action="store_true", help="a tenth of the fleet: quick, for trying the measurements")
    parser.add_argument("--full", action="store_true", help=f"also what takes very long ({', '.join(FULL)})")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no measurement {unknown[0]!r}; there are {', '.join(NAMES)}")
    print(f"{machine()}\n\n{report.header()}", flush=True)
    missed = 0
    for name in args.names or NAMES:
        more = {"full": True} if args.full and name in FULL else {}
        for figure in importlib.import_module(f"bench.{name}").run(args.small, **more):
            print(report.row(figure), flush=True)
            missed += not figure.met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
