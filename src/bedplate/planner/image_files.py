"""Which image files are needed, and which servers' pools hold some that are not. Kept in step with the entries; decides
nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from bedplate.model.blueprint import AnyEntry, CachedImageEntry, MachineEntry
from bedplate.model.ids import Digest, Key, ServerName, key
from bedplate.planner.fleet import Fleet


def unit_of(server: ServerName) -> Key:
    """The unit that plans what becomes of the image files in a server's pools."""
    return key("image-cache", server)


class ImageFiles:
    """Who needs an image's file: a declared image, or a machine that was made from it, wherever it is."""

    def __init__(self, declared: frozenset[Digest]) -> None:
        self._declared = declared
        self._machines: Counter[Digest] = Counter()
        self._entries: dict[ServerName, dict[Key, CachedImageEntry]] = defaultdict(dict)
        self._turned: set[Digest] = set()

    def needed(self, digest: Digest) -> bool:
        """True while anything may still want the file."""
        return digest in self._declared or self._machines[digest] > 0

    def on(self, server: ServerName) -> list[CachedImageEntry]:
        """The server's entries, in the order of their keys."""
        return [entry for _, entry in sorted(self._entries.get(server, {}).items())]

    def follow(self, old: AnyEntry | None, new: AnyEntry | None) -> None:
        """Follow one entry from old to new; None: not there."""
        if isinstance(old, MachineEntry) and isinstance(new, MachineEntry) and old.image == new.image:
            return
        for entry, sign in ((old, -1), (new, 1)):
            if isinstance(entry, MachineEntry):
                self._count(entry, sign)
            elif isinstance(entry, CachedImageEntry) and sign < 0:
                self._entries[entry.server].pop(entry.key, None)
            elif isinstance(entry, CachedImageEntry):
                self._entries[entry.server][entry.key] = entry

    def _count(self, m: MachineEntry, sign: int) -> None:
        for digest in m.image.pooled:
            before = self._machines[digest]
            self._machines[digest] += sign
            if (before == 0) != (self._machines[digest] == 0):
                self._turned.add(digest)

    def units(self, fleet: Fleet) -> set[Key]:
        """Servers of which anything is to be decided."""
        return {unit for name in {*self._entries, *fleet.servers} for unit in self.concerns(name, fleet)}

    def turned(self, fleet: Fleet) -> set[Key]:
        """The same of files that came to be needed, or are needed no more, since this was last asked."""
        turned, self._turned = {d for d in self._turned if d not in self._declared}, set()
        return self.units(fleet) if turned else set()

    def concerns(self, server: ServerName, fleet: Fleet) -> Iterable[Key]:
        """The server's unit, where its news may matter to it."""
        state = fleet.servers.get(server)
        unused = state is not None and any(pool.unused for pool in state.pools.values())
        return (unit_of(server),) if unused or self._entries.get(server) else ()
