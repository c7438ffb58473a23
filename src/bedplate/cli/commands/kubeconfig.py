"""Write a cluster's kubeconfig.

Examples:
  bedplate kubeconfig shop -o shop.kubeconfig && kubectl --kubeconfig shop.kubeconfig get nodes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.private import write_private
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="CLUSTER", help="the cluster's name")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there, mode 0600 (default: standard output)"
    )
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch and write it."""
    session = Session(args)
    resource, name = session.target([args.name], "bedplate kubeconfig CLUSTER", "cluster")
    if resource.kind != "Cluster":
        raise UserError(f"a {resource.kind} has no kubeconfig; name a cluster")
    data = session.client.raw("GET", session.path(resource, name, "kubeconfig"), accept="*/*")
    if args.output is None:
        sys.stdout.write(data.decode())
        return 0
    write_private(args.output, data)
    print(f"wrote {args.output}")
    return 0
