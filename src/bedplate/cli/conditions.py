"""What an object says of itself: its conditions, and on what it waits. Pure."""

from __future__ import annotations

from typing import Any


def conditions(obj: dict[str, Any]) -> list[dict[str, Any]]:
    """The object's conditions."""
    return list((obj.get("status") or {}).get("conditions") or ())


def condition(obj: dict[str, Any], type_: str) -> dict[str, Any] | None:
    """The condition of that type in any case, or None."""
    low = type_.lower()
    return next((c for c in conditions(obj) if str(c.get("type", "")).lower() == low), None)


def is_true(obj: dict[str, Any], type_: str = "Ready", status: str = "True") -> bool:
    """Whether the condition has that status for the object's present generation."""
    found = condition(obj, type_)
    if found is None or str(found.get("status", "")).lower() != status.lower():
        return False
    # A condition of an older generation speaks of what the user has changed since.
    seen = found.get("observedGeneration") or (obj.get("status") or {}).get("observedGeneration") or 0
    return not seen or seen >= (obj["metadata"].get("generation") or 0)


def gist(message: str) -> str:
    """The message on one line; of a log, its first line and the last one that tells of an error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if len(lines) < 2:
        return message.strip()
    telling = [line for line in lines[1:] if "[ERROR" in line] or [
        line for line in lines[1:] if "error" in line.lower()
    ]
    return f"{lines[0]} ... {(telling or lines)[-1]}"


def waits_on(obj: dict[str, Any]) -> str:
    """Why the object is not Ready, in its own words."""
    found = condition(obj, "Ready")
    if found is None:
        return "the controller has not looked at it yet"
    return str(found.get("message") or found.get("reason") or "")
