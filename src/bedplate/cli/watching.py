"""Following a collection: first what is there, then each change, through lost connections and compaction.

Gives plain objects; what they mean is for the caller.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from bedplate.cli.client import JSON, Client, Query
from bedplate.cli.errors import ApiError, UnreachableError

_PAGE = 500
# A watch is bounded by the server; on an idle fleet the connection is renewed about that often, in seconds.
_WATCH_SECONDS = 300
# A restarted controller is back within seconds; after a minute a person should know.
_PATIENCE_SECONDS = 60.0


class Change(NamedTuple):
    """One change; `type` is `ADDED`, `MODIFIED`, `DELETED`, or `SYNCED` once all that was there has been given."""

    type: str
    object: dict[str, Any]


class Patience:
    """How long a lost controller is waited for: one that is restarted comes back, one that never was there does not."""

    def __init__(self, reached: bool = False) -> None:
        self._reached = reached
        self._since = 0.0

    def well(self) -> None:
        """The controller answered."""
        self._reached, self._since = True, 0.0

    def lost(self, error: UnreachableError) -> None:
        """Wait a little; raises the error where it never answered, or not for too long."""
        self._since = self._since or time.monotonic()
        if not self._reached or time.monotonic() - self._since > _PATIENCE_SECONDS:
            raise error
        time.sleep(0.5)


def list_all(client: Client, path: str, query: Query | None = None, accept: str = JSON) -> dict[str, Any]:
    """Give a whole collection, fetched in pages; a Table's rows or a List's items are put together."""
    whole: dict[str, Any] = client.get(path, {**(query or {}), "limit": _PAGE}, accept)
    key = "rows" if whole.get("kind") == "Table" else "items"
    token = (whole.get("metadata") or {}).get("continue")
    while token:
        part = client.get(path, {**(query or {}), "limit": _PAGE, "continue": token}, accept)
        whole[key] = [*(whole.get(key) or ()), *(part.get(key) or ())]
        token = (part.get("metadata") or {}).get("continue")
    return whole


def items(client: Client, path: str, query: Query | None = None) -> list[dict[str, Any]]:
    """Give the objects of a whole collection."""
    return list(list_all(client, path, query).get("items") or ())


def follow(client: Client, path: str, query: Query | None = None, since: str = "") -> Iterator[Change]:
    """Give what is there as `ADDED`, then `SYNCED`, then changes without end.

    With `since` (a resourceVersion) only changes after it are given. Objects that vanished while the connection was
    lost to compaction are given as `DELETED`. Raises `UserError` where the API stops answering.
    """
    known: dict[str, dict[str, Any]] = {}
    version = since
    patience = Patience(reached=bool(since))
    while True:
        try:
            if not version:
                listing = list_all(client, path, query)
                version = listing["metadata"]["resourceVersion"]
                yield from _differences(known, listing)
                yield Change("SYNCED", {})
            patience.well()
            for change in watch(client, path, query, version):
                version = change.object.get("metadata", {}).get("resourceVersion") or version
                if change.type == "BOOKMARK":
                    continue
                uid = _identity(change.object)
                if change.type == "DELETED":
                    known.pop(uid, None)
                else:
                    known[uid] = change.object
                yield change
        except ApiError as error:
            if error.code != 410:
                raise
            version = ""
        except UnreachableError as error:
            patience.lost(error)


def watch(client: Client, path: str, query: Query | None, version: str, accept: str = JSON) -> Iterator[Change]:
    """Give one watch's changes after `version` until the server ends it.

    Raises:
        ApiError: the API refused or sent an error; 410 where `version` is compacted.
    """
    began = time.monotonic()
    asked: dict[str, Any] = {
        **(query or {}),
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": _WATCH_SECONDS,
    }
    for event in client.stream(path, asked, accept, timeout=_WATCH_SECONDS + 30):
        if event["type"] == "ERROR":
            status = event["object"]
            raise ApiError(str(status.get("message")), int(status.get("code") or 500), status)
        yield Change(event["type"], event["object"])
    if time.monotonic() - began < 1:
        time.sleep(0.2)  # a server that ends watches at once must not be asked in a busy loop


def _identity(obj: dict[str, Any]) -> str:
    metadata = obj.get("metadata") or {}
    return metadata.get("uid") or f"{metadata.get('namespace')}/{metadata.get('name')}"


def _differences(known: dict[str, dict[str, Any]], listing: dict[str, Any]) -> Iterator[Change]:
    # Items of a list carry no kind of their own.
    kind = {"apiVersion": listing.get("apiVersion"), "kind": str(listing.get("kind")).removesuffix("List")}
    items: list[dict[str, Any]] = listing.get("items") or []
    present: dict[str, dict[str, Any]] = {_identity(o): {**kind, **o} for o in items}
    for uid in [u for u in known if u not in present]:
        yield Change("DELETED", known.pop(uid))
    for uid, obj in present.items():
        before = known.get(uid)
        known[uid] = obj
        if before is None:
            yield Change("ADDED", obj)
        elif before["metadata"].get("resourceVersion") != obj["metadata"].get("resourceVersion"):
            yield Change("MODIFIED", obj)
