"""The verbs over HTTP: one set of handlers for all kinds. Finds the object, calls `Objects`, renders what came out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any, cast

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bedplate.api import errors, requests, tables
from bedplate.api.objects import Objects, Options, Written, mapping
from bedplate.api.patch import PatchError, json_patch, merge
from bedplate.api.requests import Target, Wanted
from bedplate.api.watch import Hub, Watch, expired_line, follow
from bedplate.model.registry import KindInfo
from bedplate.model.validation import single
from bedplate.store import codec
from bedplate.store.errors import Compacted, NotFound

JSON = "application/json"


def json_response(value: Any, code: int = 200, warnings: list[str] | None = None) -> Response:
    """Answer with JSON; `value` may be JSON already."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    response = Response(data, code, media_type=JSON)
    for warning in warnings or ():
        response.headers.append("Warning", f'299 - "{warning.translate(_HEADER)}"')
    return response


_HEADER = {ord('"'): "'", ord("\n"): " ", ord("\\"): "/"}


class Resources:
    """Handlers of objects, collections and their own subresources (`status`, `scale`)."""

    def __init__(self, objects: Objects, hub: Hub) -> None:
        self.objects = objects
        self.store = objects.store
        self.hub = hub

    async def handle(self, request: Request, target: Target) -> Response:
        """Answer a request about the target."""
        method = request.method
        if method not in {"GET", "HEAD"} and target.info.namespaced and target.namespace is None:
            raise errors.not_allowed(
                target.info, f"{method} needs a namespace: .../namespaces/NAME/{target.info.plural}"
            )
        if target.subresource == "scale":
            return await self._scale(request, target)
        if target.subresource not in {"", "status"}:
            raise errors.not_found_path(request.url.path)
        if not target.name:
            return await self._collection(request, target)
        match method:
            case "GET":
                if requests.flag(request.query_params, "watch"):
                    return await self._watch(request, target)
                return await self._get(request, target)
            case "PUT" | "PATCH":
                return await self._change(request, target)
            case "DELETE":
                return await self._delete(request, target)
            case _:
                raise errors.not_allowed(target.info, f"{method} is not served for a single object")

    async def _collection(self, request: Request, target: Target) -> Response:
        match request.method:
            case "GET":
                if requests.flag(request.query_params, "watch"):
                    return await self._watch(request, target)
                return await self._list(request, target)
            case "POST":
                raw = await requests.json_body(request)
                options = requests.options(request.query_params)
                done = await to_thread.run_sync(self.objects.create, target.info, target.room, raw, options)
                return self._written(request, target.info, done, 201)
            case "DELETE":
                return await self._delete_collection(request, target)
            case other:
                raise errors.not_allowed(target.info, f"{other} is not served for a collection")

    # --- reading ---

    async def _get(self, request: Request, target: Target) -> Response:
        def read() -> bytes:
            obj = self.store.get(target.info.kind, target.room, target.name)
            return codec.encode(obj)

        data = await to_thread.run_sync(read)
        return json_response(render(target.info, data, requests.wanted(request)))

    async def _list(self, request: Request, target: Target) -> Response:
        query = request.query_params
        limit = requests.whole(query, "limit") or None
        revision, after = None, None
        match = requests.matcher(query)
        if token := query.get("continue"):
            revision, after = requests.read_continue(token)
        elif query.get("resourceVersionMatch") == "Exact":
            revision = requests.whole(query, "resourceVersion")
        elif asked := requests.whole(query, "resourceVersion"):
            await self._not_older(asked)
        kind, namespace = target.info.kind, target.namespace
        page = await to_thread.run_sync(
            lambda: self.store.list_raw(kind, namespace, limit=limit, after=after, revision=revision, match=match)
        )
        metadata: dict[str, Any] = {"resourceVersion": str(page.revision)}
        if page.next is not None:
            metadata["continue"] = requests.continue_token(page.revision, page.next)
        return json_response(render_list(target.info, page.items, metadata, requests.wanted(request)))

    async def _not_older(self, asked: int) -> None:
        newest = await to_thread.run_sync(lambda: self.store.revision)
        if asked > newest:
            details = {
                "retryAfterSeconds": 1,
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            }
            message = f"Too large resource version: {asked}, current: {newest}"
            raise errors.ApiError(504, "Timeout", message, details=details, retry_after=1)

    async def _watch(self, request: Request, target: Target) -> Response:
        if self.hub.closed:
            # A 200 that ends at once would make informers list all anew; after a 429 they go on from where they were.
            raise errors.ending()
        query, info = request.query_params, target.info
        asked = query.get("resourceVersion", "")
        revision = requests.whole(query, "resourceVersion")
        initial = requests.flag(query, "sendInitialEvents")
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise errors.bad_request("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
        if initial:
            await self._not_older(revision)
        form = requests.wanted(request)
        from_now = asked in {"", "0"} and query.get("sendInitialEvents") != "false"
        watch = Watch(
            info=info,
            namespace=target.namespace,
            revision=revision if revision else None,
            initial=initial or from_now,
            announce=initial and requests.flag(query, "allowWatchBookmarks"),
            bookmarks=requests.flag(query, "allowWatchBookmarks"),
            timeout=requests.watch_seconds(query),
            match=requests.matcher(query, target.name),
            render=watch_renderer(info, form),
        )
        lines = follow(self.hub, watch)
        # A revision that is too old is told by the answer's code, as long as that is not sent.
        if revision and not initial:
            await to_thread.run_sync(lambda: self.store.changes_since(revision, "-"))
        headers = {"Cache-Control": "no-cache, private"}
        return StreamingResponse(_guarded(lines), media_type=JSON, headers=headers)

    # --- writing ---

    async def _change(self, request: Request, target: Target) -> Response:
        options = requests.options(request.query_params)
        info, room, name = target.info, target.room, target.name
        status = target.subresource == "status"
        edit = await self._edit(request)

        def work() -> Written:
            if status:
                return self.objects.set_status(info, room, name, edit, options)
            if request.method == "PUT":
                return self.objects.replace(info, room, name, edit({}), options)
            return self.objects.edit(info, room, name, edit, options)

        done = await to_thread.run_sync(work)
        return self._written(request, info, done, 200)

    async def _edit(self, request: Request) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The change that the request asks for, as a function of the present JSON."""
        if request.method == "PUT":
            raw = await requests.json_body(request)
            return lambda _: raw
        content = request.headers.get("content-type", "").partition(";")[0].strip()
        if content in requests.APPLY:
            message = "server-side apply is not supported yet; use kubectl apply without --server-side"
            raise errors.ApiError(415, "UnsupportedMediaType", message)
        if content not in {requests.MERGE, requests.STRATEGIC, requests.JSON_PATCH}:
            message = f"{content!r} is no patch that is understood; send {requests.MERGE} or {requests.JSON_PATCH}"
            raise errors.ApiError(415, "UnsupportedMediaType", message)
        patch = await requests.json_body(request)

        if content != requests.JSON_PATCH and not isinstance(patch, dict):
            raise errors.bad_request("a merge patch must be a mapping of fields")

        def edit(present: dict[str, Any]) -> dict[str, Any]:
            # Runs inside the transaction: the present resourceVersion fits, and one that the patch names is checked.
            try:
                return json_patch(present, patch) if content == requests.JSON_PATCH else merge(present, patch)
            except PatchError as error:
                raise errors.ApiError(422, "Invalid", f"the patch can't be applied: {error}") from None

        return edit

    def _written(self, request: Request, info: KindInfo, done: Written, code: int) -> Response:
        data = codec.encode(done.object)
        return json_response(render(info, data, requests.wanted(request)), code, done.warnings)

    async def _delete(self, request: Request, target: Target) -> Response:
        asked = await _delete_options(request)
        options = requests.options(request.query_params, asked)
        if target.info.kind == "Cluster" and "Orphan" in {
            asked.get("propagationPolicy"),
            request.query_params.get("propagationPolicy"),
        }:
            raise errors.bad_request("a cluster's node pools can't outlive it; delete without --cascade=orphan")
        wanted = asked.get("preconditions") or {}

        def work() -> Written:
            return self.objects.delete(
                target.info,
                target.room,
                target.name,
                options,
                uid=str(wanted.get("uid") or ""),
                revision=str(wanted.get("resourceVersion") or ""),
            )

        done = await to_thread.run_sync(work)
        if not done.gone:
            return self._written(request, target.info, done, 200)
        details = {**errors.about(target.info, target.name), "uid": done.object.metadata.uid}
        return json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    async def _delete_collection(self, request: Request, target: Target) -> Response:
        asked = await _delete_options(request)
        options = requests.options(request.query_params, asked)
        match = requests.matcher(request.query_params)
        info = target.info

        def work() -> tuple[list[bytes], int]:
            page = self.store.list_raw(info.kind, target.namespace, match=match)
            for data in page.items:
                meta = codec.decode(info.kind, data).metadata
                if not (info.kind == "Namespace" and meta.name == "default"):
                    with suppress(NotFound):  # it went with another one, or meanwhile
                        self.objects.delete(info, meta.namespace, meta.name, options)
            return page.items, self.store.revision

        items, revision = await to_thread.run_sync(work)
        return json_response(render_list(info, items, {"resourceVersion": str(revision)}, Wanted()))

    # --- scale ---

    async def _scale(self, request: Request, target: Target) -> Response:
        info, room, name = target.info, target.room, target.name
        if not info.scalable:
            raise errors.not_found_path(request.url.path)
        if request.method == "GET":
            obj = await to_thread.run_sync(self.store.get, info.kind, room, name)
            return json_response(scale_of(obj))
        if request.method not in {"PUT", "PATCH"}:
            raise errors.not_allowed(info, f"{request.method} is not served for scale")
        options = requests.options(request.query_params)
        change = await self._edit(request)

        def edit(present: dict[str, Any]) -> dict[str, Any]:
            before = scale_of(codec.decode(info.kind, msgspec.json.encode(present)))
            scale = mapping(change(before), "the body")
            stated = mapping(scale.get("metadata") or {}, "metadata")
            if stated.get("name", name) != name:
                raise errors.bad_request(f"the Scale is of {stated['name']!r}, the request is about {name!r}")
            wanted = mapping(scale.get("spec") or {}, "spec").get("replicas", 0)
            if not isinstance(wanted, int) or isinstance(wanted, bool):
                raise errors.bad_request("spec.replicas must be a whole number")
            if faults := list(single.replicas("spec.replicas", wanted)):
                raise errors.invalid(info, name, faults)
            revision = stated.get("resourceVersion", "")
            metadata = {k: v for k, v in present["metadata"].items() if k != "resourceVersion"}
            if revision:
                metadata["resourceVersion"] = revision
            return {**present, "metadata": metadata, "spec": {**present["spec"], "replicas": wanted}}

        done = await to_thread.run_sync(self.objects.edit, info, room, name, edit, Options(options.dry_run))
        return json_response(scale_of(done.object), 200, done.warnings)


def scale_of(obj: Any) -> dict[str, Any]:
    """The `autoscaling/v1` Scale of an object."""
    m = obj.metadata
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": m.name,
            "namespace": m.namespace,
            "uid": m.uid,
            "resourceVersion": m.resource_version,
            "creationTimestamp": m.creation_timestamp,
        },
        "spec": {"replicas": obj.spec.replicas},
        "status": {"replicas": obj.status.replicas, "selector": obj.status.selector},
    }


async def _delete_options(request: Request) -> dict[str, Any]:
    found = await requests.json_body(request, empty={})
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


async def _guarded(lines: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    # Closed by hand: a client that goes must not count as a watch until the garbage is collected.
    async with aclosing(lines):
        try:
            async for line in lines:
                yield line
        except Compacted as error:
            yield expired_line(error)


def render(info: KindInfo, data: bytes, form: Wanted) -> Any:
    """One object in the form that the client wants."""
    if form.form == "Table":
        revision = msgspec.json.decode(data)["metadata"].get("resourceVersion", "")
        return tables.table(info, [data], {"resourceVersion": revision}, time.time(), form.include)
    return tables.partial(msgspec.json.decode(data)) if form.form == "Partial" else data


def watch_renderer(info: KindInfo, form: Wanted) -> Callable[[bytes], Any]:
    """Renders a watch's objects; in tables only the first has the columns."""
    first = True

    def table(data: bytes) -> Any:
        nonlocal first
        header, first = first, False
        revision = msgspec.json.decode(data)["metadata"].get("resourceVersion", "")
        return tables.table(info, [data], {"resourceVersion": revision}, time.time(), form.include, header=header)

    match form.form:
        case "Table":
            return table
        case "Partial":
            return lambda data: tables.partial(msgspec.json.decode(data))
        case _:
            return lambda data: data


def render_list(info: KindInfo, items: list[bytes], metadata: dict[str, Any], form: Wanted) -> Any:
    """A list in the form that the client wants; plain objects are not even parsed."""
    if form.form == "Table":
        return tables.table(info, items, metadata, time.time(), form.include)
    if form.form == "Partial":
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        return {**head, "items": [tables.partial(msgspec.json.decode(item)) for item in items]}
    head = msgspec.json.encode({"kind": f"{info.kind}List", "apiVersion": info.api_version, "metadata": metadata})
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"
