"""One object as readable sections. Pure, but for the ages of things."""

from __future__ import annotations

import re
from typing import Any

from bedplate.cli import conditions, eventlog
from bedplate.cli.times import age

_HIDDEN = ("conditions", "observedGeneration")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def lines(obj: dict[str, Any], events: list[dict[str, Any]]) -> list[str]:
    """The object's text, line by line."""
    metadata: dict[str, Any] = obj["metadata"]
    head: dict[str, Any] = {"Name": metadata["name"]}
    if metadata.get("namespace"):
        head["Namespace"] = metadata["namespace"]
    head["Kind"] = obj.get("kind", "")
    head["Labels"] = _pairs(metadata.get("labels"))
    if metadata.get("annotations"):
        head["Annotations"] = _pairs(metadata.get("annotations"))
    if metadata.get("creationTimestamp"):
        head["Created"] = f"{metadata['creationTimestamp']} ({age(metadata['creationTimestamp'])} ago)"
    if metadata.get("deletionTimestamp"):
        head["Being deleted"] = f"since {age(metadata['deletionTimestamp'])}"
    out = _mapping(head, 0)
    for section in ("spec", "status"):
        shown = {k: v for k, v in (obj.get(section) or {}).items() if k not in _HIDDEN}
        if shown:
            out += ["", f"{section.capitalize()}:", *_mapping({_heading(k): v for k, v in shown.items()}, 2)]
    rest = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata", "spec", "status")}
    if rest:
        out += ["", *_mapping({_heading(k): v for k, v in rest.items()}, 0)]
    return [*out, *_conditions(obj), *_events(events)]


def _conditions(obj: dict[str, Any]) -> list[str]:
    found = conditions.conditions(obj)
    if not found:
        return []
    rows = [["Type", "Status", "Since", "Reason", "Message"]]
    for c in found:
        since = age(c["lastTransitionTime"]) if c.get("lastTransitionTime") else "-"
        rows.append(
            [str(c.get("type")), str(c.get("status")), since, str(c.get("reason")), str(c.get("message") or "")]
        )
    return ["", "Conditions:", *_columns(rows)]


def _events(events: list[dict[str, Any]]) -> list[str]:
    if not events:
        return ["", "Events: none"]
    rows = [["Age", "Type", "Reason", "Message"]]
    for event in events:
        seen, type_, reason, _, message = eventlog.row(event)
        rows.append([seen, type_, reason, message])
    return ["", "Events:", *_columns(rows)]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _mapping(value: dict[str, Any], indent: int) -> list[str]:
    pad = " " * indent
    width = max((len(k) for k, v in value.items() if not _nested(v)), default=0) + 1
    out: list[str] = []
    for key, v in value.items():
        if isinstance(v, dict) and v:
            out += [f"{pad}{key}:", *_mapping({_heading(k): w for k, w in v.items()}, indent + 2)]
        elif _nested(v):
            out.append(f"{pad}{key}:")
            for entry in v:
                inner = _mapping({_heading(k): w for k, w in entry.items()}, indent + 4)
                out += [f"{pad}  - {inner[0].lstrip()}", *inner[1:]]
        else:
            out.append(f"{pad}{key + ':':<{width}}  {_scalar(v)}".rstrip())
    return out


def _nested(v: Any) -> bool:
    return (isinstance(v, dict) and bool(v)) or (isinstance(v, list) and any(isinstance(e, dict) and e for e in v))


def _scalar(v: Any) -> str:
    if isinstance(v, list):
        return ", ".join(str(e) for e in v) or "none"
    if isinstance(v, bool):
        return "yes" if v else "no"
    text = "none" if v in (None, "", {}) else str(v)
    # A long text (an addon's manifest) is shown by its size; `get -o yaml` has it whole.
    return text if "\n" not in text else f"({text.count(chr(10)) + 1} lines)"


def _pairs(value: dict[str, Any] | None) -> str:
    return ", ".join(f"{k}={v}" for k, v in (value or {}).items()) or "none"


def _heading(key: str) -> str:
    """`controlPlane` as `Control plane`; names that are no fields (labels, failure domains) stay."""
    if not key.isidentifier():
        return key
    words = _WORDS.split(key)
    first = words[0] if words[0].isupper() else words[0][:1].upper() + words[0][1:]
    return " ".join([first, *(w if w.isupper() else w.lower() for w in words[1:])])
