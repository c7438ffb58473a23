"""Delete objects.

Examples:
  bedplate delete nodepool/shop-web
  bedplate delete cluster shop --wait
  bedplate delete -f shop.yaml
"""

from __future__ import annotations

import argparse

from bedplate.cli import declare, ending, watching
from bedplate.cli.errors import ApiError, UserError
from bedplate.cli.manifest.load import load
from bedplate.cli.output import short_name
from bedplate.cli.parsing import add_connection, add_files, add_namespace, add_timeout, split_target
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session

_USAGE = "bedplate delete KIND/NAME ... or KIND NAME ... or -f FILE"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="*", metavar="KIND/NAME", help="KIND/NAME ..., or one kind and names")
    add_files(parser)
    parser.add_argument("-l", "--selector", metavar="LABELS", help="delete the objects of one kind with these labels")
    parser.add_argument("--ignore-not-found", action="store_true", help="what is not there is no fault")
    parser.add_argument("--wait", action="store_true", help="wait until the objects are gone")
    add_timeout(parser, "30m", "longest wait with --wait")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Delete."""
    if bool(args.what) == bool(args.filename):
        raise UserError(f"name what to delete: {_USAGE}")
    session = Session(args)
    gone: list[ending.Ending] = []
    refused: list[str] = []
    for resource, namespace, name in _targets(session, args):
        path = resource.path(namespace, name)
        try:
            obj = session.client.get(path)
            session.client.request("DELETE", path)
        except ApiError as error:
            if not (error.code == 404 and args.ignore_not_found):
                refused.append(str(error))
            continue
        print(f"{short_name({**obj, 'kind': resource.kind})} deleted", flush=True)
        gone.append(ending.Ending(resource, namespace, name, str(obj["metadata"].get("uid") or "")))
    if refused:
        raise UserError("\n".join(refused))
    return ending.until_gone(session, gone, args.timeout) if args.wait and gone else 0


def _targets(session: Session, args: argparse.Namespace) -> list[tuple[Resource, str, str]]:
    if args.filename:
        pairs = declare.check_kinds(session, load(args.filename))
        objects = declare.with_namespaces(session, pairs)
        # Backwards, so that what was declared on top of something goes before it.
        found = [(r, str(o["metadata"].get("namespace") or ""), str(o["metadata"]["name"]))
                 for (_, r), o in zip(pairs, objects, strict=True)]  # fmt: skip
        return list(reversed(found))
    words = split_target(args.what, _USAGE)
    if args.selector:
        if len(words) != 1 or words[0][1]:
            raise UserError(f"with -l name one kind and no names: {_USAGE}")
        resource = session.kind(words[0][0])
        items = watching.items(session.client, session.path(resource), {"labelSelector": args.selector})
        return [(resource, str(i["metadata"].get("namespace") or ""), str(i["metadata"]["name"])) for i in items]
    if any(not name for _, name in words):
        raise UserError(f"name the objects to delete, or choose them with -l: {_USAGE}")
    return [(session.kind(kind), session.namespace, name) for kind, name in words]
