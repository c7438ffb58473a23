"""How the store refuses. Each says what to do; none ever holds a secret."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all of the store's errors."""


class StoreUnavailable(StoreError):
    """The store can't be read or written now (disk full, read-only, gone). Nothing of the transaction was kept."""


class NotFound(StoreError):
    """No such object."""

    def __init__(self, kind: str, namespace: str, name: str) -> None:
        self.kind, self.namespace, self.name = kind, namespace, name
        where = f" in namespace {namespace}" if namespace else ""
        super().__init__(f"{kind} {name!r} not found{where}")


class AlreadyExists(StoreError):
    """An object of that name is there."""

    def __init__(self, kind: str, namespace: str, name: str) -> None:
        self.kind, self.namespace, self.name = kind, namespace, name
        where = f" in namespace {namespace}" if namespace else ""
        super().__init__(f"{kind} {name!r} already exists{where}")


class Conflict(StoreError):
    """Somebody else changed the object in between: read it again and repeat the change."""

    def __init__(self, kind: str, namespace: str, name: str, detail: str = "") -> None:
        self.kind, self.namespace, self.name = kind, namespace, name
        super().__init__(
            detail
            or f"{kind} {name!r} was changed meanwhile; please apply your changes to the latest version and try again"
        )


class Compacted(StoreError):
    """The history that was asked for is no longer kept: list again and go on from there."""

    def __init__(self, asked: int, oldest: int) -> None:
        self.asked, self.oldest = asked, oldest
        super().__init__(f"too old resource version: {asked} ({oldest})")
