"""How objects are written: tables as the server made them, YAML, JSON, names. No request is sent here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

FORMATS = ("table", "wide", "json", "yaml", "name")


def columns_of(table: dict[str, Any], wide: bool) -> list[int]:
    """Indexes of a server's table's columns to show."""
    definitions = table.get("columnDefinitions") or ()
    return [i for i, c in enumerate(definitions) if wide or not c.get("priority")]


def cell_text(cell: Any) -> str:
    """One cell as text; nothing known is `<none>`, as kubectl has it."""
    if cell is None or cell == "":
        return "<none>"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, list):
        return ",".join(str(part) for part in cell) or "<none>"
    return str(cell).replace("\n", " ")


class TableWriter:
    """Writes rows under headings, each column as wide as its longest cell so far, three spaces between."""

    def __init__(self, headings: Sequence[str], write_headings: bool = True) -> None:
        self._headings = [h.upper() for h in headings]
        self._widths = [len(h) for h in self._headings]
        self._pending = write_headings

    def write(self, rows: Iterable[Sequence[str]]) -> None:
        """Write rows to the standard output; the headings come before the first."""
        found = [list(r) for r in rows]
        lines = [self._headings, *found] if self._pending else found
        self._pending = False
        for row in found:
            self._widths = [max(w, len(c)) for w, c in zip(self._widths, row, strict=True)]
        for row in lines:
            print("   ".join(c.ljust(w) for c, w in zip(row, self._widths, strict=True)).rstrip())
        sys.stdout.flush()


def as_json(value: Any) -> str:
    """JSON as kubectl writes it."""
    return json.dumps(value, indent=4, ensure_ascii=False)


def as_yaml(value: Any) -> str:
    """YAML with the keys in the object's own order."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=False).rstrip("\n")


def name_of(obj: dict[str, Any]) -> str:
    """`cluster.bedplate.dev/shop`, or `event/x` for the core group: the name that every command takes."""
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    kind = str(obj.get("kind", "")).lower()
    return f"{kind}{'.' if group else ''}{group}/{obj['metadata']['name']}"


def short_name(obj: dict[str, Any]) -> str:
    """`cluster/shop`."""
    return f"{str(obj.get('kind', '')).lower()}/{obj.get('metadata', {}).get('name', '')}"


def write_objects(objects: Any, style: str, as_list: bool) -> None:
    """Write whole objects as `json`, `yaml` or `name`; several as one `List`."""
    if style == "name":
        for obj in objects:
            print(name_of(obj))
        return
    value: Any = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects} if as_list else objects[0]
    print(as_yaml(value) if style == "yaml" else as_json(value))


def plain(stream: Any = None) -> bool:
    """True where neither colours nor moving lines may be written."""
    stream = stream or sys.stdout
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
