"""One TLS listener for agents: `/agent` is the WebSocket, `/enrol` signs certificates, `/blobs/<digest>` gives images.

`/media/` gives BMCs what bare servers boot. Everything but that and enrolment needs the client certificate of an
enrolled server. Knows nothing of steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve

from bedplate.drivers.agents.authority import AgentAuthority, EnrolmentRefused, certificate_identity
from bedplate.liveness import Silence
from bedplate.model.agent_protocol import (
    BLOB_PATH,
    ENROL_PATH,
    MAX_FRAME,
    WEBSOCKET_PATH,
    EnrolReply,
    EnrolRequest,
)
from bedplate.model.ids import Digest, ServerName
from bedplate.model.metal_protocol import MEDIA_PATH
from bedplate.ports import ImageSource, MediaSource

log = logging.getLogger("bedplate.agents")

HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024
HEAD_SECONDS = 10.0
"""For a peer to say what it wants; a silent one is dropped."""
CHUNK = 256 * 1024
STALL_SECONDS = 60.0
"""A reader of an image that takes nothing for so long is gone; it resumes with a Range."""
RENEW_SECONDS = 30 * 24 * 3600

Identity = tuple[ServerName, str]
OnAgent = Callable[[ServerConnection, Identity], Awaitable[None]]


class _Front(ServerConnection):
    """Reads the request's head, then becomes the WebSocket connection or hands over to plain HTTP."""

    on_http: Callable[[bytes, asyncio.Transport], None]
    limit: float
    """Seconds of silence after which it is given up."""
    _silence: Silence | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._front: asyncio.Transport | None = transport
        self._head = bytearray()
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._front is None:
            if self._silence is not None:
                self._silence.heard()
            super().data_received(data)
            return
        self._head += data
        if b"\r\n\r\n" not in self._head:
            if len(self._head) > HEAD_LIMIT:
                self._front.abort()
            return
        transport, self._front = self._front, None
        self._timer.cancel()
        head = bytes(self._head)
        self._head.clear()
        if head.startswith(f"GET {WEBSOCKET_PATH} ".encode()):
            # Not by the protocol's own timeout, which would wait on for the dead peer's closing words.
            self._silence = Silence(self.limit, transport.abort)
            super().connection_made(transport)
            super().data_received(head)
        else:
            self.on_http(head, transport)

    def eof_received(self) -> None:
        if self._front is None:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._silence is not None:
            self._silence.stop()
        if self._front is None:
            super().connection_lost(exc)


