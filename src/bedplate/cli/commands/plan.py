"""Show what would change and why, step by step to the end of the roll-out, before anything changes.

Examples:
  bedplate plan -f shop.yaml
  bedplate plan                      what is still to be done for what is declared
  bedplate plan -f shop.yaml --exit-code && echo "nothing to do"
"""

from __future__ import annotations

import argparse

from bedplate.cli import output, preview
from bedplate.cli.manifest.load import load
from bedplate.cli.parsing import add_connection, add_files, add_namespace, output_format
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_files(parser)
    parser.add_argument("--exit-code", action="store_true", help="exit with 2 where something would change")
    parser.add_argument("-o", "--output", type=output_format("text", "json", "yaml"), default="text", metavar="FORMAT",
                        help="text, json or yaml")  # fmt: skip
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show the plan."""
    items = load(args.filename) if args.filename else []
    plan = preview.ask(Session(args), items)
    if args.output == "text":
        preview.show(plan)
    else:
        print(output.as_yaml(plan) if args.output == "yaml" else output.as_json(plan))
    return 2 if args.exit_code and plan.get("changes") else 0
