"""Simulate years of a fleet, as it is and with something changed: both meet the same failures at the same moments.

A what-if edits the fleet's file by the names in it:
  name: twice the licence, four servers more, web on metal
  set: {clusters.shop.workloads.web.substrate: metal}
  multiply: {prices.hypervisor: 2}
  add: {servers.r650.count: 4}

Examples:
  bedplate simulate -f examples/fleet.yaml
  bedplate simulate -f examples/fleet.yaml --what-if examples/what-if.yaml --runs 20
  bedplate simulate -f examples/fleet.yaml --on metal --years 3 -o json
"""

from __future__ import annotations

import argparse

from bedplate.cli.parsing import output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from bedplate.cli import fleets

    fleets.add_fleet(parser)
    parser.add_argument("--what-if", metavar="FILE", default="", help="what is changed in the other fleet")
    parser.add_argument("--on", type=output_format("vm", "metal", "mix"), default="mix", metavar="WHERE",
                        help="vm, metal or mix: where workloads run (default: mix)")  # fmt: skip
    fleets.add_runs(parser, default=10)
    parser.add_argument("-o", "--output", type=output_format("table", "json", "yaml"), default="table",
                        metavar="FORMAT", help="table, json or yaml")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Simulate."""
    from bedplate.advise import deciding, varying
    from bedplate.advise.varying import BASE, VARIANT
    from bedplate.cli import fleets, output, varied
    from bedplate.sim.scenario import plain

    fleets.check_runs(args)
    if args.what_if:
        base, changed, what = fleets.load_changed(args.filename, args.what_if)
        sides = {BASE: (base, deciding.plans(base)[args.on]), VARIANT: (changed, deciding.plans(changed)[args.on])}
        found = varying.vary(what.title, args.on, sides, fleets.simulate(sides, args))
    else:
        base = fleets.load(args.filename)
        one = (base, deciding.plans(base)[args.on])
        runs = fleets.simulate({BASE: one}, args)
        found = varying.vary("", args.on, {BASE: one, VARIANT: one}, {n: runs.get(BASE, ()) for n in (BASE, VARIANT)})
    if args.output == "table":
        varied.show(found)
    else:
        written = plain.write(found)
        print(output.as_yaml(written) if args.output == "yaml" else output.as_json(written))
    return 1 if found.faults else 0
