"""Where in a text each field of a document stands, by its path."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

Path = tuple[str | int, ...]

_PART = re.compile(r"""\[(?:"([^"]*)"|'([^']*)'|([^\]]*))\]|([^.\[\]]+)""")


class Fault(NamedTuple):
    """One thing wrong, and where."""

    source: str
    line: int
    """From 1; 0: of the whole file."""
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.message}" if self.line else f"{self.source}: {self.message}"


class Marks:
    """Lines of a document's fields, and the text of its scalars as it was written."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        """Only of scalars that are not quoted."""

    def line(self, path: Path) -> int:
        """Line of the field, or of the nearest one above it that is there."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 0


class Item(NamedTuple):
    """An object of a manifest with its place."""

    object: dict[str, Any]
    source: str
    marks: Marks
    prefix: Path = ()
    """Where in its document the object stands (in a `List`)."""

    def fault(self, path: Path, message: str) -> Fault:
        """A fault of one field of the object."""
        return Fault(self.source, self.marks.line(self.prefix + path), message)

    def written(self, path: Path) -> str | None:
        """The field's text as it was written, where it is a scalar without quotes."""
        return self.marks.texts.get(self.prefix + path)


def parse_field(field: str) -> Path:
    """Give the path of a field as the API names it: `spec.ranges[0].first`, `metadata.labels[example.com/x]`."""
    path: list[str | int] = []
    for quoted, single, index, name in _PART.findall(field):
        if index and index.isdigit():
            path.append(int(index))
        else:
            path.append(quoted or single or index or name)
    return tuple(path)
