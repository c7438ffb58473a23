"""The debate's forty claims on VMs and bare metal, each with its verdict on a fleet of one's own.

Examples:
  bedplate claims -f examples/fleet.yaml
  bedplate claims V10 V13 -f examples/fleet.yaml
  bedplate claims -f examples/fleet.yaml -o json
"""

from __future__ import annotations

import argparse

from bedplate.cli.errors import UserError, did_you_mean
from bedplate.cli.parsing import output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from bedplate.cli import fleets

    parser.add_argument("id", nargs="*", metavar="ID", help="of a claim, such as V10 (default: all)")
    fleets.add_fleet(parser)
    fleets.add_runs(parser, default=10)
    parser.add_argument("-o", "--output", type=output_format("text", "json", "yaml"), default="text", metavar="FORMAT",
                        help="text, json or yaml")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Judge."""
    from bedplate.advise import claims, comparing, deciding, judges
    from bedplate.advise.deciding import ALTERNATIVES
    from bedplate.cli import compared, fleets, output
    from bedplate.sim.scenario import plain

    fleets.check_runs(args)
    known = [c.id for c in claims.claims()]
    for name in args.id:
        if name not in known:
            raise UserError(f'there is no claim "{name}"{did_you_mean(name, known)}; claims are {", ".join(known)}')
    profile = fleets.load(args.filename)
    plans = deciding.plans(profile)
    runs = fleets.simulate({a: (profile, plans[a]) for a in ALTERNATIVES}, args)
    load = fleets.under_load(profile, plans["vm"]) if args.runs else None
    comparison = comparing.compare(profile, plans, runs)
    case = claims.Case(profile=profile, plans=plans, runs=runs, comparison=comparison, load=load)
    found = [v for v in claims.judge(case, judges.JUDGES) if not args.id or v.id in args.id]
    if args.output == "text":
        compared.show_claims(found)
    else:
        written = plain.write(found)
        print(output.as_yaml(written) if args.output == "yaml" else output.as_json(written))
    return 0