class Listener:
    """The listener; `on_agent` gets each WebSocket with the identity that its certificate proves."""

    def __init__(
        self,
        authority: AgentAuthority,
        images: ImageSource,
        on_agent: OnAgent,
        keepalive: float,
        silence: float,
        media: MediaSource | None = None,
    ) -> None:
        self._authority = authority
        self._media = media
        self._images = images
        self._on_agent = on_agent
        self._keepalive = keepalive
        self._silence = silence
        self._servers: list[Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def start(self, addresses: list[str]) -> list[str]:
        """Listen on `host:port` (port 0: any) and `unix:/path` addresses; gives them with their real ports.

        Raises:
            OSError: an address can't be listened on.
        """
        # Agents insist on 1.3 themselves; BMCs that fetch media may know nothing newer than 1.2.
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.verify_mode = ssl.CERT_OPTIONAL  # an agent that enrols has none yet
        self._context.load_verify_locations(cadata=self._authority.pem)
        self._load_identity()
        self._spawn(self._renew())
        bound: list[str] = []
        for address in addresses:
            bound.append(await self._listen(address))
        return bound

    async def stop(self) -> None:
        """Close the listener and its connections."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    async def _listen(self, address: str) -> str:
        listener = self

        class Front(_Front):
            limit = listener._silence

            def on_http(self, head: bytes, transport: asyncio.Transport) -> None:  # type: ignore[override]
                listener._spawn(listener._http(head, transport))

        options: dict[str, Any] = {
            "ssl": self._context,
            "create_connection": Front,
            "compression": None,  # the payload is small frames or images that are compressed already
            "max_size": MAX_FRAME,
            "ping_interval": self._keepalive,
            "ping_timeout": None,
            "close_timeout": 2,
            "server_header": None,
        }
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._servers.append(await unix_serve(self._websocket, path, **options))
            return address
        host, _, port = address.rpartition(":")
        server = await serve(self._websocket, host.strip("[]"), int(port), **options)
        self._servers.append(server)
        return f"{host}:{server.sockets[0].getsockname()[1]}"

    def _load_identity(self) -> None:
        # OpenSSL reads keys from files only; this one exists in memory alone.
        fd = os.memfd_create("listener", os.MFD_CLOEXEC)
        try:
            os.write(fd, self._authority.listener_identity())
            self._context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            self._load_identity()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _identity(self, transport: asyncio.BaseTransport) -> Identity | None:
        """Who the peer is, if TLS has proved it and the server is still known by that key."""
        der: bytes | None = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if der is None:
            return None
        name, key = certificate_identity(der)
        known = await asyncio.to_thread(self._authority.known, name)
        return (name, key) if known is not None and known.has(key) else None

    async def _websocket(self, connection: ServerConnection) -> None:
        identity = await self._identity(connection.transport)
        if identity is None:
            await connection.close(4401, "no certificate of an enrolled server; enrol it again with a new file")
            return
        await self._on_agent(connection, identity)

    # --- plain HTTP ---------------------------------------------------------------------------------------------

    async def _http(self, head: bytes, transport: asyncio.Transport) -> None:
        reader = asyncio.StreamReader(limit=BODY_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        text, _, rest = head.partition(b"\r\n\r\n")
        reader.feed_data(rest)
        try:
            await self._answer(text.decode("latin-1"), reader, writer)
            await asyncio.wait_for(writer.drain(), STALL_SECONDS)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            log.debug("request dropped: %s", error)
        finally:
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        if method == "POST" and path == ENROL_PATH:
            size = int(headers.get("content-length", "0"))
            if size > BODY_LIMIT:
                _respond(writer, "413 Too Large", b"")
                return
            body = await asyncio.wait_for(reader.readexactly(size), HEAD_SECONDS)
            await self._enrol(body, writer)
        elif method in {"GET", "HEAD"} and path.startswith(MEDIA_PATH):
            await self._medium(path, headers.get("range", ""), writer, body=method == "GET")
        elif method == "GET" and path.startswith(BLOB_PATH):
            await self._blob(Digest(path.removeprefix(BLOB_PATH)), headers.get("range", ""), writer)
        else:
            _respond(writer, "404 Not Found", b"")

    async def _medium(self, path: str, wanted: str, writer: asyncio.StreamWriter, *, body: bool) -> None:
        """Give a medium to a BMC, which has no certificate: that it knows the path is its right to it."""
        try:
            medium = await asyncio.to_thread(self._media.open, path) if self._media is not None else None
        except OSError as error:
            log.warning("a medium can't be given out: %s", error)
            medium = None
        if medium is None:
            _respond(writer, "404 Not Found", b"")
            return
        try:
            await _give(writer, medium.read, medium.size, byte_range(wanted, medium.size), wanted, body=body)
        finally:
            medium.close()

    async def _enrol(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = msgspec.json.decode(body, type=EnrolRequest)
            identity = await self._identity(writer.transport)
            certificate = await asyncio.to_thread(self._authority.enrol, request, identity[0] if identity else None)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            _respond(writer, "400 Bad Request", msgspec.json.encode(EnrolReply(error=f"bad request: {error}")))
        except EnrolmentRefused as error:
            log.warning("enrolment refused: %s", error)
            _respond(writer, "403 Forbidden", msgspec.json.encode(EnrolReply(error=str(error))))
        else:
            log.info("certificate given to server %s", request.server)
            _respond(writer, "200 OK", msgspec.json.encode(EnrolReply(certificate=certificate)))

    async def _blob(self, digest: Digest, wanted: str, writer: asyncio.StreamWriter) -> None:
        if await self._identity(writer.transport) is None:
            _respond(writer, "403 Forbidden", b"")
            return
        path = await asyncio.to_thread(self._images.path, digest)
        if path is None:
            _respond(writer, "404 Not Found", b"")
            return
        with await asyncio.to_thread(open, path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted.startswith("bytes=") else 0
            span = (start, size) if start <= size else None  # whoever has all of it asks for nothing more
            await _give(writer, lambda at, length: os.pread(file.fileno(), length, at), size, span, wanted)


async def _give(
    writer: asyncio.StreamWriter,
    read: Callable[[int, int], bytes],
    size: int,
    span: tuple[int, int] | None,
    wanted: str,
    *,
    body: bool = True,
) -> None:
    """Answer with a part of what `read` gives by offset and length; `span` None: with nothing of it.

    Raises `ConnectionError` where it is shorter than its size, or the other is gone; `TimeoutError` where it stalls.
    """
    if span is None:
        _respond(writer, "416 Range Not Satisfiable", b"")
        return
    start, end = span
    status = "206 Partial Content" if wanted else "200 OK"
    extra = f"Content-Range: bytes {start}-{end - 1}/{size}\r\n" if wanted else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {end - start}\r\n"
    writer.write(f"{head}{extra}Accept-Ranges: bytes\r\nConnection: close\r\n\r\n".encode())
    while body and start < end:
        chunk = await asyncio.to_thread(read, start, min(CHUNK, end - start))
        if not chunk:
            raise ConnectionAbortedError("the file became shorter")
        writer.write(chunk)
        start += len(chunk)
        await asyncio.wait_for(writer.drain(), STALL_SECONDS)


def byte_range(wanted: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last that a Range header asks for; all of `size` where it is empty.

    None: it asks for nothing that is there. Of several ranges the first is given.
    """
    if not wanted.startswith("bytes="):
        return (0, size) if not wanted else None
    first, dash, last = wanted.removeprefix("bytes=").split(",")[0].strip().partition("-")
    if not dash or (first and not first.isdigit()) or (last and not last.isdigit()) or not (first or last):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    return (start, end) if start < end else None


def _respond(writer: asyncio.StreamWriter, status: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
