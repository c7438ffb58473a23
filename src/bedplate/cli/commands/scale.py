"""Change a pool's number of machines.

Examples:
  bedplate scale nodepool/shop-web --replicas 5
"""

from __future__ import annotations

import argparse

from bedplate.cli.client import MERGE_PATCH
from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_namespace, add_timeout
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="+", metavar="nodepool/NAME", help="the pool")
    parser.add_argument("--replicas", type=int, required=True, metavar="N", help="how many machines it is to have")
    parser.add_argument("--wait", action="store_true", help="wait until they are Ready")
    add_timeout(parser, "30m", "longest wait with --wait")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Scale."""
    session = Session(args)
    resource, name = session.target(args.what, "bedplate scale nodepool/NAME --replicas N", "nodepool")
    if resource.kind != "NodePool":
        raise UserError(f"a {resource.kind} cannot be scaled; nodepools can: bedplate scale nodepool/NAME --replicas N")
    if args.replicas < 0:
        raise UserError(f"a pool cannot have {args.replicas} machines; write --replicas 0 or more")
    patch = {"spec": {"replicas": args.replicas}}
    session.client.request("PATCH", session.path(resource, name, "scale"), patch, content_type=MERGE_PATCH)
    print(f"{resource.singular}/{name} scaled to {args.replicas}", flush=True)
    if not args.wait:
        return 0
    from bedplate.cli import progress

    return progress.until_ready(session, [(resource, session.read(resource, name))], args.timeout)
