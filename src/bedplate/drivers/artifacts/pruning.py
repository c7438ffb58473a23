"""What may leave the builders' cache: what nobody has taken for long and nobody needs. Decides from data, then deletes.

An entry that goes costs the time to make it again, never more. May not know of controllers: who calls says what they
refer to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts import hypervisor, image, pieces, ramsystem
from bedplate.drivers.artifacts.cache import Cache, Entry, InUse, disk_bytes

RELEASE, IMAGE = "release", "image"
_RESULTS = (RELEASE, IMAGE, hypervisor.KIND, ramsystem.KIND)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as people see it."""

    kind: str
    name: str
    """What it holds: `1.35.3`, `node-1.35.3-1a2b3c4d`; its key where that says no more."""
    key: str
    size: int
    """Bytes of its files; those that other entries share are counted in each."""
    used: float
    """When it was last taken; seconds since the epoch."""
    digests: frozenset[str] = frozenset()
    """`sha256:...` of its files, and of the image that it was made from."""
    version: str = ""
    """Kubernetes' version of a release."""


class References(msgspec.Struct, frozen=True, kw_only=True):
    """What is to stay whatever its age."""

    versions: frozenset[str] = frozenset()
    """Of the releases that a controller knows."""
    digests: frozenset[str] = frozenset()
    """Of the files of images that a controller knows."""
    ram: str = ""
    """Key of the RAM system that this version's controllers give to bare servers."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an item; `kept` empty: it may go."""

    item: Item
    kept: str = ""


def decide(items: Iterable[Item], references: References, before: float) -> list[Verdict]:
    """Say of each item whether it may go: it was not taken since `before` (seconds since the epoch), and nothing that
    is known refers to it. Pure."""
    return [Verdict(item=i, kept=_kept(i, references, before)) for i in items]


def _kept(i: Item, references: References, before: float) -> str:
    if i.kind == RELEASE and i.version in references.versions:
        return f"the controller has release {i.version}"
    if i.digests & references.digests:
        return "the controller has an image with this content"
    if i.kind == ramsystem.KIND and i.key == references.ram:
        return "bare servers boot it"
    return "it was used lately" if i.used > before else ""


def items(cache: Cache | None = None) -> list[Item]:
    """What the cache has, newest first."""
    cache = cache or Cache()
    return [_item(cache, entry) for entry in cache.all()]


def _item(cache: Cache, entry: Entry) -> Item:
    kind, facts, inputs = entry.manifest.kind, entry.facts, entry.manifest.inputs
    digests = {f"sha256:{f.sha256}" for f in entry.manifest.files.values()}
    if kind == pieces.KIND:
        digests.add(f"sha256:{inputs.get('disk', '')}")
    version = str(facts.get("version", "")) if kind == RELEASE else ""
    name = version or str(inputs.get("version", "")) or entry.key
    if kind == IMAGE:
        name = image.read_image(entry).name
    elif kind == hypervisor.KIND:
        name = hypervisor.name_of(entry)
    return Item(
        kind=kind,
        name=name,
        key=entry.key,
        size=entry.size(),
        used=cache.last_used(entry),
        # Stages of a build may hold the same files as an image by chance of their names, not by what they are for.
        digests=frozenset(digests) if kind in {*_RESULTS, pieces.KIND} else frozenset(),
        version=version,
    )


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted, or would be."""

    gone: tuple[Item, ...] = ()
    spared: tuple[tuple[Item, str], ...] = ()
    """What may go and was just used by somebody, with what was said."""
    leftovers: int = 0
    """How many half-made folders of builders that were killed."""
    freed: int = 0
    """Bytes."""


def prune(
    chosen: Iterable[Item], before: float, cache: Cache | None = None, *, told: Callable[[Item], None] | None = None
) -> Pruned:
    """Delete these items, each only where nobody has taken it since `before` or uses it now, and what killed builders
    left. `told` of each that is gone."""
    cache = cache or Cache()
    entries = {(e.manifest.kind, e.key): e for e in cache.all()}
    gone: list[Item] = []
    spared: list[tuple[Item, str]] = []
    freed = 0
    for item in chosen:
        entry = entries.get((item.kind, item.key))
        if entry is None:
            continue  # somebody else has deleted it
        try:
            freed += cache.remove(entry, not_since=before)
        except InUse as error:
            spared.append((item, str(error)))
            continue
        gone.append(item)
        if told is not None:
            told(item)
    leftovers = 0
    for leftover in cache.leftovers():
        try:
            freed += cache.clear(leftover)
            leftovers += 1
        except InUse:
            continue  # it is being made just now
    return Pruned(gone=tuple(gone), spared=tuple(spared), leftovers=leftovers, freed=freed)


def would_free(chosen: Iterable[Item], cache: Cache | None = None) -> int:
    """Bytes that deleting these items together would free."""
    cache = cache or Cache()
    return disk_bytes(_folder(cache, i) for i in chosen)


def _folder(cache: Cache, item: Item) -> Path:
    return cache.root / item.kind / item.key
