"""Disks kept after their machine (rule 9): each goes when its time is over or when a user deletes it, never before."""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import RetainedDiskEntry
from bedplate.model.ids import Key
from bedplate.model.report import Waiting
from bedplate.planner.context import Planning


def advance(p: Planning, unit: Key) -> None:
    """Let one retained disk stay, end or be gone."""
    entry = p.index.entries.get(unit)
    if not isinstance(entry, RetainedDiskEntry):
        return
    if entry.desired == "present":
        if entry.uid in p.spec.released_disks:
            entry = _release(p, entry, "a user deleted it")
        elif entry.expires <= p.now:
            entry = _release(p, entry, "its time is over")
        else:
            p.at(entry.expires)
            return
    if _gone(p, entry):
        p.drop(entry.key, f"the kept disk of {entry.name} is gone")
    elif not p.usable(entry.server):
        p.wait(entry.key, Waiting.SERVER, f"server {entry.server} is not connected")


def _release(p: Planning, entry: RetainedDiskEntry, why: str) -> RetainedDiskEntry:
    said = f"the kept disk of {entry.name} is deleted: {why}"
    return p.put(msgspec.structs.replace(entry, desired="absent"), said)


def _gone(p: Planning, entry: RetainedDiskEntry) -> bool:
    deleted = p.attempt(entry.key, "DeleteRetained")
    if deleted.running:
        return False
    if deleted.succeeded > 0 and deleted.generation in {0, entry.generation}:
        return True
    seen = p.inventory.retained_disk(entry.server, entry.uid)
    return seen is not None and not seen.value.present and p.usable(entry.server)
