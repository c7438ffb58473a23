"""The real API over TLS on a loopback port, in a thread of its own, with a real store: what clients of it see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from bedplate.api.app import create_app
from bedplate.api.blobs import Blobs
from bedplate.api.hooks import Hooks
from bedplate.api.server import listening, serve_app
from bedplate.api.watch import Hub
from bedplate.cli import context
from bedplate.cli.client import Client
from bedplate.cli.identity import api_identity
from bedplate.store.retention import Retention
from bedplate.store.store import Store

GROUP = "/apis/bedplate.dev/v1alpha1"
CLUSTERS = f"{GROUP}/namespaces/default/clusters"
POOLS = f"{GROUP}/namespaces/default/nodepools"
SECRETS = "/api/v1/namespaces/default/secrets"
WAIT = 60.0
"""Seconds until a test gives up on an answer; far beyond what any answer takes, even on a busy machine."""

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class ApiServer:
    """One API with its store, which stays open while the server is stopped and started again on the same port."""

    def __init__(self, folder: Path, hooks: Hooks | None = None) -> None:
        self.folder = folder
        self.store = Store.open(folder / "data")
        self.blobs = Blobs(folder / "blobs")
        self.hooks = hooks or Hooks()
        self.port = 0
        self.kubeconfig = folder / "kubeconfig"
        self.seen: list[str] = []
        """Method, path and query of every request that came."""
        self._ended: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.start()
        self.context = context.load(self.kubeconfig)
        self.client = Client(self.context, timeout=WAIT)
        self.http = httpx.Client(
            base_url=self.context.server,
            verify=self.tls(),
            headers={"Authorization": f"Bearer {self.context.token}"},
            timeout=WAIT,
            trust_env=False,
        )

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.context.ca)

    def start(self) -> None:
        """Serve; a connection made from now on is answered."""
        listener = listening("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        identity = api_identity(self.store, ("127.0.0.1",))
        context.save("test", f"https://127.0.0.1:{self.port}", identity.ca, identity.token, self.kubeconfig)
        app = create_app(self.store, token=identity.token, blobs=self.blobs, hooks=self.hooks)
        self.hub: Hub = app.state.hub
        app.add_middleware(_Recorder, seen=self.seen)
        began = threading.Event()

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(serve_app(app, listener, identity.certificate))
            began.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                self._ended = error
                raise

        self._thread = threading.Thread(target=run, name="api")
        self._thread.start()
        assert began.wait(WAIT)

    def end_watches(self) -> None:
        """The first thing that an ending server does; it still answers."""
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self.hub.close(), done.set()))
        assert done.wait(WAIT)

    def stop(self) -> None:
        """End the server as a signal would; the store stays open."""
        loop, task, thread = self._loop, self._task, self._thread
        if loop is None or task is None or thread is None:
            return
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join(WAIT)
        assert not thread.is_alive(), "the server did not end"
        self._thread = None

    def close(self) -> None:
        self.http.close()
        self.client.close()
        self.stop()
        self.store.close()
        assert self._ended is None, self._ended

    def compact(self) -> None:
        """Forget all history, so that only lists lead on."""
        before = self.store.retention
        self.store.retention = Retention(changes=0)
        self.store.maintain()
        self.store.retention = before

    # --- requests ---

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        **headers: str,
    ) -> httpx.Response:
        """Send a request with a JSON body; the answer, whatever its code. `accept_encoding="x"` becomes a header."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = content_type
        return self.http.request(method, path, params=dict(query or {}), content=content, headers=sent)

    def get(self, path: str, query: Mapping[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        return good(self.call("GET", path, query=query, **headers))

    def create(self, path: str, body: Any, **query: Any) -> dict[str, Any]:
        return good(self.call("POST", path, body, query), 201)

    def patch(self, path: str, body: Any, query: Mapping[str, Any] | None = None, kind: str = MERGE) -> dict[str, Any]:
        return good(self.call("PATCH", path, body, query, content_type=kind))

    @contextlib.contextmanager
    def watch(self, path: str, query: Mapping[str, Any] | None = None, **headers: str) -> Iterator[Watch]:
        """Follow a collection; events come in the order of the answer's lines."""
        asked = {"watch": "true", **(query or {})}
        with self.http.stream("GET", path, params=asked, headers=headers) as response:
            if response.status_code != 200:
                response.read()
            yield Watch(response)


class _Recorder:
    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.append(f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}")
        await self._app(scope, receive, send)


class Watch:
    """The events of a running watch."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event's type and object; waits for it, at most as long as the client's timeout."""
        event = json.loads(next(self._lines))
        return event["type"], event["object"]

    def take(self, count: int) -> list[tuple[str, str]]:
        """Types and names of the next events."""
        return [(type_, obj["metadata"]["name"]) for type_, obj in (self.next() for _ in range(count))]

    def rest(self) -> list[dict[str, Any]]:
        """All events until the server ends the watch."""
        return [json.loads(line) for line in self._lines]


def good(response: httpx.Response, code: int = 200) -> dict[str, Any]:
    assert response.status_code == code, response.text
    return response.json()


def refusal(response: httpx.Response, code: int, reason: str) -> dict[str, Any]:
    """The Status of a refused request."""
    assert response.status_code == code, response.text
    status = response.json()
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert (status["code"], status["reason"]) == (code, reason), status
    assert status["message"]
    return status


# --- objects ---


def release(version: str = "1.35.3") -> dict[str, Any]:
    return {
        "apiVersion": "bedplate.dev/v1alpha1",
        "kind": "Release",
        "metadata": {"name": f"v{version}"},
        "spec": {"version": version},
    }


def network(name: str = "lan") -> dict[str, Any]:
    return {
        "apiVersion": "bedplate.dev/v1alpha1",
        "kind": "Network",
        "metadata": {"name": name},
        "spec": {
            "cidr": "10.20.0.0/16",
            "gateway": "10.20.0.1",
            "ranges": [{"first": "10.20.1.1", "last": "10.20.1.200"}],
            "vipRanges": [{"first": "10.20.2.1", "last": "10.20.2.20"}],
        },
    }


def cluster(name: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "bedplate.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"kubernetes": "1.35", **spec},
    }


def pool(name: str = "web", owner: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "bedplate.dev/v1alpha1",
        "kind": "NodePool",
        "metadata": {"name": name},
        "spec": {"cluster": owner, "replicas": 1, **spec},
    }


def secret(name: str = "bmc", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def seed(api: ApiServer) -> None:
    """What a cluster needs: a release and a network."""
    api.create(f"{GROUP}/releases", release())
    api.create(f"{GROUP}/networks", network())


@contextlib.contextmanager
def served(folder: Path, **clusters: dict[str, Any]) -> Iterator[ApiServer]:
    """An API with what clusters stand on and these clusters, until the block ends."""
    with contextlib.closing(ApiServer(folder)) as api:
        seed(api)
        for one in clusters.values():
            api.create(CLUSTERS, one)
        yield api
