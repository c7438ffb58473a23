"""Kinds' schemas from `/openapi/v3`, and how they are explained."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

from bedplate.cli.client import Client
from bedplate.cli.errors import UserError, did_you_mean
from bedplate.cli.resources import Resource

_WIDTH = 100


class Root(NamedTuple):
    """A kind's schema and what its references point into."""

    schema: dict[str, Any]
    components: dict[str, Any]


def of_kind(client: Client, resource: Resource) -> Root:
    """Fetch the schema of a kind.

    Raises:
        UserError: the API has none for it.
    """
    index: dict[str, Any] = client.get("/openapi/v3").get("paths") or {}
    entry = index.get(resource.root.lstrip("/"))
    if entry is None:
        raise UserError(f"the controller publishes no schema of {resource.api_version}")
    document = client.get(str(entry["serverRelativeURL"]))
    components: dict[str, Any] = (document.get("components") or {}).get("schemas") or {}
    group, _, version = resource.api_version.rpartition("/")
    wanted = {"group": group, "version": version, "kind": resource.kind}
    for candidate in components.values():
        if wanted in (candidate.get("x-kubernetes-group-version-kind") or ()):
            return Root(candidate, components)
    raise UserError(f"the controller publishes no schema of {resource.kind}")


def explain(root: Root, resource: Resource, path: list[str], recursive: bool) -> list[str]:
    """The text on a kind or a field.

    Raises:
        UserError: no such field; names the nearest.
    """
    node, required = resolve(root, root.schema), False
    for depth, name in enumerate(path):
        fields = _fields(root, node)
        if name not in fields:
            above = ".".join([resource.singular, *path[:depth]])
            raise UserError(f'{above} has no field "{name}"{did_you_mean(name, fields) or _listing(fields)}')
        required = name in (_inner(root, node).get("required") or ())
        described = fields[name].get("description")
        node = resolve(root, fields[name])
        node = {**node, "description": described} if described else node
    out = [f"KIND:     {resource.kind}", f"VERSION:  {resource.api_version}", ""]
    if path:
        out += [f"FIELD:    {path[-1]} <{_type(root, node)}>{' (required)' if required else ''}", ""]
    out += ["DESCRIPTION:", *_wrapped(node.get("description") or "none", 4), *_facts(node)]
    if fields := _fields(root, node):
        out += ["", "FIELDS:", *_list(root, node, fields, 2, recursive, 0)]
    return out


def _list(
    root: Root, node: dict[str, Any], fields: dict[str, Any], indent: int, recursive: bool, depth: int
) -> list[str]:
    out: list[str] = []
    needed = _inner(root, node).get("required") or ()
    for name, field in fields.items():
        inner = resolve(root, field)
        mark = " (required)" if name in needed else ""
        out.append(f"{' ' * indent}{name} <{_type(root, inner)}>{mark}")
        if recursive:
            if depth < 8:
                out += _list(root, inner, _fields(root, inner), indent + 2, True, depth + 1)
            continue
        if text := field.get("description") or inner.get("description"):
            out += _wrapped(text, indent + 4)
        out += _facts(inner, indent + 4)
    return out


def resolve(root: Root, node: dict[str, Any]) -> dict[str, Any]:
    """Follow references, and the single member of `allOf` and of `anyOf` with null."""
    for _ in range(16):
        if ref := node.get("$ref"):
            target = root.components.get(str(ref).rsplit("/", 1)[-1], {})
        else:
            parts = node.get("allOf") or [p for p in node.get("anyOf") or () if p.get("type") != "null"]
            if len(parts) != 1:
                break
            target = parts[0]
        rest = {k: v for k, v in node.items() if k not in ("$ref", "allOf", "anyOf")}
        node = {**target, **rest}
    return node


def _inner(root: Root, node: dict[str, Any]) -> dict[str, Any]:
    """The schema whose properties a path goes on into: of a list, that of its items."""
    while node.get("type") == "array":
        node = resolve(root, node.get("items") or {})
    return node


def _fields(root: Root, node: dict[str, Any]) -> dict[str, Any]:
    return _inner(root, node).get("properties") or {}


def _type(root: Root, node: dict[str, Any]) -> str:
    if node.get("type") == "array":
        return f"[]{_type(root, resolve(root, node.get('items') or {}))}"
    values = node.get("additionalProperties")
    if isinstance(values, dict) and not node.get("properties"):
        return f"map[string]{_type(root, resolve(root, values))}"
    if node.get("type") == "object":
        return str(node.get("title") or "Object")
    return str(node.get("type") or "any")


def _facts(node: dict[str, Any], indent: int = 4) -> list[str]:
    pad = " " * indent
    out: list[str] = []
    if values := node.get("enum"):
        out.append(f"{pad}one of: {', '.join(str(v) for v in values)}")
    if node.get("default") not in (None, "", {}, []) and not isinstance(node.get("default"), dict):
        out.append(f"{pad}default: {node['default']}")
    return out


def _wrapped(text: str, indent: int) -> list[str]:
    pad = " " * indent
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=pad, subsequent_indent=pad)


def _listing(fields: dict[str, Any]) -> str:
    return f"; its fields are {', '.join(fields)}" if fields else "; it has none"
