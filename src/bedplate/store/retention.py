"""How long history is kept. Never touches what is in force: objects declared, the newest blueprint, open operations."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import func, or_, select

from bedplate.model.kinds.core import Event
from bedplate.store import changelog
from bedplate.store import tables as t

if TYPE_CHECKING:
    from bedplate.store.transaction import Transaction

HOUR = 3600.0


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and ages (in seconds) of what is kept. What is over either bound goes."""

    changes: int = 20_000
    """A watch that was cut can go on from so many changes back."""
    changes_age: float = HOUR
    blueprints: int = 500
    blueprints_age: float = 30 * 24 * HOUR
    operations: int = 2000
    operations_age: float = 7 * 24 * HOUR
    events: int = 5000
    events_age: float = 3 * HOUR
    """Kubernetes keeps events for one hour; a night's trouble should still be there in the morning meeting's shift."""


def prune(tx: Transaction, keep: Retention) -> None:
    """Forget what is too old or too much, in one transaction."""
    _prune_events(tx, keep)
    _prune_operations(tx, keep)
    _prune_blueprints(tx, keep)
    changelog.compact(tx.connection, keep.changes, tx.now - keep.changes_age)


def _prune_events(tx: Transaction, keep: Retention) -> None:
    events = [e for e in tx.all("Event") if isinstance(e, Event)]
    events.sort(key=lambda e: e.last_timestamp or e.metadata.creation_timestamp or "")
    surplus = max(0, len(events) - keep.events)
    for position, event in enumerate(events):
        if position < surplus or _age(event, tx.now) > keep.events_age:
            tx.remove("Event", event.metadata.namespace, event.metadata.name)


def _age(event: Event, now: float) -> float:
    text = event.last_timestamp or event.metadata.creation_timestamp
    try:
        return now - datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0  # a user's own event with a text that is no time goes by count


def _prune_operations(tx: Transaction, keep: Retention) -> None:
    c = t.operations.c
    ended = c.finished.is_not(None)
    by_count = tx.connection.execute(
        select(c.finished).where(ended).order_by(c.finished.desc()).offset(keep.operations).limit(1)
    ).scalar()
    limits = [c.finished < tx.now - keep.operations_age]
    if by_count is not None:
        limits.append(c.finished <= by_count)
    gone = tx.connection.execute(select(c.id).where(ended, or_(*limits))).scalars().all()
    for operation in gone:
        tx.connection.execute(t.operations.delete().where(c.id == operation))
        tx.remove("Operation", "", operation)


def _prune_blueprints(tx: Transaction, keep: Retention) -> None:
    b, e = t.blueprints.c, t.entries.c
    newest = tx.newest_blueprint()
    aged = tx.connection.execute(select(func.max(b.number)).where(b.time < tx.now - keep.blueprints_age)).scalar()
    upto = min(newest - 1, max(newest - keep.blueprints, aged or 0))
    gone = tx.connection.execute(select(b.number).where(b.number <= upto)).scalars().all()
    if not gone:
        return
    tx.connection.execute(t.blueprints.delete().where(b.number <= upto))
    tx.connection.execute(t.entries.delete().where(e.until <= upto + 1))
    for number in gone:
        tx.remove("Blueprint", "", f"blueprint-{number}")
