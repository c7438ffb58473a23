"""Compare VMs, metal and a mix of both on a fleet of one's own, in thirteen capabilities, each figure with its source.

The fleet's file tells of servers, clusters, workloads, prices and how it is run (examples/fleet.yaml; `bedplate fleet
import` makes one). Availability, blast radius and agility come from years of the fleet, told by the controllers of
production in the simulated world; what was run once is kept and taken again.

Examples:
  bedplate compare -f examples/fleet.yaml
  bedplate compare -f examples/fleet.yaml --report fleet.html      one page with charts, opens without a network
  bedplate compare -f examples/fleet.yaml --runs 40 -o wide
  bedplate compare -f examples/fleet.yaml --runs 0            only what needs no simulation: at once
  bedplate compare -f examples/fleet.yaml -o csv > fleet.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bedplate.cli.parsing import output_format

FORMATS = ("table", "wide", "json", "yaml", "csv")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from bedplate.cli import fleets

    fleets.add_fleet(parser)
    fleets.add_runs(parser, default=10)
    parser.add_argument("-o", "--output", type=output_format(*FORMATS), default="table", metavar="FORMAT",
                        help=", ".join(FORMATS))  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a page with charts and the debate's claims")


def run(args: argparse.Namespace) -> int:
    """Compare."""
    from bedplate.advise import claims, comparing, deciding, judges
    from bedplate.advise.deciding import ALTERNATIVES
    from bedplate.cli import compared, fleets, output
    from bedplate.sim.scenario import plain

    fleets.check_runs(args)
    profile = fleets.load(args.filename)
    plans = deciding.plans(profile)
    runs = fleets.simulate({a: (profile, plans[a]) for a in ALTERNATIVES}, args)
    found = comparing.compare(profile, plans, runs)
    if args.report is not None:
        load = fleets.under_load(profile, plans["vm"]) if args.runs else None
        case = claims.Case(profile=profile, plans=plans, runs=runs, comparison=found, load=load)
        compared.write_report(args.report, found, claims.judge(case, judges.JUDGES))
    match args.output:
        case "json":
            print(output.as_json(plain.write(found)))
        case "yaml":
            print(output.as_yaml(plain.write(found)))
        case "csv":
            print(compared.as_csv(found))
        case _:
            compared.show(found, wide=args.output == "wide")
    return 1 if found.faults else 0
