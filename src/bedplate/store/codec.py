"""Objects to the bytes that are kept, and back. What is kept is exactly what users get as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

from bedplate.model.kinds.base import Object
from bedplate.model.registry import BY_KIND
from bedplate.model.wire import to_wire

_ENCODER = msgspec.json.Encoder()


def encode(obj: Object) -> bytes:
    """Give the object's JSON as users see it."""
    return _ENCODER.encode(ordered(obj))


def ordered(obj: Object) -> dict[str, Any]:
    """Give the object's JSON form with `apiVersion`, `kind` and `metadata` first, as people expect it."""
    wire = to_wire(obj)
    head = {name: wire.pop(name) for name in ("apiVersion", "kind", "metadata") if name in wire}
    return head | wire


@cache
def _decoder(kind: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(BY_KIND[kind].type)


def decode(kind: str, data: bytes) -> Object:
    """Read a kept object. Unknown fields, written by a later version, are passed over."""
    return _decoder(kind).decode(data)


def kind_of(obj: Object) -> str:
    """The kind's name."""
    return type(obj).__name__


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with microseconds: Kubernetes' `MicroTime`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
