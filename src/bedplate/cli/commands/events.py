"""Show what happened lately, oldest first.

Examples:
  bedplate events
  bedplate events -w -A
  bedplate events --for machine/shop-web-1
"""

from __future__ import annotations

import argparse

from bedplate.cli import eventlog, watching
from bedplate.cli.output import TableWriter
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing events until interrupted")
    parser.add_argument("--for", dest="about", metavar="KIND/NAME", help="only events of this object")
    parser.add_argument("--types", metavar="TYPES", help="only these types: Normal, Warning")
    add_namespace(parser, all_namespaces=True)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show events."""
    session = Session(args)
    path = session.path(session.kind("events"))
    about = session.target([args.about], "bedplate events --for KIND/NAME") if args.about else None
    types = {t.strip().capitalize() for t in args.types.split(",")} if args.types else set[str]()

    def wanted(event: dict[str, object]) -> bool:
        return (about is None or eventlog.is_about(event, *about)) and (not types or event.get("type") in types)

    listing = watching.list_all(session.client, path)
    events = [e for e in eventlog.in_order(listing.get("items") or []) if wanted(e)]
    writer = TableWriter(["namespace"] * session.all_namespaces + eventlog.HEADINGS)
    if events or args.watch:
        writer.write(eventlog.row(e, session.all_namespaces) for e in events)
    else:
        print("no events" if session.all_namespaces else f'no events in namespace "{session.namespace}"')
    if args.watch:
        for change in watching.follow(session.client, path, since=listing["metadata"]["resourceVersion"]):
            if change.type in ("ADDED", "MODIFIED") and wanted(change.object):
                writer.write([eventlog.row(change.object, session.all_namespaces)])
    return 0
