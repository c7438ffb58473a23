"""Events as rows: for `events` and `describe`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bedplate.cli.resources import Resource
from bedplate.cli.times import age

HEADINGS = ["last seen", "type", "reason", "object", "message"]


def in_order(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Oldest first."""
    return sorted(events, key=lambda e: str(_time(e) or ""))


def is_about(event: dict[str, Any], resource: Resource, name: str) -> bool:
    """Whether the event is of that object."""
    involved = event.get("involvedObject") or {}
    return involved.get("kind") == resource.kind and involved.get("name") == name


def row(event: dict[str, Any], namespace: bool = False) -> list[str]:
    """The event's cells, under `HEADINGS`."""
    involved = event.get("involvedObject") or {}
    count = int(event.get("count") or 1)
    seen = age(_time(event)) + (f" (x{count})" if count > 1 else "")
    cells = [
        seen,
        str(event.get("type") or "Normal"),
        str(event.get("reason") or ""),
        f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}",
        str(event.get("message") or "").replace("\n", " "),
    ]
    return [str(event["metadata"].get("namespace") or "")] * namespace + cells


def _time(event: dict[str, Any]) -> str | None:
    return event.get("lastTimestamp") or event.get("firstTimestamp") or event["metadata"].get("creationTimestamp")
