"""The store's own records in the form that users see: blueprints, operations and events as objects."""

from __future__ import annotations

import hashlib

from bedplate.model.blueprint import Delta
from bedplate.model.ids import Revision
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.control import Blueprint, BlueprintSpec, Operation, OperationSpec, OperationStatus
from bedplate.model.kinds.core import Event, ObjectReference
from bedplate.model.meta import ObjectMeta
from bedplate.model.registry import BY_KIND
from bedplate.model.steps import Done, Failed, Refused, Unknown
from bedplate.store.codec import micro_timestamp, timestamp

CHANGED_SHOWN = 100
"""Keys listed in a Blueprint object: enough to see what it was about, and no second copy of a large delta."""


def blueprint(number: Revision, delta: Delta) -> Blueprint:
    """A blueprint's head; its entries stay in the store."""
    changed = tuple(sorted(delta.changes))
    more = (f"... and {len(changed) - CHANGED_SHOWN} more",) if len(changed) > CHANGED_SHOWN else ()
    return Blueprint(
        metadata=ObjectMeta(name=f"blueprint-{number}"),
        spec=BlueprintSpec(
            number=number, parent=delta.parent, reason=delta.reason, changed=changed[:CHANGED_SHOWN] + more
        ),
    )


def operation(record: OperationRecord) -> Operation:
    """A step in flight or how it ended."""
    phase = "Running"
    match record.result:
        case Done():
            phase = "Succeeded"
        case Failed() | Refused():
            phase = "Failed"
        case Unknown():
            phase = "Unknown"
        case None:
            pass
    return Operation(
        metadata=ObjectMeta(name=record.id),
        spec=OperationSpec(
            step=record.step.name,
            target=record.step.target,
            server=record.step.server,
            reason=record.reason,
            epoch=record.epoch,
        ),
        status=OperationStatus(
            phase=phase,
            started=timestamp(record.started),
            finished=timestamp(record.finished) if record.finished is not None else None,
            attempt=record.attempt,
            message=record.result.message if record.result is not None else "",
        ),
    )


def event(
    kind: str,
    namespace: str,
    name: str,
    about: Object | None,
    type_: str,
    reason: str,
    message: str,
    now: float,
    at: float,
) -> Event:
    """Something that happened `at` a time; the same thing again has the same name, so that it is counted up.

    What happened to an earlier object of that name is another thing.
    """
    uid = about.metadata.uid if about is not None else ""
    same = hashlib.sha256("\0".join((kind, namespace, name, uid, type_, reason, message)).encode()).hexdigest()[:16]
    room = namespace or "default"  # Kubernetes keeps events of cluster-scoped objects there
    return Event(
        metadata=ObjectMeta(name=f"{name}.{same}", namespace=room),
        involved_object=ObjectReference(
            api_version=BY_KIND[kind].api_version,
            kind=kind,
            name=name,
            namespace=namespace,
            uid=uid,
        ),
        reason=reason,
        message=message,
        type="Warning" if type_ == "Warning" else "Normal",
        first_timestamp=timestamp(now),
        last_timestamp=timestamp(now),
        event_time=micro_timestamp(at),
    )
