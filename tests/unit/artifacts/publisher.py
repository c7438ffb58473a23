"""A tiny Kubernetes release and a container registry, served over HTTP on the loopback address."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import tempfile
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from bedplate.drivers.artifacts import oci, registry

OCI_INDEX, OCI_MANIFEST = oci.INDEX_TYPE, oci.MANIFEST_TYPE
DOCKER_INDEX, DOCKER_MANIFEST = registry.DOCKER_INDEX_TYPE, registry.DOCKER_MANIFEST_TYPE


class Seen(NamedTuple):
    """A request as it came in."""

    path: str
    range: str | None
    authorization: str | None


class Site:
    """A web server with files. `faults` of a path are used up in order, one a request.

    A fault is a status to answer with, `cut` (half of what was asked for, then the connection breaks) or
    `whole` (the range that was asked for is ignored).
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.redirects: dict[str, str] = {}
        self.faults: defaultdict[str, list[int | str]] = defaultdict(list)
        self.seen: list[Seen] = []
        self.token: str | None = None
        """Where set, paths under /v2/ want it; /token gives it."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, end: str) -> list[Seen]:
        """The requests whose path ends so."""
        return [s for s in self.seen if s.path.endswith(end)]

    def put(self, path: str, data: bytes, media_type: str = "application/octet-stream") -> None:
        self.files[path] = (media_type, data)

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(to.path)
        authorization = to.headers["Authorization"]
        self.seen.append(Seen(parts.path, to.headers["Range"], authorization))
        fault = self.faults[parts.path].pop(0) if self.faults[parts.path] else None
        if isinstance(fault, int):
            self._send(to, fault, b"not now", {"Retry-After": "7"} if fault == 429 else {})
        elif parts.path == "/token" and self.token is not None:
            scope = parse_qs(parts.query)["scope"][0]
            good = scope.startswith("repository:") and scope.endswith(":pull")
            self._send(to, 200 if good else 400, json.dumps({"token": self.token}).encode())
        elif parts.path.startswith("/v2/") and self.token is not None and authorization != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.url}/token",service="tiny"'
            self._send(to, 401, b"", {"WWW-Authenticate": challenge})
        elif parts.path in self.redirects:
            self._send(to, 307, b"", {"Location": self.redirects[parts.path]})
        elif parts.path in self.files:
            self._send_file(to, parts.path, fault)
        else:
            self._send(to, 404, b"")

    def _send_file(self, to: BaseHTTPRequestHandler, path: str, fault: int | str | None) -> None:
        media_type, data = self.files[path]
        status, headers = 200, {"Content-Type": media_type}
        if to.headers["Range"] is not None and fault != "whole":
            first = int(to.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if first >= len(data):
                self._send(to, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        self._send(to, status, data, headers, cut=fault == "cut")

    def _send(
        self, to: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None, *, cut=False
    ) -> None:
        to.send_response(status)
        for name, value in (headers or {}).items():
            to.send_header(name, value)
        to.send_header("Content-Length", str(len(data)))
        to.end_headers()
        with contextlib.suppress(OSError):
            to.wfile.write(data[: len(data) // 2] if cut else data)
        to.close_connection = to.close_connection or cut


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(programs: dict[str, bytes]) -> bytes:
    """A layer tar, uncompressed, with executables by path."""
    with tempfile.TemporaryDirectory() as work:
        files: dict[str, Path] = {}
        for number, (path, data) in enumerate(programs.items()):
            files[path] = Path(work) / str(number)
            files[path].write_bytes(data)
        return oci.layer_of(files)


def gzipped(*programs: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Layers with their media type."""
    return [(oci.LAYER_TYPE, gzip.compress(layer(p), mtime=0)) for p in programs]


class Publisher:
    """Fills a site with a release of `version` and its images; `images` are the names of all, agnhost's last."""

    def __init__(self, site: Site, version: str, programs: tuple[str, ...], agnhost: str) -> None:
        self.site = site
        self.version = version
        self.layers: dict[str, list[tuple[str, bytes]]] = {}
        host = "registry.k8s.io"
        listed = [f"{host}/kube-proxy:v{version}", f"{host}/coredns/coredns:v1.13.1", f"{host}/pause:3.10.1"]
        listed.append(f"{host}/etcd:3.6.6-0")
        self.images = [*listed, agnhost]
        lines = "\n".join(listed)
        script = f'#!/bin/sh\n[ "$*" = "config images list --kubernetes-version v{version}" ] || exit 3\n'
        for name in programs:
            self.program(name, f"{name} {version}\n".encode() * 50)
        self.program("kubeadm", f"{script}cat <<END\n{lines}\nEND\n".encode())
        site.put(f"/release/stable-{version.rpartition('.')[0]}.txt", f"v{version}".encode())
        tools = {"/usr/local/bin/etcd": b"etcd", "/usr/local/bin/etcdctl": b"etcdctl", "/bin/etcd-3.5.9": b"old"}
        self.image(listed[0], gzipped({"/usr/local/bin/kube-proxy": b"proxy"}))
        self.image(listed[1], gzipped({"/etc/base": b"base"}, {"/coredns": b"coredns"}), docker=True)
        self.image(listed[2], gzipped({"/pause": b"pause"}))
        self.image(listed[3], gzipped({"/usr/local/bin/etcd": b"hidden", "/etc/base": b"base"}, tools))
        self.image(agnhost, gzipped({"/agnhost": b"agnhost"}))

    def at(self, program: str) -> str:
        return f"/release/v{self.version}/bin/linux/amd64/{program}"

    def program(self, name: str, data: bytes) -> None:
        self.site.put(self.at(name), data)
        self.site.put(f"{self.at(name)}.sha256", hashlib.sha256(data).hexdigest().encode())

    def image(
        self, name: str, layers: list[tuple[str, bytes]], *, docker: bool = False, architecture: str = "amd64"
    ) -> None:
        """Publish an image: an index with a second platform and an attestation, a manifest, a config, layers."""
        self.layers[name] = layers
        repository, _, tag = name.partition("/")[2].rpartition(":")
        root = f"/v2/{repository}"

        def put(kind: str, media_type: str, data: bytes) -> dict[str, Any]:
            self.site.put(f"{root}/{kind}/{digest(data)}", data, media_type)
            return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

        config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers"}}).encode()
        manifest_type, index_type = (DOCKER_MANIFEST, DOCKER_INDEX) if docker else (OCI_MANIFEST, OCI_INDEX)
        manifest = {
            "schemaVersion": 2,
            "config": put("blobs", oci.CONFIG_TYPE, config),
            "layers": [put("blobs", media_type, data) for media_type, data in layers],
        }
        entry = put("manifests", manifest_type, json.dumps(manifest, indent=3).encode())
        other = {"mediaType": manifest_type, "digest": digest(b"other"), "size": 5}
        manifests = [
            {**other, "platform": {"architecture": "unknown", "os": "unknown"}},
            {**other, "platform": {"architecture": "s390x", "os": "linux"}},
            {**entry, "platform": {"architecture": architecture, "os": "linux"}},
        ]
        index = {"schemaVersion": 2, "mediaType": index_type, "manifests": manifests}
        self.site.put(f"{root}/manifests/{tag}", json.dumps(index).encode(), index_type)

    def blobs(self, name: str) -> list[str]:
        """The paths of an image's layers."""
        repository = name.partition("/")[2].rpartition(":")[0]
        return [f"/v2/{repository}/blobs/{digest(data)}" for _, data in self.layers[name]]
