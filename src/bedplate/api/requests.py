"""Reading a request: path, query, body, what the client accepts. Turns Starlette's objects into plain values."""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request

from bedplate.api import errors, protobuf
from bedplate.api.objects import Options
from bedplate.api.watch import Match
from bedplate.model.labels import SelectorError, field_selector, parse_selector, selects
from bedplate.model.registry import BY_PLURAL, KindInfo
from bedplate.model.validation.faults import nearest
from bedplate.store.changelog import Cursor

BODY_LIMIT = 12 * 2**20
"""Bytes of a body: a file of 10 MB gets its own answer from validation, beyond that it is no manifest."""

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = ("application/apply-patch+yaml", "application/apply-patch+cbor")


class Target(NamedTuple):
    """What a path names. `namespace` None: over all; `name` "": the collection."""

    info: KindInfo
    namespace: str | None
    name: str
    subresource: str

    @property
    def room(self) -> str:
        """The namespace as the store has it."""
        return self.namespace or ""


def target(group: str, rest: str) -> Target:
    """Read the part of a path after the version. Raises `ApiError`."""
    parts = rest.strip("/").split("/")
    namespace: str | None = None
    if parts[0] == "namespaces" and len(parts) >= 3 and not (group == "" and parts[2] in {"status", "finalize", "why"}):
        namespace, parts = parts[1], parts[2:]
    info = BY_PLURAL.get((group, parts[0]))
    if info is None:
        known = [plural for g, plural in BY_PLURAL if g == group]
        raise errors.ApiError(404, "NotFound", f"no kind {parts[0]!r} is served here{nearest(parts[0], known)}")
    name = parts[1] if len(parts) > 1 else ""
    if len(parts) > 3 or (namespace is not None and not info.namespaced):
        raise errors.not_found_path(rest)
    if name and info.namespaced and namespace is None:
        raise errors.bad_request(f"{info.plural} live in namespaces; write .../namespaces/NAME/{info.plural}/{name}")
    return Target(info, namespace if info.namespaced else None, name, parts[2] if len(parts) > 2 else "")


async def json_body(request: Request, *, empty: Any = None) -> Any:
    """Read and parse the body. Raises `ApiError`."""
    content = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if content == protobuf.CONTENT_TYPE:
        return await _protobuf(request)
    if "json" not in content and content:
        raise errors.ApiError(415, "UnsupportedMediaType", f"{content!r} is not understood here; send application/json")
    data = await body(request)
    if not data.strip() and empty is not None:
        return empty
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise errors.bad_request(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise errors.bad_request("the body is nested too deeply") from None


async def _protobuf(request: Request) -> dict[str, Any]:
    try:
        return protobuf.decode(await body(request))
    except protobuf.ProtobufError as error:
        message = f"the protobuf body can't be read: {error}; send application/json"
        raise errors.ApiError(415, "UnsupportedMediaType", message) from None


async def body(request: Request) -> bytes:
    """Read the body, bounded. Raises `ApiError`."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_LIMIT:
            message = f"the body is larger than {BODY_LIMIT // 2**20} MiB; split it into several"
            raise errors.ApiError(413, "RequestEntityTooLarge", message)
        parts.append(part)
    return b"".join(parts)


def options(query: Mapping[str, str], delete: Mapping[str, Any] | None = None) -> Options:
    """What a writing request asks for. Raises `ApiError`."""
    dry = query.get("dryRun", "")
    if delete and delete.get("dryRun"):
        dry = "All"
    if dry not in {"", "All"}:
        raise errors.bad_request(f"dryRun is {dry!r}; the only value is All")
    validation = query.get("fieldValidation") or "Strict"
    if validation not in {"Strict", "Warn", "Ignore"}:
        raise errors.bad_request(f"fieldValidation is {validation!r}; values are Strict, Warn and Ignore")
    return Options(dry_run=dry == "All", validation=validation)


def matcher(query: Mapping[str, str], name: str = "") -> Match | None:
    """A test of objects' JSON by the label and field selectors; None: all match. Raises `ApiError`."""
    try:
        labels = parse_selector(query.get("labelSelector", ""))
        fields = query.get("fieldSelector", "")
        by_field = field_selector(f"{fields},metadata.name={name}" if name else fields)
    except SelectorError as error:
        raise errors.bad_request(str(error)) from None
    if not labels and not fields.strip(",") and not name:
        return None

    def match(data: bytes) -> bool:
        obj: dict[str, Any] = msgspec.json.decode(data)
        return selects(labels, obj["metadata"].get("labels") or {}) and by_field(obj)

    return match


def whole(query: Mapping[str, str], name: str, default: int = 0) -> int:
    """A number of the query. Raises `ApiError`."""
    text = query.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise errors.bad_request(f"{name} is {text!r}; it must be a whole number")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A truth value of the query."""
    return query.get(name, "").lower() in {"1", "true", "t"}


def watch_seconds(query: Mapping[str, str]) -> float:
    """How long a watch lasts; by default 30 to 60 minutes, spread so that clients don't come back all at once."""
    return float(whole(query, "timeoutSeconds")) or random.uniform(1800, 3600)


def continue_token(revision: int, cursor: Cursor) -> str:
    """Where a list goes on, for the client to give back."""
    return base64.urlsafe_b64encode(msgspec.json.encode((revision, *cursor))).decode().rstrip("=")


def read_continue(text: str) -> tuple[int, Cursor]:
    """Read a continue token. Raises `ApiError`."""
    try:
        padded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        revision, namespace, name = msgspec.json.decode(padded, type=tuple[int, str, str])
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise errors.bad_request("the continue token is not one of this API's; list again without it") from None
    return revision, (namespace, name)


class Wanted(NamedTuple):
    """The form in which a client wants objects."""

    form: str = "plain"
    """`plain`, `Table`, or `Partial` for metadata only."""
    include: str = "Metadata"


def wanted(request: Request) -> Wanted:
    """Read the Accept header: the first form that is known."""
    for choice in request.headers.get("accept", "*/*").split(","):
        parts = [p.strip() for p in choice.split(";")]
        if parts[0] not in {"application/json", "*/*", "application/*"}:
            continue
        parameters = dict(p.split("=", 1) for p in parts[1:] if "=" in p)
        form = parameters.get("as", "")
        if not form:
            return Wanted()
        if parameters.get("v", "v1") != "v1":
            continue
        if form == "Table":
            return Wanted("Table", request.query_params.get("includeObject", "Metadata"))
        if form in {"PartialObjectMetadata", "PartialObjectMetadataList"}:
            return Wanted("Partial")
    return Wanted()
