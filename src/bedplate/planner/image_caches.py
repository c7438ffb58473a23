"""Image files in disk pools that nothing needs any more: each goes after a time, and stays where it is wanted again.

What no disk stands on is told by the agent, which looks again before it deletes anything.
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import CachedImageEntry
from bedplate.model.ids import Digest, Key, ServerName, key
from bedplate.planner.context import Planning


def advance(p: Planning, unit: Key) -> None:
    """Decide for each image file in the pools of one server."""
    server = ServerName(unit.partition("/")[2])
    declared = p.spec.servers.get(key("server", server))
    known = {e.key: e for e in p.index.image_files.on(server)}
    if declared is None:
        for entry in known.values():
            p.drop(entry.key, f"server {server} is no more")
        return
    seen = p.inventory.server(server)
    if seen is None or not p.usable(server):
        return
    cached = {(pool.name, digest) for pool in seen.value.pools for digest in pool.images}
    needed = p.index.image_files.needed
    unused = {(pool.name, digest) for pool in seen.value.pools for digest in pool.unused if not needed(digest)}
    for entry in known.values():
        at = (entry.disk_pool, entry.digest)
        if p.busy(entry.key):
            continue
        if at not in cached:
            p.drop(entry.key, f"{_file(entry.digest)} is gone from disk pool {entry.disk_pool} of {server}")
        elif at not in unused:
            p.drop(entry.key, f"{_file(entry.digest)} stays in disk pool {entry.disk_pool} of {server}: it is needed")
        elif entry.desired == "present" and not p.paused(declared):
            _let_go(p, entry)
    for pool, digest in sorted(unused):
        entry = CachedImageEntry(server=server, disk_pool=pool, digest=digest, since=p.now)
        if entry.key not in known:
            p.put(entry, f"nothing needs {_file(digest)} in disk pool {pool} of {server} any more")
            p.at(p.now + p.policy.image_kept)


def _let_go(p: Planning, entry: CachedImageEntry) -> None:
    """Have the file deleted once it was needed by nothing for long enough."""
    due = entry.since + p.policy.image_kept
    if due > p.now:
        p.at(due)
        return
    said = f"{_file(entry.digest)} is deleted from disk pool {entry.disk_pool} of {entry.server}: nothing needs it"
    p.put(msgspec.structs.replace(entry, desired="absent"), said)


def _file(digest: Digest) -> str:
    return f"image file {digest[:19]}"  # sha256: and 12 digits
