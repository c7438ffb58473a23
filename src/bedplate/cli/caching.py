"""`bedplate cache`: shows the builders' cache and prunes it, with regard to what a controller that answers knows."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from bedplate.cli import watching
from bedplate.cli.building import session_if_any
from bedplate.cli.errors import UserError
from bedplate.cli.output import TableWriter, as_json
from bedplate.cli.session import Session
from bedplate.cli.times import span
from bedplate.drivers.artifacts import pruning, ramsystem
from bedplate.drivers.artifacts.proc import ArtifactError
from bedplate.drivers.artifacts.pruning import References

_FILES = ("disk", "kernel", "initrd", "metal", "metalData")


def listing(args: argparse.Namespace) -> int:
    """Show what is in the cache; why it would stay however old it is."""
    session = session_if_any(args)
    now = time.time()
    verdicts = pruning.decide(pruning.items(), _references(session), now)
    if args.output == "json":
        keep = ("kind", "name", "key", "size", "used")
        rows = [{k: msgspec.to_builtins(v.item)[k] for k in keep} | {"keptBecause": v.kept} for v in verdicts]
        print(as_json(rows))
        return 0
    if not verdicts:
        print("the cache is empty")
        return 0
    rows = [
        [v.item.kind, v.item.name, _mib(v.item.size), f"{span(now - v.item.used)} ago", v.kept or "-"]
        for v in sorted(verdicts, key=lambda v: (v.item.kind, v.item.name))
    ]
    TableWriter(["kind", "name", "size", "used", "needed"]).write(rows)
    return 0


def prune(args: argparse.Namespace) -> int:
    """Delete what was not used for long and is not needed."""
    session = session_if_any(args)
    before = time.time() - args.older_than
    verdicts = pruning.decide(pruning.items(), _references(session), before)
    chosen = [v.item for v in verdicts if not v.kept]
    if session is None:
        print("no controller was asked: what one may know as a release or an image counts by its age alone")
    if args.dry_run:
        for item in chosen:
            print(f"{item.kind} {item.name} would be deleted")
        print(f"{len(chosen)} of {len(verdicts)} entries would be deleted, {_mib(pruning.would_free(chosen))} freed")
        return 0
    try:
        done = pruning.prune(chosen, before, told=lambda item: print(f"{item.kind} {item.name} deleted", flush=True))
    except (ArtifactError, OSError) as error:
        raise UserError(f"the cache could not be pruned: {error}") from error
    for item, why in done.spared:
        print(f"{item.kind} {item.name} stays: {why}")
    if done.leftovers:
        print(f"{done.leftovers} leftovers of builds that were cut short deleted")
    print(f"{len(done.gone)} of {len(verdicts)} entries deleted, {_mib(done.freed)} freed")
    return 0


def _references(session: Session | None) -> References:
    """What is to stay whatever its age."""
    ram = ramsystem.current_key()
    if session is None:
        return References(ram=ram)
    releases, images = (
        watching.items(session.client, session.path(session.kind(plural))) for plural in ("releases", "images")
    )
    return References(
        versions=frozenset(str(r["spec"].get("version", "")) for r in releases),
        digests=frozenset(digests_of(images)),
        ram=ram,
    )


def digests_of(images: Iterable[Mapping[str, Any]]) -> set[str]:
    """Digests of the files of Image objects."""
    files = ((i["spec"].get(name) or {}) for i in images for name in _FILES)
    return {str(f["digest"]) for f in files if f.get("digest")}


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
