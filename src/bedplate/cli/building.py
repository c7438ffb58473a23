"""What `image` and `release` have in common: build with progress, register, list, remove."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bedplate.cli import watching
from bedplate.cli.board import Line, board
from bedplate.cli.errors import ApiError, UserError
from bedplate.cli.output import TableWriter
from bedplate.cli.registering import Built
from bedplate.cli.registering import register as send
from bedplate.cli.session import Session
from bedplate.cli.times import span

Say = Callable[[str], None]


class Cached(NamedTuple):
    """One row of the cache."""

    name: str
    kubernetes: str
    size: int
    """Bytes."""
    created: float
    """Seconds since the epoch."""


def build(args: argparse.Namespace, what: str, make: Callable[[Say], Built]) -> int:
    """Build with progress, then register where a controller runs."""
    session = session_if_any(args)
    began = time.monotonic()
    try:
        with board() as view:

            def say(words: str) -> None:
                view.set(what, Line(what, words, "", began))

            built = make(say)
            done = "" if session is None else send(session.client, built, say)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with what is in the cache")
        return 130
    print(f"{what} {built.name} is in the cache ({span(time.monotonic() - began)})")
    if done:
        print(f"{what}/{built.name} {done} at the controller")
    else:
        print(f"no controller runs; `bedplate lab up` or `bedplate {what} register` makes it known to one")
    return 0


def in_cache(what: str, make: Callable[[Say], Path]) -> int:
    """Build with progress what no controller is told of by its user, and say where it lies."""
    began = time.monotonic()
    try:
        with board() as view:
            path = make(lambda words: view.set(what, Line(what, words, "", began)))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with what is in the cache")
        return 130
    print(f"{what} {path.stem} is in the cache ({span(time.monotonic() - began)}): {path}")
    return 0


def register(args: argparse.Namespace, built: Built) -> int:
    """Register what is in the cache."""
    session = Session(args)
    with board() as view:
        began = time.monotonic()
        done = send(session.client, built, lambda words: view.set("upload", Line(built.name, words, "", began)))
    print(f"{str(built.object['kind']).lower()}/{built.name} {done}")
    return 0


def listing(args: argparse.Namespace, plural: str, cached: list[Cached]) -> int:
    """Show the cache beside what the controller knows."""
    session = session_if_any(args)
    known: dict[str, dict[str, Any]] = {}
    if session is not None:
        for obj in watching.items(session.client, session.path(session.kind(plural))):
            known[str(obj["metadata"]["name"])] = obj
    here = {c.name: c for c in cached}
    rows = [_row(name, here.get(name), known.get(name), session is not None) for name in sorted({*here, *known})]
    if not rows:
        print(f"there are no {plural}; build one with `bedplate {plural.removesuffix('s')} build`")
        return 0
    TableWriter(["name", "kubernetes", "size", "built", "registered"]).write(rows)
    return 0


def remove(args: argparse.Namespace, plural: str, name: str, forget: Callable[[str], bool]) -> int:
    """Remove from the controller first (it refuses what is in use), then from the cache."""
    session = session_if_any(args)
    what = plural.removesuffix("s")
    gone = session is not None and _unregister(session, plural, name)
    if not forget(name) and not gone:
        raise UserError(f'there is no {what} "{name}"; see `bedplate {what} ls`')
    print(f"{what} {name} removed")
    return 0


def remove_release(args: argparse.Namespace, word: str, forget: Callable[[str], bool]) -> int:
    """The same for a release, by its version or by the name that its object has."""
    session = session_if_any(args)
    version, names = word.removeprefix("v"), [word]
    if session is not None:
        objects = watching.items(session.client, session.path(session.kind("releases")))
        known = {str(o["metadata"]["name"]): str(o["spec"]["version"]) for o in objects}
        version = known.get(word, version)
        names = [name for name, its in known.items() if its == version]
    gone = session is not None and sum(_unregister(session, "releases", n) for n in names) > 0
    if not forget(version) and not gone:
        raise UserError(f'there is no release "{word}"; see `bedplate release ls`')
    print(f"release {version} removed; `bedplate cache prune` removes what it was made from")
    return 0


def _unregister(session: Session, plural: str, name: str) -> bool:
    """Delete it at the controller; False: it has none of that name. Raises `ApiError` where it is in use."""
    try:
        session.client.request("DELETE", session.kind(plural).path(name=name))
    except ApiError as error:
        if error.code != 404:
            raise
        return False
    return True


def _row(name: str, cached: Cached | None, obj: dict[str, Any] | None, asked: bool) -> list[str]:
    spec: dict[str, Any] = (obj or {}).get("spec") or {}
    version = cached.kubernetes if cached else str(spec.get("kubernetesVersion") or spec.get("version") or "")
    size = f"{cached.size / 2**20:.0f} MiB" if cached else "-"
    built = f"{span(time.time() - cached.created)} ago" if cached else "-"
    return [name, version or "-", size, built, ("yes" if obj else "no") if asked else "no controller"]


def session_if_any(args: argparse.Namespace) -> Session | None:
    """A session where a controller answers; building needs none."""
    try:
        session = Session(args)
        session.client.raw("GET", "/healthz", accept="*/*")
    except ApiError:
        raise
    except UserError:
        if args.kubeconfig or args.context:
            raise  # the user named one: that it does not answer is a fault
        return None
    return session
