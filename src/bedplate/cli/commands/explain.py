"""Explain a kind or one of its fields, from the API's own schema.

Examples:
  bedplate explain cluster
  bedplate explain nodepool.spec.machine.memory
  bedplate explain cluster --recursive
"""

from __future__ import annotations

import argparse

from bedplate.cli import schema
from bedplate.cli.parsing import add_connection
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("field", metavar="KIND[.FIELD...]", help="a kind, or a field of it by its path")
    parser.add_argument("--recursive", action="store_true", help="all fields below as well")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Explain."""
    session = Session(args)
    kind, *path = args.field.split(".")
    resource = session.kind(kind)
    root = schema.of_kind(session.client, resource)
    print("\n".join(schema.explain(root, resource, path, args.recursive)))
    return 0
