"""Wait until objects have a condition, or are gone.

Examples:
  bedplate wait cluster/shop --for=condition=Ready --timeout 20m
  bedplate wait machine/shop-web-2 --for=delete
  bedplate wait machines -l bedplate.dev/cluster=shop --for=condition=Ready
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from bedplate.cli import conditions, ending, watching
from bedplate.cli.board import Line, board
from bedplate.cli.errors import ApiError, UserError
from bedplate.cli.feeds import Feeds
from bedplate.cli.parsing import add_connection, add_namespace, add_timeout, split_target
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session
from bedplate.cli.times import span

_USAGE = "bedplate wait KIND/NAME --for=condition=Ready"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="+", metavar="KIND/NAME", help="KIND/NAME ..., or one kind and names or -l")
    parser.add_argument("--for", dest="goal", default="condition=Ready", metavar="GOAL",
                        help="condition=TYPE[=STATUS] or delete (default: condition=Ready)")  # fmt: skip
    parser.add_argument("-l", "--selector", metavar="LABELS", help="the objects of one kind with these labels")
    parser.add_argument("--all", action="store_true", help="all objects of one kind")
    add_timeout(parser, "30m", "longest wait")
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Wait."""
    type_, status = _goal(args.goal)
    session = Session(args)
    targets = _targets(session, args)
    if not targets:
        raise UserError("no object matches; there is nothing to wait for")
    if not type_:
        found = [ending.Ending(r, session.namespace, n, uid) for r, n in targets if (uid := _uid(session, r, n))]
        return ending.until_gone(session, found, args.timeout)
    try:
        _follow(session, targets, type_, status, args.timeout)
    except KeyboardInterrupt:
        print("\nno longer waiting")
        return 130
    return 0


def _goal(text: str) -> tuple[str, str]:
    """Give type and status of the condition to wait for; no type: wait for the end."""
    if text == "delete":
        return "", ""
    parts = text.split("=")
    if parts[0] != "condition" or len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            f'"{text}" cannot be waited for; write --for=condition=Ready, =condition=Ready=False or =delete'
        )
    return parts[1], parts[2] if len(parts) == 3 else "True"


def _targets(session: Session, args: argparse.Namespace) -> list[tuple[Resource, str]]:
    words = split_target(args.what, _USAGE)
    if args.selector or args.all:
        resource = session.kind(words[0][0])
        items = watching.items(session.client, session.path(resource), {"labelSelector": args.selector})
        return [(resource, str(i["metadata"]["name"])) for i in items]
    if any(not name for _, name in words):
        raise UserError(f"name the objects, or choose them with -l or --all: {_USAGE}")
    return [(session.kind(kind), name) for kind, name in words]


def _uid(session: Session, resource: Resource, name: str) -> str:
    try:
        return str(session.read(resource, name)["metadata"].get("uid") or name)
    except ApiError as error:
        if error.code == 404:
            return ""
        raise


def _follow(session: Session, targets: list[tuple[Resource, str]], type_: str, status: str, timeout: float) -> None:
    feeds = Feeds(session)
    began = time.monotonic()
    labels = [f"{r.singular}/{n}" for r, n in targets]
    waiting = dict.fromkeys(labels, "")
    for i, (resource, name) in enumerate(targets):
        session.read(resource, name)  # what is not there is refused at once
        feeds.add(str(i), session.path(resource), {"fieldSelector": f"metadata.name={name}"})
    synced: set[str] = set()
    with board() as view:
        while waiting:
            left = began + timeout - time.monotonic()
            # Even with no time at all everything is looked at once.
            if left <= 0 and len(synced) == len(targets):
                still = "; ".join(f"{k}: {why}" if why else k for k, why in waiting.items())
                raise UserError(f"not {type_}={status} after {span(timeout)}. {still}")
            for tag, change in feeds.take(min(max(left, 0.2), 1.0)):
                label = labels[int(tag)]
                if change.type == "SYNCED":
                    synced.add(tag)
                elif change.type == "DELETED":
                    raise UserError(f"{label} was deleted while it was waited for")
                elif label in waiting:
                    _judge(waiting, label, change.object, type_, status)
                    why = waiting.get(label, "")
                    phase = "Waiting" if label in waiting else "Done"
                    ended = 0.0 if label in waiting else time.monotonic()
                    view.set(label, Line(label, phase, why or f"{type_}={status}", began, ended))


def _judge(waiting: dict[str, str], label: str, obj: dict[str, Any], type_: str, status: str) -> None:
    if conditions.is_true(obj, type_, status):
        waiting.pop(label, None)
    else:
        found = conditions.condition(obj, type_)
        waiting[label] = str((found or {}).get("message") or conditions.waits_on(obj))
