"""Say why an object is as it is, or is not yet: the planning report in sentences.

Examples:
  bedplate why machine/shop-web-1
  bedplate why cluster shop
"""

from __future__ import annotations

import argparse
from typing import Any

from bedplate.cli import output
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
    """Explain the object's present state."""
    session = Session(args)
    resource, name = session.target(args.what, "bedplate why KIND/NAME")
    told: dict[str, Any] = session.client.get(session.path(resource, name, "why"))
    if args.output != "text":
        print(output.as_yaml(told) if args.output == "yaml" else output.as_json(told))
        return 0
    print("\n".join(_text(f"{resource.singular}/{name}", told)))
    return 0


def _text(label: str, told: dict[str, Any]) -> list[str]:
    """`{"sentences": [...], "machines": [{"name", "sentences"}], "servers": {server: reason}}` as lines."""
    lines = [label, *_sentences(told, 2)]
    servers: dict[str, str] = told.get("servers") or {}
    lines += [f"    {server} {reason}" for server, reason in servers.items()]
    for machine in told.get("machines") or ():
        lines += [f"  machine/{machine['name']}", *_sentences(machine, 4)]
    return lines


def _sentences(told: dict[str, Any], indent: int) -> list[str]:
    return [f"{' ' * indent}{sentence}" for sentence in told.get("sentences") or ()]
