"""JSON Schema and OpenAPI derived from the structs: names, types, defaults, and descriptions out of docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import inspect as types

from bedplate.model.kinds.base import Object
from bedplate.model.meta import ObjectMeta
from bedplate.model.registry import BY_KIND, KindInfo
from bedplate.model.validation import single

META = "io.k8s.apimachinery.pkg.apis.meta.v1"

_QUANTITY = {"memory", "disk", "capacity", "free", "allocatedMemory"}

_META_FIELDS = {
    "name": "Unique among the objects of its kind in its namespace. Can't be changed.",
    "generateName": "Beginning of the name; the API adds five characters.",
    "namespace": "The room of names that the object lives in; empty for cluster-scoped kinds.",
    "labels": "Names and values by which objects are selected.",
    "annotations": "Names and values that mean something to tools and people.",
    "uid": "Identity given at creation; never used again.",
    "generation": "Grows with every change of the spec.",
    "resourceVersion": "The store's revision at the last write; give it back to refuse lost updates.",
    "creationTimestamp": "When the object was made (RFC 3339, UTC).",
    "deletionTimestamp": "When its deletion was asked for; set by the API.",
    "finalizers": "Who must agree before the object is forgotten.",
    "ownerReferences": "Objects whose deletion deletes this one.",
}
_OBJECT_FIELDS = {
    "apiVersion": "Group and version of the kind.",
    "kind": "What this object is.",
    "metadata": "Standard object metadata.",
    "spec": "What is wanted.",
    "status": "What is; written by Bedplate only.",
}
_COMMON = {
    "conditions": "Truths about the object for programs, such as Ready.",
    "observedGeneration": "The generation that this status speaks of.",
    "phase": "Where it is in its life, for eyes only; programs read the conditions.",
}


def definition_name(type_: type[msgspec.Struct]) -> str:
    """Give the OpenAPI name of a struct, such as `dev.bedplate.v1alpha1.Cluster`."""
    if type_ is ObjectMeta or type_.__name__ == "OwnerReference":
        return f"{META}.{type_.__name__}"
    core = type_.__module__.endswith(".core")
    return f"{'io.k8s.api.core.v1' if core else 'dev.bedplate.v1alpha1'}.{type_.__name__}"


@cache
def documented(type_: type[msgspec.Struct]) -> dict[str, str]:
    """Give the docstring under each field of a struct and its bases, by Python name; "" for the struct's own."""
    found: dict[str, str] = {}
    for base in reversed(type_.__mro__):
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue  # no source at hand (a frozen build): the schema stands without descriptions
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                value = text.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[field.target.id] = inspect.cleandoc(value.value)
    found[""] = inspect.getdoc(type_) or "" if type_.__doc__ else ""
    return found


def components(info: KindInfo, prefix: str) -> dict[str, Any]:
    """Give the schema of a kind and of all that it refers to, by OpenAPI name. `prefix` begins each `$ref`."""
    found: dict[str, Any] = {}
    _struct(info.type, prefix, found)
    top = found[definition_name(info.type)]
    _require(info, found, prefix)
    top["x-kubernetes-group-version-kind"] = [{"group": info.group, "version": info.version, "kind": info.kind}]
    return found


def _require(info: KindInfo, found: dict[str, Any], prefix: str) -> None:
    """Mark the fields of the spec that validation misses in an object that has none."""
    faults = single.check(info.type())
    paths = [f.field.split(".") for f in faults if f.reason == "FieldValueRequired"]
    missed = {path[1] for path in paths if path[0] == "spec"}
    if missed:
        field = found[definition_name(info.type)]["properties"]["spec"]
        spec = found[field["allOf"][0]["$ref"].removeprefix(prefix)]
        spec["required"] = [n for n in spec["properties"] if n in missed or n in spec.get("required", ())]


def json_schema(kind: str) -> dict[str, Any]:
    """Give the JSON Schema (2020-12) of a kind, for editors."""
    found = components(BY_KIND[kind], "#/$defs/")
    top = found.pop(definition_name(BY_KIND[kind].type))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": found}


def _struct(type_: type[msgspec.Struct], prefix: str, found: dict[str, Any]) -> dict[str, Any]:
    name = definition_name(type_)
    reference = {"$ref": f"{prefix}{name}"}
    if name in found:
        return reference
    out: dict[str, Any] = {"type": "object"}
    found[name] = out  # before its fields, so that a struct may hold itself
    docs = documented(type_)
    if docs[""]:
        out["description"] = docs[""]
    fields = types.type_info(type_)
    assert isinstance(fields, types.StructType)
    hints = get_type_hints(type_)
    order = {"apiVersion": 0, "kind": 1, "metadata": 2}
    properties: dict[str, Any] = {}
    for field in sorted(fields.fields, key=lambda f: order.get(f.encode_name, 3)):
        schema = _schema(field.type, prefix, found)
        if "enum" in schema:  # as it was written: the text beside it tells of the values in that order
            schema["enum"] = [str(v) for v in get_args(hints[field.name])]
        text = docs.get(field.name) or _described(type_, field.encode_name)
        schema = _with(schema, "description", text) if text else schema
        default = _default(field)
        schema = _with(schema, "default", default) if default is not None and not issubclass(type_, Object) else schema
        if field.encode_name in _QUANTITY and schema.get("type") == "string":
            schema["x-bedplate-format"] = "quantity"
        properties[field.encode_name] = schema
    out["properties"] = properties
    required = [f.encode_name for f in fields.fields if f.required]
    if required:
        out["required"] = required
    return reference


def _described(type_: type[msgspec.Struct], field: str) -> str:
    own = _META_FIELDS if type_ is ObjectMeta else _OBJECT_FIELDS if issubclass(type_, Object) else {}
    return own.get(field) or _COMMON.get(field, "")


def _with(schema: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Add to a schema; beside a `$ref` nothing may stand, so that it goes into an `allOf`."""
    if "$ref" in schema:
        schema = {"allOf": [schema]}
    return {**schema, name: value}


def _default(field: types.Field) -> Any:
    value = field.default
    if value is msgspec.NODEFAULT or isinstance(value, msgspec.Struct) or value in ("", (), {}, None):
        return None
    return value


def _schema(type_: types.Type, prefix: str, found: dict[str, Any]) -> dict[str, Any]:
    match type_:
        case types.StructType():
            return _struct(type_.cls, prefix, found)
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType():
            return {"type": "integer", "format": "int64"}
        case types.FloatType():
            return {"type": "number", "format": "double"}
        case types.StrType():
            return {"type": "string"}
        case types.LiteralType():
            return {"type": "string", "enum": [str(v) for v in type_.values]}
        case types.DictType():
            return {"type": "object", "additionalProperties": _schema(type_.value_type, prefix, found)}
        case types.VarTupleType() | types.ListType():
            return {"type": "array", "items": _schema(type_.item_type, prefix, found)}
        case types.UnionType():
            return _schema(next(t for t in type_.types if not isinstance(t, types.NoneType)), prefix, found)
        case _:
            raise TypeError(f"no schema for {type_}")
