"""The application: who may ask, which handler answers which path, and how a refusal leaves the house."""

from __future__ import annotations

import hmac
import platform
import time
from collections.abc import Awaitable, Callable

import structlog
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from bedplate import __version__
from bedplate.api import discovery, errors, metrics, openapi, requests, streams
from bedplate.api.actions import Actions
from bedplate.api.blobs import BlobError, Blobs
from bedplate.api.hooks import Hooks, NotAvailable
from bedplate.api.namespaces import ensure_default_namespace
from bedplate.api.objects import Objects
from bedplate.api.requests import Target
from bedplate.api.resources import Resources, json_response
from bedplate.api.watch import Hub
from bedplate.model.ids import Digest
from bedplate.model.meta import GROUP, VERSION
from bedplate.store.errors import StoreError
from bedplate.store.store import Store

log = structlog.get_logger()

ROOT = f"/apis/{GROUP}/{VERSION}"
OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
"""Asked by probes, which have no token."""
_ALL = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

Handler = Callable[[Request], Awaitable[Response]]


def create_app(store: Store, *, token: str, blobs: Blobs, hooks: Hooks) -> Starlette:
    """Give the application.

    Args:
        token: The administrator's; whoever shows it may do everything.
        blobs: Where images' files are kept.
        hooks: What other parts plug in.
    """
    ensure_default_namespace(store)
    hub = Hub(store)
    api = _Api(store, hub, blobs, hooks)
    routes = [
        Route("/healthz", api.guarded(api.healthy)),
        Route("/livez", api.guarded(api.healthy)),
        Route("/readyz", api.guarded(api.ready)),
        Route("/metrics", api.guarded(api.metrics)),
        Route("/version", api.guarded(api.version)),
        Route("/api", _constant(discovery.core_versions())),
        Route("/apis", _constant(discovery.groups())),
        Route(f"/apis/{GROUP}", _constant(discovery.group())),
        Route("/api/v1", _constant(discovery.resources("", "v1"))),
        Route(ROOT, _constant(discovery.resources(GROUP, VERSION))),
        Route("/openapi/v2", api.guarded(api.openapi_2)),
        Route("/openapi/v3", api.guarded(api.openapi_index)),
        Route("/openapi/v3/{path:path}", api.guarded(api.openapi)),
        Route("/blobs/{digest}", api.guarded(api.blob), methods=["GET", "HEAD", "PUT"]),
        Route(f"{ROOT}/apply", api.guarded(api.actions.apply), methods=["POST"]),
        Route(f"{ROOT}/plan", api.guarded(api.actions.plan), methods=["POST"]),
        Route(f"{ROOT}/accept", api.guarded(api.actions.accept), methods=["POST"]),
        Route("/api/v1/{rest:path}", api.guarded(api.resource("")), methods=_ALL),
        Route(f"{ROOT}/{{rest:path}}", api.guarded(api.resource(GROUP)), methods=_ALL),
        WebSocketRoute(f"{ROOT}/{{rest:path}}", api.stream),
        Route("/{rest:path}", api.guarded(api.unknown), methods=_ALL),
    ]
    app = Starlette(routes=routes, lifespan=_Lifespan(hub))
    app.state.hub = hub
    app.add_middleware(_Authenticated, token=token)
    return app


