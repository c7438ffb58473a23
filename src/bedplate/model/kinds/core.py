"""The kinds taken over from core `v1`: Namespace, Secret, Event."""

from __future__ import annotations

from typing import Literal

from bedplate.model.kinds.base import Object
from bedplate.model.wire import Wire


class NamespaceStatus(Wire, frozen=True):
    phase: Literal["Active", "Terminating"] = "Active"


class Namespace(Object, frozen=True):
    """A room of names; tenants get one each."""

    api_version: str = "v1"
    kind: Literal["Namespace"] = "Namespace"
    status: NamespaceStatus = NamespaceStatus()


class Secret(Object, frozen=True):
    """Write-only: its data goes in and is never shown again."""

    api_version: str = "v1"
    kind: Literal["Secret"] = "Secret"
    type: str = "Opaque"
    data: dict[str, str] = {}
    """Base64 texts."""
    string_data: dict[str, str] = {}


class ObjectReference(Wire, frozen=True):
    """What an event is about."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EventSource(Wire, frozen=True):
    component: str = "bedplate"


class Event(Object, frozen=True):
    """Something that happened to an object."""

    api_version: str = "v1"
    kind: Literal["Event"] = "Event"
    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    type: Literal["Normal", "Warning"] = "Normal"
    count: int = 1
    source: EventSource = EventSource()
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    """When it first happened, to the microsecond."""
