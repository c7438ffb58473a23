"""YAML text to plain values with the line of every field, strict where YAML is treacherous.

Scalars are read as YAML 1.2's core schema has them (`yes` and `on` are texts). Duplicate keys, foreign tags, endless
nesting and aliases that expand to more than a manifest may hold are refused. Works on parser events with a stack of
its own, so that no input can exhaust Python's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from bedplate.cli.manifest.marks import Fault, Marks, Path

_MAX_DEPTH = 64
_MAX_VALUES = 100_000
"""Values in one document, aliases expanded. A cluster of a thousand pools with long addons has some 30,000."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CORE = "tag:yaml.org,2002:"


class Document(NamedTuple):
    """One document of a text."""

    value: Any
    marks: Marks


class ManifestError(Exception):
    """The text as a whole cannot be read; holds all faults found."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(str(f) for f in faults))
        self.faults = faults


def read_yaml(text: str, source: str) -> list[Document]:
    """Give the documents of a text, empty ones left out.

    Raises:
        ManifestError: not YAML, or YAML that is refused, with file and line.
    """
    faults: list[Fault] = []
    documents: list[Document] = []
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                document = _Builder(source, faults).build(events)
                if document.value is not None:
                    documents.append(document)
    except yaml.MarkedYAMLError as error:
        faults.append(_syntax_fault(error, text, source))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        faults.append(Fault(source, line, f"the character {chr(_code(error.character))!r} may not stand in YAML"))
    if faults:
        raise ManifestError(faults)
    return documents


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(str(character)[:1] or "\0")


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, source: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())] or (error.problem and "\\t" in error.problem):
        return Fault(source, line, "a tab indents this line; YAML allows only spaces there")
    problem = " ".join(part for part in (error.context, error.problem) if part)
    return Fault(source, line, f"this is not YAML: {problem}")


class _Frame:
    """A mapping or list that is being read."""

    def __init__(self, value: Any, path: Path, anchor: str | None) -> None:
        self.value = value
        self.path = path
        self.anchor = anchor
        self.size = 1
        self.key: str | None = None
        self.merged: list[dict[str, Any]] = []


class _Builder:
    """Builds one document out of events."""

    def __init__(self, source: str, faults: list[Fault]) -> None:
        self._source = source
        self._faults = faults
        self._marks = Marks()
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open_anchors: set[str] = set()
        self._root: Any = None
        self._too_big = False

    def build(self, events: Iterator[Any]) -> Document:
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                break
            self._take(event, event.start_mark.line + 1)
        return Document(self._root, self._marks)

    def _fault(self, line: int, message: str) -> None:
        self._faults.append(Fault(self._source, line, message))

    def _take(self, event: Any, line: int) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(line)

    def _scalar(self, event: Any, line: int) -> None:
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            self._key(frame, event, line)
            return
        value, fault = _resolve(event)
        path = self._next_path()
        if event.implicit[0] and not isinstance(value, str):
            self._marks.texts[path] = event.value
        if fault:
            self._fault(line, fault)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._put(value, 1, line)

    def _key(self, frame: _Frame, event: Any, line: int) -> None:
        key = str(event.value)
        if key in frame.value or (key == "<<" and frame.merged):
            first = self._marks.lines.get((*frame.path, key), 0)
            where = ".".join(str(p) for p in frame.path)
            inside = f" in {where}" if where else ""
            self._fault(line, f'the key "{key}" is there twice{inside}; the first is at line {first}: remove one')
        frame.key = key
        self._marks.lines[(*frame.path, key)] = line

    def _alias(self, event: Any, line: int) -> None:
        if event.anchor in self._open_anchors:
            self._fault(line, f"*{event.anchor} refers to what it stands in; write it out instead")
            self._put(None, 1, line)
        elif event.anchor not in self._anchors:
            self._fault(line, f"*{event.anchor} refers to an anchor that is not there; define &{event.anchor} above it")
            self._put(None, 1, line)
        else:
            self._put(*self._anchors[event.anchor], line)

    def _open(self, event: Any, line: int) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            self._fault(line, "a key must be a text, not a mapping or a list")
            frame.key = ""
        if len(self._stack) >= _MAX_DEPTH:
            self._fault(line, f"this is nested deeper than {_MAX_DEPTH} levels; no object is")
            raise ManifestError(self._faults)
        if event.tag and event.tag not in (f"{_CORE}map", f"{_CORE}seq", "!"):
            self._fault(line, f"the tag {event.tag} has no meaning here; remove it")
        path = self._next_path()
        self._marks.lines.setdefault(path, line)
        if event.anchor:
            self._open_anchors.add(event.anchor)
        self._stack.append(_Frame({} if is_map else [], path, event.anchor))

    def _close(self, line: int) -> None:
        frame = self._stack.pop()
        for merged in frame.merged:
            for key, value in merged.items():
                frame.value.setdefault(key, value)
        if frame.anchor:
            self._open_anchors.discard(frame.anchor)
            self._anchors[frame.anchor] = (frame.value, frame.size)
        self._put(frame.value, frame.size, line, collection=True)

    def _next_path(self) -> Path:
        if not self._stack:
            return ()
        frame = self._stack[-1]
        return (*frame.path, frame.key or "") if isinstance(frame.value, dict) else (*frame.path, len(frame.value))

    def _put(self, value: Any, size: int, line: int, collection: bool = False) -> None:
        if not self._stack:
            self._root = value
            self._marks.lines.setdefault((), line)
            return
        frame = self._stack[-1]
        frame.size += size
        if frame.size > _MAX_VALUES:
            self._fault(line, f"aliases make this more than {_MAX_VALUES} values; write out what is meant")
            raise ManifestError(self._faults)
        if isinstance(frame.value, list):
            if not collection:
                self._marks.lines[(*frame.path, len(frame.value))] = line
            frame.value.append(value)
            return
        key, frame.key = frame.key, None
        if key == "<<" and isinstance(value, dict | list):
            sources = [value] if isinstance(value, dict) else value
            frame.merged.extend(s for s in sources if isinstance(s, dict))
        elif key is None:
            self._fault(line, "a key must be a text, not an alias")
            frame.key = ""
        else:
            frame.value[key] = value


def _resolve(event: Any) -> tuple[Any, str]:
    """Give a scalar's value and what is wrong with it."""
    text: str = event.value
    if event.tag and event.tag != "!":
        return _tagged(event.tag, text)
    if not event.implicit[0]:
        return text, ""
    return _plain(text)


def _plain(text: str) -> tuple[Any, str]:
    if text in ("", "~", "null", "Null", "NULL"):
        return None, ""
    if text in ("true", "True", "TRUE"):
        return True, ""
    if text in ("false", "False", "FALSE"):
        return False, ""
    if len(text) > 100:
        return text, ""
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base), ""
    if _FLOAT.fullmatch(text):
        return float(text), ""
    if _NOT_A_NUMBER.fullmatch(text):
        return None, f"{text} is no number that an object can hold; put it in quotes if it is a text"
    return text, ""


def _tagged(tag: str, text: str) -> tuple[Any, str]:
    if tag == f"{_CORE}str":
        return text, ""
    if tag in (f"{_CORE}int", f"{_CORE}float", f"{_CORE}bool", f"{_CORE}null"):
        return _plain(text)
    short = tag.replace(_CORE, "!!")
    return text, f"the tag {short} has no meaning here; remove it"
