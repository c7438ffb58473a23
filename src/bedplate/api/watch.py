"""Watches: each commit's changes to whoever follows their kind. Woken by the store, never by a clock.

A watcher joins live first and reads what was before after that, so that nothing falls between.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from anyio import to_thread

from bedplate.model.registry import KindInfo
from bedplate.store.changelog import Change
from bedplate.store.errors import Compacted
from bedplate.store.store import Store

BOOKMARK_SECONDS = 60.0
"""As often as Kubernetes' API server: it bounds what a client that comes back has to be told again."""
QUEUE_LIMIT = 20_000
"""A watcher that is so many changes behind is cut off; it comes back and goes on from where it was."""
READY = {"k8s.io/initial-events-end": "true"}

Match = Callable[[bytes], bool]


class Watcher:
    """The live changes of one kind, queued for one watch. None ends it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Change | None] = asyncio.Queue()
        self.lagging = False


class Hub:
    """Takes changes from the store's writing threads and hands them to the watchers in the event loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.revision = 0
        self._watchers: dict[str, set[Watcher]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: Callable[[], None] | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once watches end at once."""
        return self._closed

    @property
    def count(self) -> int:
        """How many watches run."""
        return sum(len(w) for w in self._watchers.values())

    def start(self) -> None:
        """Begin to listen; in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._end = self.store.subscribe(self._committed)
        self.revision = self.store.revision

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        if self._end is not None:
            self._end()
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.queue.put_nowait(None)

    def _committed(self, changes: Sequence[Change]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._dispatch, tuple(changes))

    def _dispatch(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for watcher in self._watchers.get(change.kind, ()):
                if watcher.queue.qsize() >= QUEUE_LIMIT:
                    watcher.lagging = True
                watcher.queue.put_nowait(None if watcher.lagging else change)
        self.revision = max(self.revision, changes[-1].revision)

    def join(self, kind: str) -> Watcher:
        """Add a live watcher of a kind."""
        watcher = Watcher()
        if self._closed:
            watcher.queue.put_nowait(None)
        self._watchers[kind].add(watcher)
        return watcher

    def leave(self, kind: str, watcher: Watcher) -> None:
        """Take it out again."""
        self._watchers[kind].discard(watcher)


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked to follow."""

    info: KindInfo
    namespace: str | None
    revision: int | None
    """Changes after it; None: begin with what is."""
    initial: bool
    """What is comes first, as ADDED."""
    announce: bool
    """A bookmark tells the end of what is."""
    bookmarks: bool
    timeout: float
    match: Match | None
    render: Callable[[bytes], Any]
    """An object's JSON as this client wants it."""


async def follow(hub: Hub, watch: Watch) -> AsyncGenerator[bytes]:
    """Give the watch's lines until its time is over or the client goes.

    Raises:
        Compacted: before the first line, where the revision is too old.
    """
    kind = watch.info.kind
    watcher = hub.join(kind)
    try:
        seen = 0
        if watch.initial:
            page = await to_thread.run_sync(
                lambda: hub.store.list_raw(kind, watch.namespace, match=watch.match), abandon_on_cancel=True
            )
            for data in page.items:
                yield _line("ADDED", data, watch)
            seen = page.revision
            if watch.announce:
                yield bookmark(watch, seen, READY)
        elif watch.revision is not None:
            revision = watch.revision
            for change in await to_thread.run_sync(lambda: hub.store.changes_since(revision, kind)):
                seen = change.revision
                line = _event(change, watch)
                if line is not None:
                    yield line
            seen = max(seen, revision)
        async with aclosing(_live(hub, watch, watcher, seen)) as live:
            async for line in live:
                yield line
    finally:
        hub.leave(kind, watcher)


async def _live(hub: Hub, watch: Watch, watcher: Watcher, seen: int) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    told = seen
    end = loop.time() + watch.timeout
    # Due by the clock, not by silence: changes that this watch does not show would put it off for ever.
    due = loop.time() + BOOKMARK_SECONDS if watch.bookmarks else end
    while True:
        now = loop.time()
        if now >= due or now >= end:
            # With nothing queued, all that was committed up to the newest dispatched revision was given.
            newest = max(hub.revision, seen) if watcher.queue.empty() else seen
            if watch.bookmarks and newest > told:
                told = newest
                yield bookmark(watch, newest)
            due = now + BOOKMARK_SECONDS
        if now >= end:
            return
        try:
            async with asyncio.timeout_at(min(due, end)):
                change = await watcher.queue.get()
        except TimeoutError:
            continue
        if change is None:
            return
        if change.revision <= seen:
            continue
        seen = change.revision
        line = _event(change, watch)
        if line is not None:
            told = seen
            yield line


def _event(change: Change, watch: Watch) -> bytes | None:
    """The line for a change as seen through the watch's selectors: what stops matching is DELETED for it."""
    if watch.namespace is not None and change.namespace != watch.namespace:
        return None
    if watch.match is None:
        return _line(change.type, change.new, watch)
    now = change.type != "DELETED" and watch.match(change.new)
    was = change.old is not None and watch.match(change.old)
    if now:
        return _line("MODIFIED" if was else "ADDED", change.new, watch)
    if not was:
        return None
    # As Kubernetes: the state that still matched, under the revision of the change.
    gone = msgspec.json.decode(change.old or b"{}")
    gone["metadata"]["resourceVersion"] = str(change.revision)
    return _line("DELETED", msgspec.json.encode(gone), watch)


def _line(type_: str, data: bytes, watch: Watch) -> bytes:
    rendered: Any = watch.render(data)
    body: bytes = rendered if isinstance(rendered, bytes) else msgspec.json.encode(rendered)
    return b'{"type":"%s","object":%s}\n' % (type_.encode(), body)


def bookmark(watch: Watch, revision: int, annotations: dict[str, str] | None = None) -> bytes:
    """The line that says: all up to this revision was told."""
    metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    head = {"kind": watch.info.kind, "apiVersion": watch.info.api_version}
    rendered = watch.render(msgspec.json.encode({**head, "metadata": {**metadata, "name": ""}}))
    if not isinstance(rendered, bytes) and rendered.get("kind") == "Table":
        rendered["rows"] = []
        rendered["metadata"] = {"resourceVersion": str(revision)}
    body = msgspec.json.encode({**head, "metadata": metadata} if isinstance(rendered, bytes) else rendered)
    return b'{"type":"BOOKMARK","object":%s}\n' % body


def expired_line(error: Compacted) -> bytes:
    """The line that ends a watch whose past is gone."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": str(error),
              "reason": "Expired", "code": 410}  # fmt: skip
    return b'{"type":"ERROR","object":%s}\n' % msgspec.json.encode(status)
