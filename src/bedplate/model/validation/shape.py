"""Raw JSON against a struct: unknown fields with the nearest name, wrong types with what would be right.

Gives a cleaned copy (nulls and unknown fields left out) beside the faults, so that a lenient caller can go on.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import inspect as types

from bedplate.model.kinds.base import Object
from bedplate.model.validation.faults import Fault, listing, nearest

# Fields of Kubernetes' own kinds that clients send and Bedplate has no use for: dropped without a word.
_TOLERATED = {
    "ObjectMeta": {"managedFields", "selfLink", "deletionGracePeriodSeconds", "clusterName"},
    "Namespace": {"spec"},
    "Secret": {"immutable"},
    "Event": {"series", "action", "related", "reportingComponent", "reportingInstance"},
    "ObjectReference": {"resourceVersion", "fieldPath"},
    "EventSource": {"host"},
}
_UNIT_FIELDS = {"memory", "disk"}


class Shaped(NamedTuple):
    """The cleaned value and what was wrong with the raw one."""

    value: Any
    faults: list[Fault]
    unknown: list[Fault]
    """Unknown fields, apart: a caller may only warn of them."""


@cache
def _info(type_: type[msgspec.Struct]) -> types.StructType:
    found = types.type_info(type_)
    assert isinstance(found, types.StructType)
    return found


def shape(type_: type[Object], raw: dict[str, Any]) -> Shaped:
    """Check raw JSON against the struct of a kind. Its status is not looked at: users don't write it."""
    out = Shaped(None, [], [])
    value = _struct(_info(type_), {k: v for k, v in raw.items() if k != "status"}, "", out)
    return out._replace(value=value)


def decode(type_: type[Object], cleaned: dict[str, Any]) -> Object:
    """Make the object of a cleaned value."""
    return msgspec.convert(cleaned, type_)


def _struct(info: types.StructType, raw: Any, path: str, out: Shaped) -> Any:
    if not isinstance(raw, dict):
        out.faults.append(_wrong(path, raw, "a mapping of fields"))
        return None
    fields = {f.encode_name: f for f in info.fields}
    cleaned: dict[str, Any] = {}
    for name, value in cast(dict[Any, Any], raw).items():
        here = f"{path}.{name}" if path else str(name)
        field = fields.get(name)
        if field is None:
            if name not in _TOLERATED.get(info.cls.__name__, ()):
                out.unknown.append(_unknown(here, str(name), fields))
        elif value is not None:
            found = _value(field.type, value, here, out)
            if found is not None:
                cleaned[name] = found
    for name, field in fields.items():
        if field.required and raw.get(name) is None:
            here = f"{path}.{name}" if path else name
            out.faults.append(Fault(here, "is missing; give it a value", "FieldValueRequired"))
    return cleaned


def _unknown(path: str, name: str, fields: dict[str, types.Field]) -> Fault:
    where = path.rpartition(".")[0]
    known = nearest(name, fields) or f"; known are {listing(fields)}"
    return Fault(path, f'unknown field "{name}"{f" in {where}" if where else ""}{known}', "FieldValueNotSupported")


def _value(type_: types.Type, raw: Any, path: str, out: Shaped) -> Any:
    match type_:
        case types.StructType():
            return _struct(type_, raw, path, out)
        case types.DictType():
            return _mapping(type_, raw, path, out)
        case types.VarTupleType() | types.ListType():
            if not isinstance(raw, list):
                out.faults.append(_wrong(path, raw, "a list"))
                return None
            items = cast(list[Any], raw)
            return [_value(type_.item_type, item, f"{path}[{i}]", out) for i, item in enumerate(items)]
        case types.UnionType():
            inner = next(t for t in type_.types if not isinstance(t, types.NoneType))
            return _value(inner, raw, path, out)
        case _:
            return _scalar(type_, raw, path, out)


def _mapping(type_: types.DictType, raw: Any, path: str, out: Shaped) -> Any:
    if not isinstance(raw, dict):
        out.faults.append(_wrong(path, raw, "a mapping of names to values"))
        return None
    cleaned: dict[str, Any] = {}
    for key, value in cast(dict[Any, Any], raw).items():
        if not isinstance(key, str):
            out.faults.append(_wrong(path, key, "a name; put it in quotes"))
            continue
        found = _value(type_.value_type, value, f"{path}.{key}" if "." not in key else f"{path}[{key}]", out)
        if found is not None:
            cleaned[key] = found
    return cleaned


def _scalar(type_: types.Type, raw: Any, path: str, out: Shaped) -> Any:
    fault: Fault | None = None
    match type_:
        case types.StrType():
            fault = None if isinstance(raw, str) else _not_text(path, raw)
        case types.BoolType():
            fault = None if isinstance(raw, bool) else _wrong(path, raw, "true or false, without quotes")
        case types.IntType():
            fault = _not_whole(path, raw)
        case types.FloatType():
            number = isinstance(raw, int | float) and not isinstance(raw, bool)
            fault = None if number else _wrong(path, raw, "a number, without quotes")
        case types.LiteralType():
            fault = _not_listed(path, raw, [str(v) for v in type_.values])
        case _:
            raise TypeError(f"no check for {type_}")
    if fault is None:
        return raw
    out.faults.append(fault)
    return None


def _not_whole(path: str, raw: Any) -> Fault | None:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return None
    if isinstance(raw, str) and raw.strip().lstrip("-").isdigit():
        return Fault(
            path, f'must be a whole number, but "{raw}" is in quotes; write {raw.strip()}', "FieldValueTypeInvalid"
        )
    return _wrong(path, raw, "a whole number")


def _not_listed(path: str, raw: Any, options: list[str]) -> Fault | None:
    if isinstance(raw, str) and raw in options:
        return None
    shown = f'"{raw}"' if isinstance(raw, str) else _named(raw)
    near = nearest(raw, [o for o in options if o]) if isinstance(raw, str) else ""
    choices = ", ".join(f'"{o}"' for o in options if o)
    return Fault(path, f"{shown} is not one of {choices}{near}", "FieldValueNotSupported")


def _not_text(path: str, raw: Any) -> Fault:
    name = path.rpartition(".")[2]
    if isinstance(raw, bool):
        return Fault(path, f'{str(raw).lower()} is read as a truth value; put it in quotes: "{str(raw).lower()}"',
                     "FieldValueTypeInvalid")  # fmt: skip
    if isinstance(raw, int | float) and name in _UNIT_FIELDS:
        return Fault(path, f'{raw} has no unit; write it with one, such as "{raw:g}Gi"', "FieldValueTypeInvalid")
    if isinstance(raw, float):
        return Fault(path, f'{raw} is read as a number, so that 1.30 turns into 1.3; put the version in quotes: "1.30"'
                     if name in {"kubernetes", "version"} else f'{raw} is read as a number; put it in quotes: "{raw}"',
                     "FieldValueTypeInvalid")  # fmt: skip
    if isinstance(raw, int):
        return Fault(path, f'{raw} is read as a number; put it in quotes: "{raw}"', "FieldValueTypeInvalid")
    return _wrong(path, raw, "a single word or line")


def _wrong(path: str, raw: Any, wanted: str) -> Fault:
    return Fault(path, f"must be {wanted}, not {_named(raw)}", "FieldValueTypeInvalid")


def _named(raw: Any) -> str:
    match raw:
        case None:
            return "nothing"
        case bool():
            return str(raw).lower()
        case int() | float():
            return f"the number {raw}"
        case str():
            return f'"{raw if len(raw) <= 40 else raw[:37] + "..."}"'
        case list():
            return "a list"
        case _:
            return "a mapping"
