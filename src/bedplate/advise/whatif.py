"""What if: edits of a fleet's file, by the names in it. Pure.

    name: twice the licence, and web on metal
    set: {clusters.shop.workloads.web.substrate: metal}
    multiply: {prices.hypervisor: 2}
    add: {servers.r650.count: 4}

A path goes by fields, and in lists by `name`. The edited file is read as any other, with the same checks.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, cast

from bedplate.advise.fleet import FleetError
from bedplate.model.validation.faults import nearest
from bedplate.sim.scenario import plain
from bedplate.sim.scenario.plain import Plain, ScenarioError

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class WhatIf(Plain, frozen=True):
    """The edits, in this order: `set`, `multiply`, `add`."""

    name: str = ""
    set: dict[str, Any] = {}
    multiply: dict[str, float] = {}
    add: dict[str, float] = {}

    @property
    def title(self) -> str:
        """For people."""
        if self.name:
            return self.name
        parts = [f"{k} = {v}" for k, v in self.set.items()]
        parts += [f"{k} × {v:g}" for k, v in self.multiply.items()]
        parts += [f"{k} {v:+g}" for k, v in self.add.items()]
        return ", ".join(parts)


def read(raw: Any, file: str) -> WhatIf:
    """Read what YAML gave. Raises `FleetError`."""
    try:
        found = plain.read(raw, WhatIf, file)
    except ScenarioError as error:
        raise FleetError(*error.faults) from None
    if not (found.set or found.multiply or found.add):
        raise FleetError(f"{file}: it changes nothing; write set, multiply or add")
    return found


def edited(fleet: Any, what: WhatIf, file: str) -> Any:
    """The fleet's file with the edits, as YAML would give it.

    Raises:
        FleetError: a path leads nowhere, or what is there is no number.
    """
    found = copy.deepcopy(fleet)
    for path, value in what.set.items():
        holder, last = _find(found, path, file)
        holder[last] = value
    for path, factor in what.multiply.items():
        _change(found, path, lambda n, f=factor: n * f, file)
    for path, more in what.add.items():
        _change(found, path, lambda n, m=more: n + m, file)
    return found


def _change(fleet: Any, path: str, by: Callable[[float], float], file: str) -> None:
    holder, last = _find(fleet, path, file)
    if holder.get(last) is None:
        raise FleetError(f"{file}: {path}: the fleet's file has no such number; give it there first")
    holder[last] = _changed(holder[last], path, by, file)


def _changed(value: Any, path: str, by: Callable[[float], float], file: str) -> Any:
    if isinstance(value, list):
        return [_changed(v, path, by, file) for v in cast(list[Any], value)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        made = by(value)
        return int(made) if isinstance(value, int) and made == int(made) else made
    text = str(value)
    match = _NUMBER.match(text)
    if match is None:
        raise FleetError(f"{file}: {path}: {value!r} is no number")
    return f"{by(float(match[0])):g}{text[match.end() :]}"


def _find(fleet: Any, path: str, file: str) -> tuple[dict[str, Any], str]:
    """What holds the field, and the field's name."""
    parts = path.split(".")
    here = fleet
    for i, part in enumerate(parts[:-1]):
        where = ".".join(parts[: i + 1])
        if isinstance(here, list):
            named = {str(e.get("name", "")): e for e in cast(list[dict[str, Any]], here)}
            if part not in named:
                raise FleetError(f"{file}: {where}: there is no {part}{nearest(part, sorted(named))}")
            here = named[part]
        elif isinstance(here, dict):
            here = cast(dict[str, Any], here).setdefault(part, {})
        else:
            raise FleetError(f"{file}: {where}: there is nothing below {parts[i - 1]}")
    if not isinstance(here, dict):
        raise FleetError(f"{file}: {path}: name a field of one of its entries, as servers.r650.count")
    return cast(dict[str, Any], here), parts[-1]
