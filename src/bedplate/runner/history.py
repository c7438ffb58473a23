"""A timeline's records read from the store, and a timeline as the API shows it. Reads only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bedplate.engine import milestones
from bedplate.engine.timeline import Happening, Records, Span, Timeline, of_cluster
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ClusterKey, Key, cluster_key, key
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, Machine, NodePool
from bedplate.model.kinds.core import Event
from bedplate.store.store import Store

_OF_MACHINES = {
    milestones.GUEST_ANSWERS,
    milestones.NETWORK_UP,
    milestones.KUBEADM_BEGAN,
    milestones.KUBEADM_ENDED,
    milestones.NODE_JOINED,
    milestones.NODE_READY,
}


class NoTimeline(Exception):
    """There is no timeline of that object; the message says why."""


def gather(store: Store, kind: str, namespace: str, name: str) -> Records:
    """Read what a timeline is made of: from the object's declaration until it was first as declared.

    Raises:
        NoTimeline: it is of no cluster, or its records are no longer kept.
        NotFound: there is no such object.
    """
    found = store.get(kind, namespace, name)
    cluster = _cluster_of(found)
    made = store.added(kind, namespace, name) or _seconds(found.metadata.creation_timestamp) or 0.0
    operations = of_cluster(store.operations_since(made), cluster)
    entries = {o.step.target: e for o in operations if (e := _entry(o)) is not None}
    subject = _subject(found, entries)
    begin = min((entries[k].created for k in subject or ()), default=made) if isinstance(found, Machine) else made
    events = [e for e in store.all("Event", namespace) if isinstance(e, Event) and (_at(e) or 0.0) >= begin]
    happenings = [h for e in events if (h := _happening(e)) is not None]
    if not operations:
        raise NoTimeline(f"nothing is recorded of how {kind.lower()} {name} was made (any more)")
    return Records(begin, _end(found, events), operations, happenings, subject)


def _cluster_of(found: Object) -> ClusterKey:
    match found:
        case Cluster():
            return cluster_key(found.metadata.namespace, found.metadata.name)
        case NodePool() | Machine():
            return cluster_key(found.metadata.namespace, found.spec.cluster)
        case _:
            raise NoTimeline("timelines are of clusters, node pools and machines")


def _entry(operation: OperationRecord) -> MachineEntry | None:
    entry = getattr(operation.step, "machine", None)
    return entry if isinstance(entry, MachineEntry) else None


def _subject(found: Object, entries: dict[Key, MachineEntry]) -> frozenset[Key] | None:
    match found:
        case Machine():
            return frozenset({key("machine", found.metadata.uid)} & entries.keys())
        case NodePool():
            owner = key("nodepool", found.metadata.namespace, found.metadata.name)
            return frozenset(k for k, entry in entries.items() if entry.owner == owner)
        case _:
            return None


def _end(found: Object, events: list[Event]) -> float | None:
    """When it was first as declared."""
    reason = milestones.NODE_READY if isinstance(found, Machine) else milestones.READY
    mine = [e for e in events if e.involved_object.uid == found.metadata.uid and e.reason == reason]
    return min((at for e in mine if (at := _at(e)) is not None), default=None)


def _happening(event: Event) -> Happening | None:
    at = _at(event)
    if at is None or event.involved_object.kind != "Machine" or event.reason not in _OF_MACHINES:
        return None
    return Happening(key("machine", event.involved_object.uid), event.reason, at, failed=" failed " in event.message)


def _at(event: Event) -> float | None:
    return _seconds(event.event_time)


def _seconds(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def shown(name: str, t: Timeline) -> dict[str, Any]:
    """The timeline as JSON: times are seconds from the beginning, which itself is in seconds since the epoch."""
    return {
        "object": name,
        "begin": t.begin,
        "seconds": round(t.end - t.begin, 3),
        "complete": t.complete,
        "spans": [_span(s, t.begin) for s in t.spans],
        "criticalPath": [_span(s, t.begin) for s in t.path],
        "byWork": {work.value: round(seconds, 3) for work, seconds in t.by_work().items()},
        "neither": round(t.neither, 3),
    }


def _span(span: Span, begin: float) -> dict[str, Any]:
    return {
        "of": span.of,
        "what": span.what,
        "work": span.work.value,
        "start": round(span.start - begin, 3),
        "seconds": round(span.seconds, 3),
    }
