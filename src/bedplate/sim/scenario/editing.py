"""Edits that people make to declared objects in a story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bedplate.model.ids import Key
from bedplate.model.kinds.base import Object
from bedplate.sim.simulator import Simulator


def replaced(obj: Object, **changes: Any) -> Object:
    """The object with other fields."""
    return msgspec.structs.replace(obj, **changes)


def edit(sim: Simulator, k: Key, change: Callable[[Object], Object]) -> None:
    """Edit an object, where it is there."""
    if k in sim.store.objects:
        sim.edit(k, change)


def edit_spec(sim: Simulator, k: Key, **changes: Any) -> None:
    """Set fields of its spec."""
    edit(sim, k, lambda obj: replaced(obj, spec=msgspec.structs.replace(obj.spec, **changes)))  # type: ignore[attr-defined]


def annotate(sim: Simulator, k: Key, annotation: str, value: str | None) -> None:
    """Set an annotation, or (None) take it off."""

    def change(obj: Object) -> Object:
        kept = {key: v for key, v in obj.metadata.annotations.items() if key != annotation}
        if value is not None:
            kept[annotation] = value
        return replaced(obj, metadata=msgspec.structs.replace(obj.metadata, annotations=kept))

    edit(sim, k, change)
