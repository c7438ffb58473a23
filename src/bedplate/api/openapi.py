"""OpenAPI v3 documents, one for each group and version, as kubectl reads them to validate, explain and patch. Pure."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import msgspec

from bedplate.api.discovery import verbs
from bedplate.model.meta import GROUP, VERSION
from bedplate.model.registry import KINDS, KindInfo
from bedplate.model.schema import components, definition_name

PREFIX = "#/components/schemas/"
_DOCUMENTS = {"api/v1": "", f"apis/{GROUP}/{VERSION}": GROUP}
"""The path of each document, with the group that it is about."""

_WRITE_PARAMETERS = [
    {
        "name": "dryRun",
        "in": "query",
        "description": "`All`: validate and answer as if it were done, and keep nothing.",
        "schema": {"type": "string", "uniqueItems": True},
    },
    {
        "name": "fieldManager",
        "in": "query",
        "description": "Name of who makes the change; accepted and not kept.",
        "schema": {"type": "string", "uniqueItems": True},
    },
    {
        "name": "fieldValidation",
        "in": "query",
        "description": "What unknown fields do: `Strict` (the default) refuses, `Warn` tells, `Ignore` says nothing.",
        "schema": {"type": "string", "uniqueItems": True},
    },
]
_LIST_PARAMETERS = [
    {"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": True}}
    for name, kind, text in (
        ("labelSelector", "string", "Only objects whose labels fit."),
        ("fieldSelector", "string", "Only objects whose fields fit."),
        ("limit", "integer", "How many objects a page has."),
        ("continue", "string", "Where the next page begins."),
        ("resourceVersion", "string", "As new as this revision, or with resourceVersionMatch=Exact just that."),
        ("watch", "boolean", "Follow changes instead of listing."),
        ("allowWatchBookmarks", "boolean", "Tell now and then how far a watch has come."),
        ("sendInitialEvents", "boolean", "Begin a watch with all that is."),
        ("timeoutSeconds", "integer", "How long a watch lasts."),
    )
]


V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""Clients ask with an `@` in it, which their own parser of answers refuses; Kubernetes answers with a dot too."""


def version_2() -> tuple[bytes, bytes]:
    """Give the head of an OpenAPI v2 document, as protobuf and as JSON, and nothing behind it.

    kubectl validates a `List` with v2 alone and passes over kinds that it does not find there: the API checks them.
    """
    info = _bytes_field(1, b"Bedplate") + _bytes_field(2, VERSION.encode())
    head = {"swagger": "2.0", "info": {"title": "Bedplate", "version": VERSION}, "paths": {}, "definitions": {}}
    return _bytes_field(1, b"2.0") + _bytes_field(2, info), msgspec.json.encode(head)


def _bytes_field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2, len(value))) + value


def index() -> dict[str, Any]:
    """The answer to `/openapi/v3`."""
    paths = {
        path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={hashlib.sha256(document(path) or b'').hexdigest()[:32]}"}
        for path in _DOCUMENTS
    }
    return {"paths": paths}


@cache
def document(path: str) -> bytes | None:
    """The document of a group and version as JSON, such as that of `apis/bedplate.dev/v1alpha1`; None: no such."""
    if path not in _DOCUMENTS:
        return None
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for info in KINDS:
        if info.group == _DOCUMENTS[path]:
            schemas |= components(info, PREFIX)
            paths |= _paths(info, f"/{path}")
    return msgspec.json.encode(
        {
            "openapi": "3.0.0",
            "info": {"title": "Bedplate", "version": VERSION},
            "paths": paths,
            "components": {"schemas": schemas},
        }
    )


def _paths(info: KindInfo, root: str) -> dict[str, Any]:
    collection = f"{root}/namespaces/{{namespace}}/{info.plural}" if info.namespaced else f"{root}/{info.plural}"
    single = f"{collection}/{{name}}"
    allowed = verbs(info)
    many: dict[str, Any] = {"get": _operation(info, "list", _LIST_PARAMETERS)}
    one: dict[str, Any] = {"get": _operation(info, "get", [])}
    if "create" in allowed:
        many["post"] = _operation(info, "post", _WRITE_PARAMETERS, ("application/json",))
        one["put"] = _operation(info, "put", _WRITE_PARAMETERS, ("application/json",))
        patches = ("application/merge-patch+json", "application/json-patch+json")
        one["patch"] = _operation(info, "patch", _WRITE_PARAMETERS, patches)
    if "delete" in allowed:
        one["delete"] = _operation(info, "delete", _WRITE_PARAMETERS[:1])
    one["parameters"] = [_in_path("name", "Name of the object.")]
    if info.namespaced:
        many["parameters"] = [_in_path("namespace", "Namespace of the object.")]
        one["parameters"].append(many["parameters"][0])
    found = {collection: many, single: one}
    if info.namespaced:
        found[f"{root}/{info.plural}"] = {"get": _operation(info, "list", _LIST_PARAMETERS)}
    return found


def _in_path(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def _operation(
    info: KindInfo, action: str, parameters: list[dict[str, Any]], bodies: tuple[str, ...] = ()
) -> dict[str, Any]:
    schema = {"$ref": f"{PREFIX}{definition_name(info.type)}"}
    answer = {"description": "OK", "content": {"application/json": {"schema": schema}}}
    operation: dict[str, Any] = {
        "tags": [info.group or "core"],
        "description": f"{action} {info.plural}",
        "operationId": f"{action}{info.kind}",
        "parameters": parameters,
        "responses": {"200": answer},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": info.group, "version": info.version, "kind": info.kind},
    }
    if bodies:
        operation["requestBody"] = {"required": True, "content": {b: {"schema": schema} for b in bodies}}
    return operation
