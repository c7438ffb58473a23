"""Kubernetes' binary form of the kinds that its own clients send so: since 1.32 typed clients write core kinds in it.

Read only: answers are JSON, which every client takes. Knows the fields that Bedplate keeps, no others. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
"""Begins every body (k8s.io/apimachinery, `runtime/serializer/protobuf`); a `runtime.Unknown` follows."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class ProtobufError(ValueError):
    """Bytes that can't be read; the message says why."""


class _Field(NamedTuple):
    name: str
    type: str
    """`text`, `base64`, `number`, `flag`, `time`, `raw`, or the name of a message."""
    form: str = "one"
    """`one`, `many` or `map` (of texts to `type`)."""


# Numbers as in `generated.proto` of k8s.io/apimachinery and k8s.io/api; they never change.
_MESSAGES: dict[str, dict[int, _Field]] = {
    "Unknown": {1: _Field("typeMeta", "TypeMeta"), 2: _Field("raw", "raw"), 3: _Field("contentEncoding", "text")},
    "TypeMeta": {1: _Field("apiVersion", "text"), 2: _Field("kind", "text")},
    "ObjectMeta": {
        1: _Field("name", "text"),
        2: _Field("generateName", "text"),
        3: _Field("namespace", "text"),
        5: _Field("uid", "text"),
        6: _Field("resourceVersion", "text"),
        7: _Field("generation", "number"),
        8: _Field("creationTimestamp", "time"),
        9: _Field("deletionTimestamp", "time"),
        11: _Field("labels", "text", "map"),
        12: _Field("annotations", "text", "map"),
        13: _Field("ownerReferences", "OwnerReference", "many"),
        14: _Field("finalizers", "text", "many"),
    },
    "OwnerReference": {
        1: _Field("kind", "text"),
        3: _Field("name", "text"),
        4: _Field("uid", "text"),
        5: _Field("apiVersion", "text"),
        6: _Field("controller", "flag"),
        7: _Field("blockOwnerDeletion", "flag"),
    },
    "Namespace": {1: _Field("metadata", "ObjectMeta")},
    "Secret": {
        1: _Field("metadata", "ObjectMeta"),
        2: _Field("data", "base64", "map"),
        3: _Field("type", "text"),
        4: _Field("stringData", "text", "map"),
    },
    "Event": {
        1: _Field("metadata", "ObjectMeta"),
        2: _Field("involvedObject", "ObjectReference"),
        3: _Field("reason", "text"),
        4: _Field("message", "text"),
        5: _Field("source", "EventSource"),
        6: _Field("firstTimestamp", "time"),
        7: _Field("lastTimestamp", "time"),
        8: _Field("count", "number"),
        9: _Field("type", "text"),
    },
    "EventSource": {1: _Field("component", "text")},
    "ObjectReference": {
        1: _Field("kind", "text"),
        2: _Field("namespace", "text"),
        3: _Field("name", "text"),
        4: _Field("uid", "text"),
        5: _Field("apiVersion", "text"),
    },
    "DeleteOptions": {
        2: _Field("preconditions", "Preconditions"),
        4: _Field("propagationPolicy", "text"),
        5: _Field("dryRun", "text", "many"),
    },
    "Preconditions": {1: _Field("uid", "text"), 2: _Field("resourceVersion", "text")},
}
_KINDS = ("Namespace", "Secret", "Event", "DeleteOptions")


def decode(data: bytes) -> dict[str, Any]:
    """Give the JSON form of a body. Raises `ProtobufError`."""
    if not data.startswith(_MAGIC):
        raise ProtobufError("it does not begin as Kubernetes' protobuf does")
    try:
        envelope = _message("Unknown", data[len(_MAGIC) :])
        head: dict[str, Any] = envelope.get("typeMeta", {})
        kind = head.get("kind", "")
        if kind not in _KINDS or envelope.get("contentEncoding"):
            raise ProtobufError(f"the kind {kind!r} is read from JSON only")
        return {**head, **_message(kind, envelope.get("raw", b""))}
    except (IndexError, UnicodeDecodeError, OverflowError, OSError) as error:
        raise ProtobufError("it ends too early or holds no text where there should be one") from error


def _message(name: str, data: bytes) -> dict[str, Any]:
    """Read a message; what is empty is left out, as Go writes even what was never set."""
    out: dict[str, Any] = {}
    for number, wire, raw in _fields(data):
        field = _MESSAGES[name].get(number)
        if field is None:
            continue
        if isinstance(raw, bytes) == (field.type in {"number", "flag"}):
            raise ProtobufError(f"{field.name} has the wire type {wire}")
        if field.form == "map":
            assert isinstance(raw, bytes)
            entry = {n: v for n, _, v in _fields(raw)}
            out.setdefault(field.name, {})[_bytes(entry.get(1)).decode()] = _value(field.type, _bytes(entry.get(2)))
            continue
        value = _value(field.type, raw)
        if field.form == "many":
            out.setdefault(field.name, []).append(value)
        elif value:
            out[field.name] = value
    return out


def _value(type_: str, raw: int | bytes) -> Any:
    match type_, raw:
        case "number", int():
            return raw - 2**64 if raw >= 2**63 else raw
        case "flag", int():
            return bool(raw)
        case "text", bytes():
            return raw.decode()
        case "base64", bytes():
            return base64.b64encode(raw).decode()
        case "raw", bytes():
            return raw
        case "time", bytes():
            return _time(raw)
        case _, bytes():
            return _message(type_, raw)
        case _:
            raise ProtobufError(f"a number is no {type_}")


def _time(data: bytes) -> str | None:
    seconds = next((v for n, _, v in _fields(data) if n == 1 and isinstance(v, int)), 0)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def _bytes(value: int | bytes | None) -> bytes:
    if isinstance(value, int):
        raise ProtobufError("a map holds a number")
    return value or b""


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field. Raises `IndexError` where it ends too early."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in {_FIXED64, _FIXED32}:
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ProtobufError(f"the wire type {wire} is not used by Kubernetes")
        if at + size > len(data):
            raise IndexError(at)
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value & (2**64 - 1), at
        if shift >= 70:  # ten bytes hold 64 bits
            raise ProtobufError("a number is longer than 64 bits")
