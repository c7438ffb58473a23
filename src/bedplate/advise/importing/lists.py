"""Servers and workloads in CSV, with the fleet's file's own names as columns. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from bedplate.advise.fleet import ClusterProfile, FleetError, ServerModel, Workload, model_faults, workload_faults
from bedplate.model.validation.faults import nearest
from bedplate.sim.scenario.plain import ScenarioError, read

T = TypeVar("T", bound=msgspec.Struct)
_NESTED = {"use.mean", "use.peak", "power.idle", "power.full"}
_LISTS = {"devices", "tenants"}
"""Of several values, parted by spaces."""
_BOOLS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def servers(text: str, source: str) -> tuple[ServerModel, ...]:
    """A model in each line; a place as `place.rack`, several values parted by spaces.

    Raises:
        FleetError: with the line of each fault.
    """
    faults: list[str] = []
    found: dict[str, ServerModel] = {}
    for line, row in _rows(text, source, ServerModel, extra=("place.",), needed=("name", "count", "cpus", "memory")):
        model = _made(row, ServerModel, f"{source}:{line}", faults)
        if model is None:
            continue
        faults += model_faults(model, f"{source}:{line}: ")
        if model.name in found:
            faults.append(f"{source}:{line}: {model.name} is there already; add up their counts")
        found[model.name] = model
    if faults:
        raise FleetError(*faults)
    return tuple(found.values())


def clusters(text: str, source: str) -> tuple[ClusterProfile, ...]:
    """A workload in each line, with its `cluster`.

    Raises:
        FleetError: with the line of each fault.
    """
    faults: list[str] = []
    found: dict[str, list[Workload]] = {}
    needed = ("cluster", "name", "replicas", "cpu", "memory")
    for line, row in _rows(text, source, Workload, extra=("cluster",), needed=needed):
        cluster = str(row.pop("cluster", ""))
        made = _made(row, Workload, f"{source}:{line}", faults)
        if made is None:
            continue
        faults += workload_faults(made, f"{source}:{line}: ")
        if not cluster:
            faults.append(f"{source}:{line}: cluster is empty; name the one that {made.name} runs in")
        if any(w.name == made.name for w in found.get(cluster, ())):
            faults.append(f"{source}:{line}: {made.name} is in {cluster} already; add up their replicas")
        found.setdefault(cluster, []).append(made)
    if faults:
        raise FleetError(*faults)
    return tuple(ClusterProfile(name=name, workloads=tuple(work)) for name, work in found.items())


def _rows(
    text: str, source: str, type_: type[msgspec.Struct], *, extra: tuple[str, ...], needed: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), skipinitialspace=True)
    names = [n.strip() for n in reader.fieldnames or ()]
    reader.fieldnames = names
    fields = {f.encode_name for f in msgspec.structs.fields(type_)}
    known = fields | {n for n in _NESTED if n.partition(".")[0] in fields} | {e for e in extra if not e.endswith(".")}
    prefixes = tuple(e for e in extra if e.endswith("."))
    for name in names:
        if name not in known and not name.startswith(prefixes or "\0"):
            raise FleetError(f'{source}:1: there is no column "{name}"{nearest(name, sorted(known))}')
    for name in needed:
        if name not in names:
            raise FleetError(f"{source}:1: the column {name} is missing; needed are {', '.join(needed)}")
    count = 0
    for raw in reader:
        if None in raw:
            raise FleetError(f"{source}:{reader.line_num}: more fields than columns; quote what holds a comma")
        row = {k: (v or "").strip() for k, v in raw.items()}
        if any(row.values()):
            count += 1
            yield reader.line_num, _plain(row)
    if not count:
        raise FleetError(f"{source}: there is nothing in it but the columns' names")


def _plain(fields: dict[str, str]) -> dict[str, Any]:
    """Fields as YAML would give them; empty ones are left out."""
    found: dict[str, Any] = {}
    for name, text in fields.items():
        if not text:
            continue
        head, dot, tail = name.partition(".")
        value: Any = text.split() if name in _LISTS else _BOOLS.get(text.lower(), text) if text.isalpha() else text
        if head == "place":
            parts = text.split()
            value = parts[0] if len(parts) == 1 else parts
        if dot:
            found.setdefault(head, {})[tail] = value
        else:
            found[head] = value
    return found


def _made(row: dict[str, Any], type_: type[T], where: str, faults: list[str]) -> T | None:
    """The struct of a line; what a text means as a number is taken so."""
    try:
        return read(row, type_, where, strict=False)
    except ScenarioError as error:
        faults.extend(error.faults)
        return None
