"""A file of one's own fleet, for `compare`, `simulate` and `claims`: made from what is there, checked, to be completed.

Servers come from Bedplate's own API (`--from-live`), from a list in CSV, or from nodes that are servers; workloads from
`kubectl get nodes,pods -A -o json` of each cluster, or from a list. Prices are yours to add.

Examples:
  bedplate fleet import --servers servers.csv --workloads workloads.csv > fleet.yaml
  kubectl get nodes,pods -A -o json > shop.json
  bedplate fleet import --servers servers.csv --cluster shop=shop.json > fleet.yaml
  bedplate fleet import --cluster db=db.json --nodes-are servers > fleet.yaml
  bedplate fleet import --from-live > fleet.yaml
  bedplate fleet check -f fleet.yaml
  bedplate fleet calibrate -f fleet.yaml --cluster shop > calibrated.yaml    durations as this controller saw them
  bedplate fleet calibrate -f fleet.yaml --measurement measure-x7k2p > measured.yaml    VMs against their servers
"""

from __future__ import annotations

import argparse

from bedplate.cli.parsing import add_actions, add_connection, add_namespace, output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from bedplate.cli import fleets

    actions = add_actions(parser)
    make = actions.add_parser("import", help="write a fleet's file to the standard output")
    make.add_argument("--name", default="fleet", metavar="NAME", help="of the fleet (default: fleet)")
    make.add_argument("--currency", default="", metavar="CODE", help="that prices are in (default: as they say)")
    make.add_argument("--from-live", action="store_true", help="servers and clusters of the controller in use")
    make.add_argument("--servers", metavar="CSV", help="list of server models: name,count,cpus,memory,...")
    make.add_argument("--workloads", metavar="CSV", help="list of workloads: cluster,name,replicas,cpu,memory,...")
    make.add_argument("--cluster", metavar="NAME=JSON", action="append", default=[],
                      help="a cluster's nodes and pods as kubectl gives them; may be repeated")  # fmt: skip
    make.add_argument("--nodes-are", type=output_format("vms", "servers"), default="vms", metavar="WHAT",
                      help="vms or servers: what nodes of those clusters are (default: vms)")  # fmt: skip
    add_connection(make)
    calibrate = actions.add_parser("calibrate", help="write the fleet's file with what a cluster took, or was measured")
    fleets.add_fleet(calibrate)
    calibrate.add_argument("--cluster", metavar="NAME", action="append", default=[],
                           help="whose timeline tells durations; may be repeated")  # fmt: skip
    calibrate.add_argument("--measurement", metavar="NAME", default="",
                           help="of `bedplate measure`, that tells what VMs take more than their servers")  # fmt: skip
    add_namespace(calibrate)
    add_connection(calibrate)
    check = actions.add_parser("check", help="say what is wrong with a fleet's file, or what it takes")
    fleets.add_fleet(check)


def run(args: argparse.Namespace) -> int:
    """Import, calibrate, or check."""
    from bedplate.cli import fleet_import, fleets

    if args.action == "import":
        return fleet_import.run(args)
    profile = fleets.load(args.filename)
    if args.action == "calibrate":
        return fleet_import.calibrate(args, profile)
    fleet_import.summarise(profile)
    return 0
