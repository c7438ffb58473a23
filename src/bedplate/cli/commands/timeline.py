"""Show where the time went until a cluster, pool or machine was as declared: a waterfall, and its critical path.

Each line is one thing that was done for one machine, from its beginning after the declaration, with its length. Lines
with a star are on the critical path: had they been shorter, all would have been ready sooner. What lies between
them is Bedplate's own time. Records are kept for some hours.

Examples:
  bedplate timeline cluster/shop
  bedplate timeline machine/shop-web-1 -o json
"""

from __future__ import annotations

import argparse

from bedplate.cli import output, waterfall
from bedplate.cli.parsing import add_connection, add_namespace, output_format
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="+", metavar="KIND/NAME", help="the object")
    parser.add_argument("-o", "--output", type=output_format("text", "json", "yaml"), default="text", metavar="FORMAT",
                        help="text, json or yaml")  # fmt: skip
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show the object's timeline."""
    session = Session(args)
    resource, name = session.target(args.what, "bedplate timeline KIND/NAME")
    told = session.client.get(session.path(resource, name, "timeline"))
    if args.output == "text":
        waterfall.show(told)
    else:
        print(output.as_yaml(told) if args.output == "yaml" else output.as_json(told))
    return 0
