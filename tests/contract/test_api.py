"""The API around the objects: who may ask, what is served, files by digest, hooks, streams, metrics."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

sys.path.insert(0, str(Path(__file__).parent))

from api_server import CLUSTERS, GROUP, POOLS, WAIT, ApiServer, cluster, good, pool, refusal, seed

from bedplate.api import requests
from bedplate.api.hooks import Gauge, Hooks, NotAvailable
from bedplate.cli.client import Client
from bedplate.cli.errors import ApiError, UserError
from bedplate.cli.websocket import open_websocket
from bedplate.model.kinds.base import Object

SERVERS = f"{GROUP}/servers"
MACHINE = f"{GROUP}/namespaces/default/machines/shop-1"


class Echo:
    """A stream that gives back what it is given; `bye` ends it, `fail` breaks it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def read(self) -> bytes:
        data = await self.queue.get()
        if data == b"fail":
            raise OSError("the line broke: ü" + "x" * 200)
        return b"" if data == b"bye" else data

    async def write(self, data: bytes) -> None:
        await self.queue.put(data)

    async def close(self) -> None:
        self.closed.set()


class Fakes:
    """All hooks at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.streams: list[Echo] = []
        self.refuse: Exception | None = None
        self.halted: str | None = None

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.refuse is not None:
            raise self.refuse

    async def console(self, kind: str, namespace: str, name: str) -> Echo:
        self._ask("console", kind, namespace, name)
        self.streams.append(Echo())
        return self.streams[-1]

    async def tcp(self, kind: str, namespace: str, name: str, port: int) -> Echo:
        self._ask("tcp", kind, namespace, name, port)
        self.streams.append(Echo())
        return self.streams[-1]

    async def preview(self, objects: Sequence[Object], gone: Sequence[Object]) -> dict[str, Any]:
        self._ask("preview", [o.metadata.name for o in objects], list(gone))
        return {"steps": []}

    async def why(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        self._ask("why", kind, namespace, name)
        return {"sentences": ["so it is"]}

    async def timeline(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        self._ask("timeline", kind, namespace, name)
        return {"neither": 2.5}

    async def kubeconfig(self, namespace: str, name: str) -> str:
        self._ask("kubeconfig", namespace, name)
        return "kind: Config\n"

    async def enrol(self, server: str, controller: str = "", *, replace: bool = False) -> dict[str, Any]:
        self._ask("enrol", server, controller, replace)
        return {"token": "once"}

    async def accept(self) -> None:
        self._ask("accept")

    def ready(self) -> str | None:
        return self.halted

    def gauges(self) -> Sequence[Gauge]:
        return [Gauge(name="bedplate_machines", help="Machines.", labels=("phase",), samples={("Ready",): 3})]


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def api(tmp_path: Path, fakes: Fakes) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path, Hooks(planner=fakes, streams=fakes, operator=fakes))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    try:
        yield server
    finally:
        server.close()


# --- who may ask ---


def test_nobody_passes_without_the_token(api: ApiServer) -> None:
    for header in ("", "Bearer wrong", f"Basic {api.context.token}", api.context.token):
        for method, path in (
            ("GET", CLUSTERS),
            ("GET", "/metrics"),
            ("PUT", "/blobs/x"),
            ("GET", "/apis"),
            ("GET", "/"),
        ):
            status = refusal(api.call(method, path, authorization=header), 401, "Unauthorized")
            assert api.context.token not in str(status)
    for path in ("/healthz", "/livez", "/readyz", "/version"):
        assert api.call("GET", path, authorization="").status_code == 200
    with pytest.raises(ApiError, match="does not accept this context's token"):
        Client(api.context._replace(token="wrong")).get(CLUSTERS)
    with pytest.raises(InvalidStatus) as refused:
        stream(api, f"{MACHINE}/console", token="wrong")
    assert refused.value.response.status_code == 401


def test_the_command_line_client_trusts_this_authority_only(api: ApiServer, tmp_path: Path) -> None:
    assert api.client.get("/version")["gitVersion"].startswith("v")
    with pytest.raises(UserError, match="not trusted"):
        Client(api.context._replace(ca="")).get("/version")


# --- what is served ---


def test_discovery_leads_to_every_kind(api: ApiServer) -> None:
    assert api.get("/api")["versions"] == ["v1"]
    group = api.get("/apis")["groups"][0]
    assert group["name"] == "bedplate.dev"
    assert api.get("/apis/bedplate.dev")["preferredVersion"] == group["preferredVersion"]
    for root in ("/api/v1", f"/apis/{group['preferredVersion']['groupVersion']}"):
        found = api.get(root)
        assert (found["kind"], f"/apis/{found['groupVersion']}".replace("/apis/v1", "/api/v1")) == (
            "APIResourceList",
            root,
        )
        for resource in found["resources"]:
            name, _, sub = resource["name"].partition("/")
            if sub:
                continue
            assert api.get(f"{root}/{name}")["kind"] == f"{resource['kind']}List"
            denied = api.call("POST", f"{root}/{'namespaces/default/' * resource['namespaced']}{name}", {})
            assert (denied.status_code == 405) is ("create" not in resource["verbs"]), denied.text


def test_openapi_describes_every_kind(api: ApiServer) -> None:
    paths = api.get("/openapi/v3")["paths"]
    assert set(paths) == {"api/v1", "apis/bedplate.dev/v1alpha1"}
    for place in paths.values():
        document = api.get(place["serverRelativeURL"])
        assert document["openapi"].startswith("3.")
        schemas = document["components"]["schemas"]
        references: set[str] = set()
        walk(document, references)
        assert references <= {f"#/components/schemas/{name}" for name in schemas}
        for path, item in document["paths"].items():
            assert ("{namespace}" in path) == any(p["name"] == "namespace" for p in item.get("parameters", []))
    document = api.get(paths["apis/bedplate.dev/v1alpha1"]["serverRelativeURL"])
    pools = document["paths"]["/apis/bedplate.dev/v1alpha1/namespaces/{namespace}/nodepools/{name}"]
    named = {p["name"] for p in pools["patch"]["parameters"]}
    assert {"dryRun", "fieldValidation"} <= named, "kubectl looks for these before it uses them"
    assert pools["patch"]["x-kubernetes-group-version-kind"]["kind"] == "NodePool"
    assert document["components"]["schemas"]["dev.bedplate.v1alpha1.NodePool"]["x-kubernetes-group-version-kind"]
    refusal(api.call("GET", "/openapi/v3/apis/apps/v1"), 404, "NotFound")
    asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    older = api.call("GET", "/openapi/v2", accept=asked)
    assert (older.content[:5], older.headers["content-type"]) == (b"\n\x032.0", asked.replace("@", "."))
    assert api.get("/openapi/v2")["swagger"] == "2.0"


def walk(value: Any, references: set[str]) -> None:
    if isinstance(value, dict):
        references.update(v for k, v in value.items() if k == "$ref")
        for inner in value.values():
            walk(inner, references)
    elif isinstance(value, list):
        for inner in value:
            walk(inner, references)


def test_a_body_over_the_limit_is_refused(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_LIMIT", 2**20)
    body = b'{"metadata": {"name": "' + b"x" * (2 * 2**20) + b'"}}'
    status = refusal(api.call("POST", CLUSTERS, body), 413, "RequestEntityTooLarge")
    assert "1 MiB" in status["message"]
    assert api.get(CLUSTERS)["items"] == [], "and the connection goes on"


def test_a_fault_of_ours_tells_its_kind_and_not_its_words(api: ApiServer, fakes: Fakes) -> None:
    seed(api)
    api.create(CLUSTERS, cluster())
    fakes.refuse = RuntimeError("password=hunter2")
    status = refusal(api.call("GET", f"{CLUSTERS}/shop/why"), 500, "InternalError")
    assert "RuntimeError" in status["message"]
    assert "hunter2" not in str(status)


# --- files by digest ---


def test_a_file_is_kept_only_if_it_is_what_its_digest_says(api: ApiServer) -> None:
    content = b"an image" * 1000
    right = f"sha256:{hashlib.sha256(content).hexdigest()}"
    wrong = f"sha256:{'0' * 64}"
    octets = "application/octet-stream"
    status = refusal(api.call("PUT", f"/blobs/{wrong}", content, content_type=octets), 400, "BadRequest")
    assert right in status["message"]
    assert list((api.folder / "blobs").iterdir()) == []
    assert api.call("HEAD", f"/blobs/{wrong}").status_code == 404
    api.client.upload(f"/blobs/{right}", io.BytesIO(content), len(content))
    seen = api.call("HEAD", f"/blobs/{right}")
    assert (seen.status_code, seen.headers["x-size"]) == (200, str(len(content)))
    assert Path(api.blobs.path(right) or "").read_bytes() == content
    assert api.call("PUT", f"/blobs/{right}", content, content_type=octets).status_code == 201, "again is no fault"
    for malformed in ("sha256:abc", "md5:" + "0" * 32, f"sha256:{'A' * 64}", "..%2f..%2fetc%2fpasswd"):
        assert api.call("PUT", f"/blobs/{malformed}", content, content_type=octets).status_code in {400, 404}
    assert [p.name for p in (api.folder / "blobs").iterdir()] == [right.removeprefix("sha256:")]


def test_an_upload_that_breaks_off_leaves_nothing(api: ApiServer) -> None:
    digest = hashlib.sha256(b"x" * 1000).hexdigest()
    line = http.client.HTTPSConnection("127.0.0.1", api.port, context=api.tls(), timeout=WAIT)
    line.putrequest("PUT", f"/blobs/sha256:{digest}")
    line.putheader("Authorization", f"Bearer {api.context.token}")
    line.putheader("Content-Length", "1000")
    line.endheaders(b"x" * 500)
    line.close()
    api.stop()  # ends only after what was in hand
    assert list((api.folder / "blobs").glob("*")) == []


# --- hooks ---


def test_own_endpoints_ask_the_hooks(api: ApiServer, fakes: Fakes) -> None:
    seed(api)
    good(api.call("POST", f"{GROUP}/apply", {"items": [cluster()]}))
    api.create(SERVERS, {"metadata": {"name": "rack1"}})
    assert api.get(f"{CLUSTERS}/shop/why")["sentences"] == ["so it is"]
    assert api.get(f"{CLUSTERS}/shop/timeline") == {"neither": 2.5}
    config = api.call("GET", f"{CLUSTERS}/shop/kubeconfig")
    assert (config.text, config.headers["cache-control"]) == ("kind: Config\n", "no-store")
    asked = {"controller": "c:1", "replace": True}
    enrolled = api.call("POST", f"{SERVERS}/rack1/enrol", asked)
    assert (good(enrolled), enrolled.headers["cache-control"]) == ({"token": "once"}, "no-store")
    good(api.call("POST", f"{GROUP}/plan", {"items": [pool(), cluster()]}))  # of which only the pool changes anything
    good(api.call("POST", f"{GROUP}/plan"))
    assert good(api.call("POST", f"{GROUP}/accept"))["status"] == "Success"
    assert fakes.asked == [
        ("why", "Cluster", "default", "shop"),
        ("timeline", "Cluster", "default", "shop"),
        ("kubeconfig", "default", "shop"),
        ("enrol", "rack1", "c:1", True),
        ("preview", ["web"], []),
        ("preview", [], []),
        ("accept",),
    ]
    refusal(api.call("GET", f"{POOLS}/web"), 404, "NotFound")
    refusal(api.call("GET", f"{CLUSTERS}/none/why"), 404, "NotFound")
    refusal(api.call("GET", f"{SERVERS}/rack1/kubeconfig"), 404, "NotFound")
    refusal(api.call("POST", f"{CLUSTERS}/shop/why"), 405, "MethodNotAllowed")
    refusal(api.call("POST", f"{CLUSTERS}/shop/timeline"), 405, "MethodNotAllowed")
    refusal(api.call("GET", f"{CLUSTERS}/none/timeline"), 404, "NotFound")
    refusal(api.call("POST", f"{GROUP}/plan", {"items": [pool(replicas=-1)]}), 422, "Invalid")


def test_a_hook_that_can_not_answer_says_why(api: ApiServer, fakes: Fakes) -> None:
    seed(api)
    api.create(CLUSTERS, cluster())
    fakes.refuse = NotAvailable("the control plane is not up yet; wait for Ready")
    status = refusal(api.call("GET", f"{CLUSTERS}/shop/kubeconfig"), 409, "Conflict")
    assert status["message"] == "the control plane is not up yet; wait for Ready"
    fakes.refuse = NotAvailable("it has none", missing=True)
    assert refusal(api.call("GET", f"{CLUSTERS}/shop/why"), 404, "NotFound")["message"] == "it has none"


def test_without_hooks_their_endpoints_say_so(bare: ApiServer) -> None:
    seed(bare)
    bare.create(CLUSTERS, cluster())
    for method, path in (
        ("GET", f"{CLUSTERS}/shop/why"),
        ("GET", f"{CLUSTERS}/shop/timeline"),
        ("GET", f"{CLUSTERS}/shop/kubeconfig"),
        ("POST", f"{GROUP}/plan"),
        ("POST", f"{GROUP}/accept"),
    ):
        assert "not served by this process" in refusal(bare.call(method, path), 404, "NotFound")["message"]
    assert bare.call("GET", "/readyz").text == "ok"
    with pytest.raises(InvalidStatus) as refused:
        stream(bare, f"{MACHINE}/console")
    assert refused.value.response.status_code == 404


def test_health_and_metrics(api: ApiServer, fakes: Fakes) -> None:
    assert api.call("GET", "/healthz").text == "ok"
    fakes.halted = "the store was restored; accept the difference first"
    unready = api.call("GET", "/readyz")
    assert (unready.status_code, unready.text) == (503, f"not acting: {fakes.halted}")
    assert api.call("GET", "/livez").status_code == 200, "halted is not dead"
    seed(api)
    api.call("GET", f"{CLUSTERS}/none")
    text = api.call("GET", "/metrics").text
    for line in (
        'bedplate_machines{phase="Ready"} 3.0',
        'bedplate_api_requests_total{code="404",resource="clusters",verb="GET"} 1.0',
        f"bedplate_store_revision {float(api.store.revision)}",
        "bedplate_api_watches 0.0",
    ):
        assert line in text.splitlines(), text


# --- streams ---


def stream(api: ApiServer, path: str, token: str = "") -> ClientConnection:
    headers = {"Authorization": f"Bearer {token or api.context.token}"}
    uri = f"wss://127.0.0.1:{api.port}{path}"
    return open_websocket(
        uri, ssl=api.tls(), additional_headers=headers, proxy=None, compression=None, open_timeout=WAIT
    )


def test_a_console_carries_bytes_both_ways(api: ApiServer, fakes: Fakes) -> None:
    with stream(api, f"{MACHINE}/console") as socket:
        for sent in (b"login\r", bytes(range(256)), b"x" * 200_000):
            socket.send(sent)
            assert socket.recv(timeout=WAIT) == sent
        socket.send("text too")
        assert socket.recv(timeout=WAIT) == b"text too"
        socket.send(b"bye")
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=WAIT)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1000
    assert fakes.streams[0].closed.is_set()
    with stream(api, f"{GROUP}/namespaces/default/clusters/shop/tcp?port=6443") as socket:
        socket.send(b"hello")
        assert socket.recv(timeout=WAIT) == b"hello"
    with stream(api, f"{GROUP}/servers/hv1/console") as socket:
        socket.send(b"lsblk")
        assert socket.recv(timeout=WAIT) == b"lsblk"
    assert fakes.asked == [
        ("console", "Machine", "default", "shop-1"),
        ("tcp", "Cluster", "default", "shop", 6443),
        ("console", "Server", "", "hv1"),
    ]


def test_a_stream_that_breaks_says_why_in_a_close_frame(api: ApiServer) -> None:
    with stream(api, f"{MACHINE}/console") as socket:
        socket.send(b"fail")
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=WAIT)
    closed = ended.value.rcvd
    assert closed is not None
    assert (closed.code, closed.reason[:16]) == (1011, "the line broke: ")


def test_a_refused_stream_shows_its_reason(api: ApiServer, fakes: Fakes) -> None:
    for refuse, path, code, text in (
        (NotAvailable("the machine is off; start it"), "console", 409, "the machine is off; start it"),
        (ConnectionRefusedError("nobody listens"), "tcp?port=22", 409, "port 22 can't be reached: nobody listens"),
        (None, "tcp?port=99999", 400, "from 1 to 65535"),
        (None, "nope", 404, "could not find"),
    ):
        fakes.refuse = refuse
        with pytest.raises(InvalidStatus) as refused:
            stream(api, f"{MACHINE}/{path}")
        response = refused.value.response
        assert response.status_code == code
        assert text.encode() in response.body


def test_streams_end_with_the_server(api: ApiServer) -> None:
    with stream(api, f"{MACHINE}/console") as socket:
        socket.send(b"up")
        assert socket.recv(timeout=WAIT) == b"up"
        api.stop()
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=WAIT)