class _Lifespan:
    """The hub lives as long as the application."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __call__(self, _app: Starlette) -> _Lifespan:
        return self

    async def __aenter__(self) -> None:
        self._hub.start()

    async def __aexit__(self, *_: object) -> None:
        self._hub.close()


class _Authenticated:
    """Lets nobody past without the token, but to the probes."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or scope["path"] in OPEN_PATHS or self._known(scope):
            await self._app(scope, receive, send)
            return
        refusal = errors.ApiError(401, "Unauthorized", "Unauthorized: show the token of this controller's context file")
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(_refused(refusal))
        else:
            await _refused(refusal)(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        return hmac.compare_digest(given, self._wanted)


class _Api:
    """Handlers of all paths."""

    def __init__(self, store: Store, hub: Hub, blobs: Blobs, hooks: Hooks) -> None:
        objects = Objects(store)
        self.actions = Actions(objects, hooks)
        self._resources = Resources(objects, hub)
        self._store = store
        self._blobs = blobs
        self._hooks = hooks
        self._metrics = metrics.Metrics(hub, hooks.operator)

    def guarded(self, handler: Handler) -> Handler:
        """The handler with every fault turned into a Status, counted and timed."""

        async def guarded(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = await handler(request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception as error:
                response = _refusal(request, error)
            target: Target | None = request.scope.get("bedplate.target")
            resource = target.info.plural if target is not None else ""
            self._metrics.requests.labels(request.method, resource, response.status_code).inc()
            self._metrics.seconds.labels(request.method).observe(time.perf_counter() - began)
            return response

        return guarded

    def resource(self, group: str) -> Handler:
        """The handler of all kinds of a group."""

        async def resource(request: Request) -> Response:
            target = requests.target(group, request.path_params["rest"])
            request.scope["bedplate.target"] = target
            if (action := self.actions.of(target)) is not None:
                return await action(request, target)
            return await self._resources.handle(request, target)

        return resource

    async def stream(self, websocket: WebSocket) -> None:
        """A byte stream; refused before it is accepted, so that the client sees why."""
        try:
            if self._hooks.streams is None:
                raise NotAvailable("streams are not served by this process; ask a controller", missing=True)
            target = requests.target(GROUP, websocket.path_params["rest"])
            duplex = await streams.open_stream(self._hooks.streams, target, websocket.query_params.get("port", ""))
        except Exception as error:
            await websocket.send_denial_response(_refusal(websocket, error))
            return
        await websocket.accept()
        await streams.carry(websocket, duplex)

    async def blob(self, request: Request) -> Response:
        """Whether a file is there, or take it in."""
        digest = Digest(request.path_params["digest"])
        if request.method != "PUT":
            size = await to_thread.run_sync(self._blobs.size, digest)
            if size is None:
                raise errors.ApiError(404, "NotFound", f"no file with the digest {digest} is kept here")
            return Response(status_code=200, headers={"X-Size": str(size)})
        try:
            await self._blobs.put(digest, request.stream())
        except BlobError as error:
            code, reason = (507, "InsufficientStorage") if error.full else (400, "BadRequest")
            raise errors.ApiError(code, reason, str(error)) from error
        return Response(status_code=201)

    async def healthy(self, _request: Request) -> Response:
        """The process answers, and so does its store."""
        await to_thread.run_sync(lambda: self._store.revision)
        return PlainTextResponse("ok")

    async def ready(self, _request: Request) -> Response:
        """The controller acts."""
        operator = self._hooks.operator
        halted = operator.ready() if operator is not None else None
        if halted:
            return PlainTextResponse(f"not acting: {halted}", 503)
        return await self.healthy(_request)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text form."""
        return Response(self._metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def version(self, _request: Request) -> Response:
        """As Kubernetes' API server tells it; clients read only that it is there."""
        major, minor, *_ = __version__.split(".")
        return json_response(
            {
                "major": major,
                "minor": minor,
                "gitVersion": f"v{__version__}",
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": f"python{platform.python_version()}",
                "compiler": platform.python_implementation(),
                "platform": "linux/amd64",
            }
        )

    async def openapi_2(self, request: Request) -> Response:
        """The head of the older form."""
        binary, text = openapi.version_2()
        wants_binary = "protobuf" in request.headers.get("accept", "")
        return Response(binary, media_type=openapi.V2_PROTOBUF) if wants_binary else json_response(text)

    async def openapi_index(self, _request: Request) -> Response:
        """The list of documents."""
        return json_response(await to_thread.run_sync(openapi.index))

    async def openapi(self, request: Request) -> Response:
        """One document."""
        found = await to_thread.run_sync(openapi.document, request.path_params["path"].strip("/"))
        if found is None:
            raise errors.not_found_path(request.url.path)
        return json_response(found)

    async def unknown(self, request: Request) -> Response:
        """Nothing is served there."""
        raise errors.not_found_path(request.url.path)


def _constant(value: dict[str, object]) -> Handler:
    async def constant(_request: Request) -> Response:
        return json_response(value)

    return constant


def _refused(error: errors.ApiError) -> Response:
    response = json_response(error.status(), error.code)
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.code == 429:
        response.headers["Connection"] = "close"  # the next try is for whoever listens then
    return response


def _refusal(request: Request | WebSocket, error: Exception) -> Response:
    target: Target | None = request.scope.get("bedplate.target")
    match error:
        case errors.ApiError():
            return _refused(error)
        case StoreError():
            return _refused(errors.from_store(error, target.info if target is not None else None))
        case NotAvailable():
            code, reason = (404, "NotFound") if error.missing else (409, "Conflict")
            return _refused(errors.ApiError(code, reason, str(error)))
        case _:
            # What went wrong may hold what was sent: it goes to the log by its kind and place, not to the client.
            log.error("a request failed", path=request.url.path, exc_info=error)
            return _refused(
                errors.ApiError(500, "InternalError", f"internal error ({type(error).__name__}); see the log")
            )
