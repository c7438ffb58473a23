"""Equal servers become one model, with the failure domains that they stand in."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bedplate.advise.fleet import ServerModel
from bedplate.model.quantity import format_mib

ROUND_MIB = 8 * 1024
"""Memory is counted to so much: firmware and kernel keep a little of what is installed, and not the same everywhere."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One server as it was found."""

    name: str
    cpus: int
    memory_mib: int
    kind: str = ""
    """Its vendor's name for it, if known."""
    devices: tuple[str, ...] = ()
    place: dict[str, str] = {}


def models(seen: Iterable[Seen]) -> tuple[ServerModel, ...]:
    """Group servers by CPUs, memory, kind and devices; the largest group first."""
    groups: dict[tuple[str, int, int, tuple[str, ...]], list[Seen]] = {}
    for s in seen:
        rounded = max(1024, -(-s.memory_mib // ROUND_MIB) * ROUND_MIB) if s.memory_mib > ROUND_MIB else s.memory_mib
        groups.setdefault((s.kind, s.cpus, rounded, s.devices), []).append(s)
    found: list[ServerModel] = []
    names: set[str] = set()
    for (kind, cpus, memory, devices), members in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        name = _name(kind, cpus, memory, names)
        found.append(
            ServerModel(
                name=name,
                count=len(members),
                cpus=cpus,
                memory=format_mib(memory),
                devices=devices,
                place=_places(members),
            )
        )
    return tuple(found)


def _name(kind: str, cpus: int, memory: int, taken: set[str]) -> str:
    base = "".join(c if c.isalnum() else "-" for c in kind.lower()).strip("-") or f"c{cpus}-m{memory // 1024}"
    name, n = base, 2
    while name in taken:
        name, n = f"{base}-{n}", n + 1
    taken.add(name)
    return name


def _places(members: list[Seen]) -> dict[str, str | tuple[str, ...]]:
    labels = sorted({label for m in members for label in m.place})
    found: dict[str, str | tuple[str, ...]] = {}
    for label in labels:
        values = sorted({m.place[label] for m in members if label in m.place})
        found[label] = values[0] if len(values) == 1 else tuple(values)
    return found
