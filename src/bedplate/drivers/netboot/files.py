"""Serves what a boot loader fetches, over plain HTTP: firmware and boot loaders trust no certificate that is ours.

What is secret in it, a server's settings with their one-time token, is known by a path that was told to nobody but who
asked with the hardware address of a server that is offered a boot, and is given out once.
"""

from __future__ import annotations

import io
import logging
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import parse_qs, urlsplit

log = logging.getLogger("bedplate.netboot")

AT_ONCE = 64
"""Files that are sent at a time; who comes later waits."""
SILENCE_SECONDS = 60.0


class Boots(Protocol):
    """Who is offered what. Blocking; may be called from any thread."""

    def script(self, mac: str) -> str | None:
        """The loader's script for the server with that hardware address; None: it is offered nothing."""
        ...

    def part(self, path: str) -> Path | bytes | None:
        """What lies under that path; None: nothing."""
        ...


class FileServer:
    """Listens from `start` to `stop`."""

    def __init__(self, host: str, port: int, boots: Boots, loader: Callable[[], Path]) -> None:
        """`port` 0: any. `loader`: the boot loader's file."""
        gate = threading.Semaphore(AT_ONCE)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = SILENCE_SECONDS

            def do_GET(self) -> None:
                with gate:
                    self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, *, body: bool) -> None:
                found = self._found()
                if found is None:
                    self.send_error(404)
                    return
                content: IO[bytes]
                with found.open("rb") if isinstance(found, Path) else io.BytesIO(found) as content:
                    size = found.stat().st_size if isinstance(found, Path) else len(found)
                    self.send_response(200)
                    self.send_header("Content-Length", str(size))
                    self.send_header("Content-Type", "application/octet-stream")
                    self.end_headers()
                    if body:
                        shutil.copyfileobj(content, self.wfile)

            def _found(self) -> Path | bytes | None:
                asked = urlsplit(self.path)
                if asked.path == "/boot.ipxe":
                    script = boots.script(parse_qs(asked.query).get("mac", [""])[0].replace("-", ":").lower())
                    return None if script is None else script.encode()
                if asked.path == f"/{loader().name}":
                    return loader()
                return boots.part(asked.path)

            def log_message(self, format: str, *args: object) -> None:
                path = urlsplit(self.path).path.rpartition("/")[2]  # what comes before is known to one server
                log.info("%s: %s %s", self.client_address[0], self.command, path)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="netboot", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
