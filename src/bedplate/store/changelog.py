"""The change log: what was written at which revision, and the objects as they were at an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from sqlalchemy import Connection, and_, func, or_, select, update

from bedplate.store import tables as t
from bedplate.store.errors import Compacted

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


class Change(NamedTuple):
    """One write. `new` is JSON as users see it; for DELETED the last state under the deletion's revision."""

    revision: int
    type: ChangeType
    kind: str
    namespace: str
    name: str
    new: bytes
    old: bytes | None


class Row(NamedTuple):
    """One object as it is kept."""

    namespace: str
    name: str
    revision: int
    data: bytes


Cursor = tuple[str, str]
"""Namespace and name of the last object that was given."""

_COLUMNS = (
    t.changes.c.revision,
    t.changes.c.type,
    t.changes.c.kind,
    t.changes.c.namespace,
    t.changes.c.name,
    t.changes.c.new,
    t.changes.c.old,
)


def counter(connection: Connection, name: str) -> int:
    """Give a counter's value, 0 where it was never set."""
    return connection.execute(select(t.counters.c.value).where(t.counters.c.name == name)).scalar() or 0


def changes_since(connection: Connection, revision: int, kind: str | None = None) -> list[Change]:
    """Give all changes after the revision, oldest first.

    Raises:
        Compacted: they are no longer all kept.
    """
    oldest = counter(connection, "compacted")
    if revision < oldest:
        raise Compacted(revision, oldest)
    query = select(*_COLUMNS).where(t.changes.c.revision > revision).order_by(t.changes.c.revision)
    if kind is not None:
        query = query.where(t.changes.c.kind == kind)
    return [Change(*row) for row in connection.execute(query)]


def added(connection: Connection, kind: str, namespace: str, name: str) -> float | None:
    """When the object of that name was made last, seconds since the epoch; None where that is forgotten."""
    c = t.changes.c
    mine = (c.kind == kind, c.namespace == namespace, c.name == name, c.type == "ADDED")
    return connection.execute(select(func.max(c.time)).where(*mine)).scalar()


def rows(
    connection: Connection, kind: str, namespace: str | None, after: Cursor | None, limit: int | None
) -> Sequence[Row]:
    """Give the kept objects of the kind in the order of namespace and name; `namespace` None: of all."""
    c = t.objects.c
    query = select(c.namespace, c.name, c.revision, c.data).where(c.kind == kind).order_by(c.namespace, c.name)
    if namespace is not None:
        query = query.where(c.namespace == namespace)
    if after is not None:
        query = query.where(or_(c.namespace > after[0], and_(c.namespace == after[0], c.name > after[1])))
    if limit is not None:
        query = query.limit(limit)
    return [Row(*row) for row in connection.execute(query)]


def rows_at(
    connection: Connection, kind: str, namespace: str | None, after: Cursor | None, revision: int
) -> Iterator[Row]:
    """Give the objects as they were at the revision: today's, with what was written since taken back.

    Raises:
        Compacted: what was written since is no longer all kept.
    """
    earlier: dict[Cursor, Row | None] = {}
    for change in changes_since(connection, revision, kind):
        place = (change.namespace, change.name)
        if place in earlier or (namespace is not None and change.namespace != namespace):
            continue
        earlier[place] = None if change.old is None else Row(*place, revision, change.old)
    now = {(r.namespace, r.name): r for r in rows(connection, kind, namespace, after, None)}
    for place in sorted(now.keys() | earlier.keys()):
        if after is not None and place <= after:
            continue
        row = earlier[place] if place in earlier else now[place]
        if row is not None:
            yield row


def compact(connection: Connection, keep: int, older_than: float) -> int:
    """Forget changes before `older_than` and all but the newest `keep`; give the oldest revision still complete."""
    newest = counter(connection, "revision")
    by_count = newest - keep
    by_age = connection.execute(select(func.max(t.changes.c.revision)).where(t.changes.c.time < older_than)).scalar()
    upto = max(by_count, by_age or 0)
    oldest = counter(connection, "compacted")
    if upto <= oldest:
        return oldest
    connection.execute(t.changes.delete().where(t.changes.c.revision <= upto))
    connection.execute(update(t.counters).where(t.counters.c.name == "compacted").values(value=upto))
    return upto
