"""The reference of all kinds as Markdown, made from the model: `python -m bedplate.cli.objects_reference`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from bedplate.model.registry import KINDS, KindInfo
from bedplate.model.schema import components, definition_name

_WIDTH = 120
_PREFIX = "#/"
_SHARED = ("ObjectMeta", "OwnerReference", "Condition")
"""Told once, at the end: nearly every kind has them."""

_HEAD = """# Objects

Made from the model (`python -m bedplate.cli.objects_reference`). `bedplate explain KIND.FIELD` and `kubectl explain`
tell the same of a running controller.

Each field has its full path, its type and, where it has one, its default. `[]` in a path stands for each item of a
list, `NAME` for each name of a map. A *quantity* is a text with a unit, such as `4Gi` or `500Mi`. A *map* has texts as
names and, unless something else is said, as values. What the API gives back leaves empty texts, lists and maps out.
`status` is written by Bedplate only. *Required* fields may not be left out or empty.
"""


def markdown() -> str:
    """The whole page."""
    schemas: dict[str, Any] = {}
    for info in KINDS:
        schemas |= components(info, _PREFIX)
    out = [_HEAD, *_contents()]
    for info in KINDS:
        out += _kind(info, schemas)
    out += ["## Shared", ""]
    for name in _SHARED:
        schema = next(s for full, s in schemas.items() if full.rpartition(".")[2] == name)
        out += [f"### {name}", "", *_wrapped(schema["description"]), "", *_fields(schema, "", schemas), ""]
    return "\n".join(out).rstrip() + "\n"


def _contents() -> Iterator[str]:
    links = (f"[{info.kind}](#{info.kind.lower()})" for info in KINDS)
    yield from _wrapped(f"Kinds: {', '.join(links)}. Shared: {', '.join(map(_link, _SHARED))}.")
    yield ""


def _kind(info: KindInfo, schemas: dict[str, Any]) -> Iterator[str]:
    schema = schemas[definition_name(info.type)]
    yield f"## {info.kind}"
    yield ""
    yield from _wrapped(schema["description"])
    yield ""
    yield from _wrapped(" ".join(_facts(info)))
    yield ""
    groups = {"spec": "### Spec", "status": "### Status"}
    rest = [n for n in schema["properties"] if n not in {"apiVersion", "kind", "metadata", *groups}]
    if rest:
        for name in rest:
            yield from _field(name, schema["properties"][name], name in schema.get("required", ()), schemas)
        yield ""
    for name, title in groups.items():
        if name in schema["properties"]:
            yield f"{title} of {info.kind}"
            yield ""
            yield from _fields(_target(schema["properties"][name], schemas), f"{name}.", schemas)
            yield ""


def _facts(info: KindInfo) -> Iterator[str]:
    yield f"`apiVersion: {info.api_version}`, `kind: {info.kind}`, [metadata](#objectmeta)."
    names = ", ".join(f"`{n}`" for n in (info.plural, info.singular, *info.short_names))
    yield f"On the command line: {names}."
    yield "Lives in a namespace." if info.namespaced else "Lives in no namespace."
    if info.derived:
        yield "Made by Bedplate; users read it" + (" and may delete it." if info.deletable else ".")
    if info.scalable:
        yield "Has the subresource `scale`."


def _fields(schema: dict[str, Any], path: str, schemas: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        yield from _field(f"{path}{name}", field, name in required, schemas)


def _field(path: str, field: dict[str, Any], required: bool, schemas: dict[str, Any]) -> Iterator[str]:
    """One field, and all that are below it."""
    target = _target(field, schemas)
    facts = [_type(field, schemas)]
    if required:
        facts.append("required")
    if "default" in field and not path.startswith("status."):  # nobody leaves a status out
        facts.append(f"default `{_literal(field['default'])}`")
    text = field.get("description") or (target.get("description", "") if target is not field else "")
    head = f"- `{path}` ({', '.join(facts)})"
    yield from _wrapped(f"{head}: {' '.join(text.split())}" if text else head, "  ")
    inner, suffix = target, "."
    while "properties" not in inner and ("items" in inner or "additionalProperties" in inner):
        suffix = f"[]{suffix}" if "items" in inner else f".NAME{suffix}"
        inner = _target(inner.get("items") or inner["additionalProperties"], schemas)
    if "properties" in inner and _shared(field, schemas) is None:
        yield from _fields(inner, f"{path}{suffix}", schemas)


def _type(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    shared = _shared(field, schemas)
    target = _target(field, schemas)
    if target.get("type") == "array":
        items = _target(target["items"], schemas)
        return f"list of {_link(shared) if shared else _plural(items)}"
    if shared:
        return _link(shared)
    if "enum" in target:
        return "one of " + ", ".join(f"`{v}`" if v else "empty" for v in target["enum"])
    if target.get("x-bedplate-format"):
        return str(target["x-bedplate-format"])
    if "additionalProperties" in target:
        values = _target(target["additionalProperties"], schemas)
        return "map" if values["type"] == "string" else f"map of {_plural(values)}"
    return str(target["type"])


def _plural(items: dict[str, Any]) -> str:
    return "objects" if "properties" in items else f"{items['type']}s"


def _shared(field: dict[str, Any], schemas: dict[str, Any]) -> str | None:
    """The name of the shared struct that the field holds, or a list of."""
    target = _target(field, schemas)
    name = _reference(target["items"] if target.get("type") == "array" else field).rpartition(".")[2]
    return name if name in _SHARED else None


def _reference(field: dict[str, Any]) -> str:
    """The full name of the struct that the field refers to, or nothing."""
    held: dict[str, Any] = field["allOf"][0] if "allOf" in field else field
    return str(held.get("$ref", "")).removeprefix(_PREFIX)


def _target(field: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the one that it refers to."""
    name = _reference(field)
    return schemas[name] if name else field


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    print(markdown(), end="")
