"""Server-side tables: the columns of a kind filled from an object's JSON. Pure but for the present time, given."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast

import msgspec

from bedplate.model.registry import Column, KindInfo

NAME = {
    "name": "Name",
    "type": "string",
    "format": "name",
    "description": "Name of the object.",
    "priority": 0,
}


def definitions(info: KindInfo) -> list[dict[str, Any]]:
    """The columns of the kind."""
    return [NAME] + [
        {
            "name": c.name,
            "type": "string" if c.type == "date" else c.type,
            "format": "",
            "description": f"Value of {c.path}.",
            "priority": c.priority,
        }
        for c in info.columns
    ]


def table(
    info: KindInfo, items: Iterable[bytes], metadata: dict[str, Any], now: float, include: str, *, header: bool = True
) -> dict[str, Any]:
    """Make a Table of objects in JSON. `include`, what a row carries beside its cells: `None`, `Metadata`, `Object`."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions(info) if header else [],
        "rows": [row(info, msgspec.json.decode(item), now, include) for item in items],
    }


def row(info: KindInfo, obj: dict[str, Any], now: float, include: str) -> dict[str, Any]:
    """One row."""
    cells: list[Any] = [obj["metadata"]["name"]]
    cells += [_cell(obj, column, now) for column in info.columns]
    out: dict[str, Any] = {"cells": cells}
    if include == "Object":
        out["object"] = obj
    elif include != "None":
        out["object"] = partial(obj)
    return out


def partial(obj: dict[str, Any]) -> dict[str, Any]:
    """The object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _cell(obj: dict[str, Any], column: Column, now: float) -> Any:
    value: Any = obj
    for part in column.path.split("."):
        if not isinstance(value, dict):
            value = None
            break
        name, bracket, type_ = part.partition("[")
        value = cast(dict[str, Any], value).get(name)
        if bracket and isinstance(value, list):
            conditions = cast(list[dict[str, Any]], value)
            value = next((c["status"] for c in conditions if c["type"] == type_[:-1]), None)
    if column.type == "date":
        return age(value, now) if isinstance(value, str) else "<unknown>"
    if column.type == "integer":
        return value if isinstance(value, int) else 0
    if isinstance(value, list):
        return ",".join(str(v) for v in cast(list[Any], value))
    return "" if value is None else str(value)


def age(text: str, now: float) -> str:
    """How long ago a time was, as kubectl writes it: `45s`, `5m10s`, `3h12m`, `4d`."""
    try:
        seconds = int(now - datetime.fromisoformat(text).timestamp())
    except ValueError:
        return "<invalid>"
    seconds = max(0, seconds)
    if seconds < 120:
        return f"{seconds}s"
    minutes, second = divmod(seconds, 60)
    if minutes < 10:
        return f"{minutes}m{second}s" if second else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours, minute = divmod(minutes, 60)
    if hours < 8:
        return f"{hours}h{minute}m" if minute else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days, hour = divmod(hours, 24)
    if days < 8:
        return f"{days}d{hour}h" if hour else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"
