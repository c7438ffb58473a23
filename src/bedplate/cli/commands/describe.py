"""Show objects in full: what was declared, what is, conditions and events.

Examples:
  bedplate describe cluster shop
  bedplate describe machine/shop-web-1
"""

from __future__ import annotations

import argparse
from typing import Any

from bedplate.cli import describing, eventlog, watching
from bedplate.cli.parsing import add_connection, add_namespace, add_selectors, split_target
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="+", metavar="KIND [NAME...]", help="a kind and names, or KIND/NAME ...")
    add_selectors(parser)
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Describe."""
    session = Session(args)
    blocks: list[str] = []
    for kind, name in split_target(args.what, "bedplate describe KIND/NAME"):
        resource = session.kind(kind)
        for obj in _objects(session, resource, name, args):
            blocks.append("\n".join(describing.lines(obj, _events(session, resource, obj))))
    print("\n\n".join(blocks) if blocks else "there is nothing to describe")
    return 0


def _objects(session: Session, resource: Resource, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    if name:
        return [session.read(resource, name)]
    query = {"labelSelector": args.selector, "fieldSelector": args.field_selector}
    items = watching.items(session.client, session.path(resource), query)
    return [{"kind": resource.kind, **item} for item in items]


def _events(session: Session, resource: Resource, obj: dict[str, Any]) -> list[dict[str, Any]]:
    metadata: dict[str, Any] = obj["metadata"]
    about = {"fieldSelector": f"involvedObject.kind={resource.kind},involvedObject.name={metadata['name']}"}
    # Events of what lives in no namespace are kept in the default one.
    path = session.kind("events").path(str(metadata.get("namespace") or "default"))
    events = watching.items(session.client, path, about)
    return [e for e in eventlog.in_order(events) if eventlog.is_about(e, resource, str(metadata["name"]))]
