"""Set and remove an object's labels, as kubectl does.

Servers' labels are what pools' `match` and rules of `substrate: auto` look at.

Examples:
  bedplate label server/r1-u07 disk=nvme
  bedplate label server/r1-u07 disk=ssd --overwrite
  bedplate label server/r1-u07 disk-
"""

from __future__ import annotations

import argparse

from bedplate.cli.client import MERGE_PATCH
from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_connection, add_namespace
from bedplate.cli.session import Session

USAGE = "bedplate label KIND/NAME KEY=VALUE KEY-"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("words", nargs="+", metavar="KIND/NAME KEY=VALUE|KEY-", help="the object, and what of it")
    parser.add_argument("--overwrite", action="store_true", help="change labels that are there with another value")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Change them; what somebody else changes meanwhile is not lost."""
    changes = dict(_change(word) for word in args.words if _is_change(word))
    if not changes:
        raise UserError(f"there is no label to set or remove: {USAGE}")
    session = Session(args)
    resource, name = session.target([w for w in args.words if not _is_change(w)], USAGE)
    metadata = session.read(resource, name)["metadata"]
    there: dict[str, str] = metadata.get("labels") or {}
    for key, value in changes.items():
        if value is None and key not in there:
            raise UserError(f"{resource.singular}/{name} has no label {key}; it has {_listed(there)}")
        if value is not None and there.get(key, value) != value and not args.overwrite:
            raise UserError(f"{resource.singular}/{name} has {key}={there[key]}; add --overwrite to change it")
    patch = {"metadata": {"labels": changes, "resourceVersion": metadata["resourceVersion"]}}
    session.client.request("PATCH", session.path(resource, name), patch, content_type=MERGE_PATCH)
    print(f"{resource.singular}/{name} labelled: {_listed({**there, **changes})}")
    return 0


def _is_change(word: str) -> bool:
    return "=" in word or word.endswith("-")


def _change(word: str) -> tuple[str, str | None]:
    if word.endswith("-") and "=" not in word:
        return word[:-1], None
    key, _, value = word.partition("=")
    return key, value


def _listed(labels: dict[str, str] | dict[str, str | None]) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(labels.items()) if v is not None) or "none"
