"""Files, folders and the standard input to the objects in them. Reads; sends nothing.

All faults of all files are gathered, so that a user sees every one at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bedplate.cli.errors import UserError
from bedplate.cli.manifest.marks import Fault, Item
from bedplate.cli.manifest.yaml_reader import Document, ManifestError, read_yaml

MAX_BYTES = 2**20
_ENDINGS = (".yaml", ".yml", ".json")


class FaultsError(UserError):
    """All that is wrong with the files, one line per fault."""

    has_place = True

    def __init__(self, faults: list[Fault]) -> None:
        many = len(faults)
        end = "nothing was applied" if many == 1 else f"{many} faults; nothing was applied"
        super().__init__("\n".join([str(f) for f in faults] + [end]))
        self.faults = faults


def load(names: list[str], stdin: Any = None) -> list[Item]:
    """Give the objects of files, folders and `-`, in order.

    Raises:
        FaultsError: something in them is wrong; with file and line.
        UserError: there is no such file.
    """
    items: list[Item] = []
    faults: list[Fault] = []
    for source, data in _sources(names, stdin):
        if isinstance(data, Fault):
            faults.append(data)
            continue
        try:
            for document in read_yaml(data, source):
                found, wrong = _objects(document, source)
                items.extend(found)
                faults.extend(wrong)
        except ManifestError as error:
            faults.extend(error.faults)
    faults.extend(_doubles(items))
    if faults:
        raise FaultsError(faults)
    if not items:
        raise UserError(f"there are no objects in {', '.join(names)}")
    return items


def _sources(names: list[str], stdin: Any) -> list[tuple[str, str | Fault]]:
    found: list[tuple[str, str | Fault]] = []
    for name in names:
        if name == "-":
            found.append(("stdin", _decode("stdin", (stdin or sys.stdin.buffer).read(MAX_BYTES + 1))))
            continue
        path = Path(name)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in _ENDINGS and p.is_file())
            if not files:
                raise UserError(f"the folder {name} has no *.yaml, *.yml or *.json file")
            found.extend((str(p), _read(p)) for p in files)
        elif path.exists():
            found.append((name, _read(path)))
        else:
            raise UserError(f"there is no file {name}")
    return found


def _read(path: Path) -> str | Fault:
    try:
        with path.open("rb") as file:
            return _decode(str(path), file.read(MAX_BYTES + 1))
    except OSError as error:
        return Fault(str(path), 0, f"cannot be read: {error.strerror}")


def _decode(source: str, data: bytes) -> str | Fault:
    if len(data) > MAX_BYTES:
        return Fault(source, 0, f"is larger than the {MAX_BYTES >> 20} MiB that a manifest may have; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return Fault(source, line, "is not UTF-8 text; is it a manifest?")


def _objects(document: Document, source: str) -> tuple[list[Item], list[Fault]]:
    items, faults = [], []
    pending = [Item(document.value, source, document.marks)]
    while pending:
        item = pending.pop(0)
        obj: Any = item.object
        if not isinstance(obj, dict):
            faults.append(item.fault((), "an object must be a mapping with apiVersion, kind and metadata"))
        elif str(obj.get("kind", "")).endswith("List") and "items" in obj:
            members: Any = obj["items"]
            if isinstance(members, list):
                pending.extend(Item(m, source, item.marks, (*item.prefix, "items", i)) for i, m in enumerate(members))
            else:
                faults.append(item.fault(("items",), "items of a List must be a list of objects"))
        elif wrong := _head(item):
            faults.extend(wrong)
        else:
            items.append(item)
    return items, faults


def _head(item: Item) -> list[Fault]:
    """What is wrong with the fields that say which object it is."""
    obj = item.object
    faults: list[Fault] = []
    for field, right in (("apiVersion", "bedplate.dev/v1alpha1"), ("kind", "Cluster")):
        if not obj.get(field):
            faults.append(item.fault((), f"{field} is missing; write for example `{field}: {right}`"))
        elif not isinstance(obj[field], str):
            faults.append(item.fault((field,), f"{field} must be a text such as {right}"))
    metadata: Any = obj.get("metadata")
    if not isinstance(metadata, dict):
        faults.append(item.fault(("metadata",), "metadata is missing; write for example `metadata: {name: shop}`"))
        return faults
    name: Any = metadata.get("name")
    if not name:
        faults.append(item.fault(("metadata",), "metadata.name is missing; write for example `metadata: {name: shop}`"))
    for field in ("name", "namespace"):
        value: Any = metadata.get(field)
        if value and not isinstance(value, str):
            text = item.written(("metadata", field)) or "..."
            faults.append(item.fault(("metadata", field), f'metadata.{field} must be a text; write "{text}" in quotes'))
    return faults


def _doubles(items: list[Item]) -> list[Fault]:
    seen: dict[tuple[str, ...], Item] = {}
    faults: list[Fault] = []
    for item in items:
        metadata = item.object["metadata"]
        identity = tuple(str(p) for p in (
            item.object["apiVersion"].rpartition("/")[0], item.object["kind"],
            metadata.get("namespace") or "", metadata["name"],
        ))  # fmt: skip
        if identity in seen:
            first = seen[identity].fault((), "")
            what = f"{identity[1]} {identity[3]}"
            faults.append(item.fault((), f"{what} is declared twice; the first is at {first.source}:{first.line}"))
        seen.setdefault(identity, item)
    return faults
