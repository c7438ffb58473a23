"""Declare what files say: all of it, or, where anything is wrong, nothing.

Examples:
  bedplate apply -f shop.yaml
  bedplate apply -f clusters/ --dry-run
  bedplate apply -f shop.yaml --wait --timeout 20m
"""

from __future__ import annotations

import argparse

from bedplate.cli import declare, output
from bedplate.cli.manifest.load import load
from bedplate.cli.parsing import add_connection, add_files, add_namespace, add_timeout
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_files(parser, required=True)
    parser.add_argument("--dry-run", action="store_true", help="check on the server and show the plan; change nothing")
    parser.add_argument("--wait", action="store_true", help="wait until all that was declared is Ready")
    add_timeout(parser, "30m", "longest wait with --wait")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Apply."""
    items = load(args.filename)
    session = Session(args)
    declared = declare.apply(session, items, args.dry_run)
    for done in declared:
        print(f"{output.short_name(done.object)} {done.action}{' (dry run)' if args.dry_run else ''}", flush=True)
    if args.dry_run:
        from bedplate.cli import preview

        preview.show(preview.ask(session, items))
        return 0
    if not args.wait:
        return 0
    from bedplate.cli import progress

    return progress.until_ready(session, [(d.resource, d.object) for d in declared], args.timeout)
