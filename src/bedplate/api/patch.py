"""Patches: JSON merge patch (RFC 7396), JSON patch (RFC 6902), and the three-way merge of a declared object. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast


class PatchError(ValueError):
    """A patch that can't be applied; its message says why."""


def merge(target: Any, patch: Any) -> Any:
    """Apply a merge patch: null removes, mappings merge, all else replaces. `$` directives are passed over."""
    if not isinstance(patch, dict):
        return patch
    out: dict[str, Any] = dict(cast(dict[str, Any], target)) if isinstance(target, dict) else {}
    for key, value in cast(dict[str, Any], patch).items():
        if key.startswith("$"):
            continue  # strategic merge's directives: Bedplate's lists are replaced whole
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge(out.get(key), value)
    return out


def three_way(last: Mapping[str, Any], new: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a declared object into the live one: what it had last time and has no longer is removed."""
    out = {k: v for k, v in live.items() if k not in last or k in new}
    for key, value in new.items():
        before, now = last.get(key), live.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            known = cast(dict[str, Any], before) if isinstance(before, dict) else {}
            out[key] = three_way(known, cast(dict[str, Any], value), cast(dict[str, Any], now))
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out


def json_patch(target: Any, operations: Any) -> Any:
    """Apply a JSON patch; the target is left alone.

    Raises:
        PatchError: an operation is malformed, its path leads nowhere, or a test fails.
    """
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    out = copy.deepcopy(target)
    for position, raw in enumerate(cast(list[Any], operations)):
        if not isinstance(raw, dict) or not isinstance(raw.get("path"), str):
            raise PatchError(f"operation {position} must be a mapping with op and path")
        operation = cast(dict[str, Any], raw)
        try:
            out = _apply(out, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            if isinstance(error, PatchError):
                raise
            raise PatchError(f"operation {position}: the path {operation['path']!r} leads nowhere") from None
    return out


def _apply(doc: Any, operation: dict[str, Any]) -> Any:
    path = _pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _add(doc, path, operation["value"])
        case "remove":
            return _remove(doc, path)[0]
        case "replace":
            _get(doc, path)
            return _add(_remove(doc, path)[0], path, operation["value"]) if path else operation["value"]
        case "move":
            doc, value = _remove(doc, _pointer(operation["from"]))
            return _add(doc, path, value)
        case "copy":
            return _add(doc, path, copy.deepcopy(_get(doc, _pointer(operation["from"]))))
        case "test":
            if _get(doc, path) != operation.get("value"):
                raise PatchError(f"the test of {operation['path']!r} failed")
            return doc
        case other:
            raise PatchError(f"{other!r} is no operation; use add, remove, replace, move, copy or test")


def _pointer(text: str) -> list[str]:
    if text == "":
        return []
    if not text.startswith("/"):
        raise PatchError(f"the path {text!r} must begin with /")
    return [p.replace("~1", "/").replace("~0", "~") for p in text[1:].split("/")]


def _get(doc: Any, path: list[str]) -> Any:
    for part in path:
        doc = doc[int(part)] if isinstance(doc, list) else doc[part]
    return doc


def _add(doc: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(doc, path[:-1])
    if isinstance(parent, list):
        items = cast(list[Any], parent)
        at = len(items) if path[-1] == "-" else int(path[-1])
        if not 0 <= at <= len(items):
            raise IndexError(at)
        items.insert(at, value)
    else:
        parent[path[-1]] = value
    return doc


def _remove(doc: Any, path: list[str]) -> tuple[Any, Any]:
    if not path:
        return None, doc
    parent = _get(doc, path[:-1])
    return doc, parent.pop(int(path[-1]) if isinstance(parent, list) else path[-1])
