"""HTTPS to a machine that only its server can reach: through the agents' streams, by way of a private unix socket.

Knows hosts, certificates and bytes. May not: know what is asked over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from bedplate import pki
from bedplate.model.ids import ServerName
from bedplate.ports import Dialer, Duplex

CONNECT_SECONDS = 20.0
"""For finding a way and the TLS handshake; emulated guests take seconds for a handshake."""
REQUEST_SECONDS = 40.0
DIAL_SECONDS = 5.0
AVOID_SECONDS = 30.0
"""A way that failed comes last for so long; after that it is tried in its own place again."""
RENEW_SECONDS = 12 * 3600.0
"""Half of a client certificate's life."""
_CHUNK = 64 * 1024
_LIMITS = httpx.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=60.0)
"""Connections outlast the time between two looks: a handshake is dear where guests are emulated."""

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would write a line for every request


class UnreachableError(Exception):
    """Nobody answered, or not in time. The message is a sentence's end without any secret."""


class NoSecretsError(UnreachableError):
    """The cluster's certificate authorities are not made, so nobody can be asked in its name."""


class Route(NamedTuple):
    """A way to a socket."""

    server: ServerName
    host: str
    port: int


class Tunnel:
    """A unix socket whose connections are carried on by the first route that opens."""

    def __init__(self, path: Path, dialer: Dialer, routes: Callable[[], Sequence[Route]]) -> None:
        self.path = path
        self.error = ""
        """Why the last connection could not be made; empty where it could."""
        self._dialer = dialer
        self._routes = routes
        self._avoid: dict[Route, float] = {}
        self._last: Route | None = None
        self._server: asyncio.Server | None = None
        self._carried: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. The folder keeps others out."""
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        """Listen no more and break what is open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self.path.unlink(missing_ok=True)
        carried = list(self._carried)
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    def demote(self) -> None:
        """What went over the last way failed: have the next connection try the others first."""
        if self._last is not None:
            self._avoid[self._last] = time.monotonic() + AVOID_SECONDS

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        duplex: Duplex | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            duplex = await self._dial()
            pumps = [asyncio.create_task(_up(reader, duplex)), asyncio.create_task(_down(duplex, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError as error:
            self.error = str(error)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            if duplex is not None:
                with contextlib.suppress(OSError):
                    await duplex.close()

    async def _dial(self) -> Duplex:
        now = time.monotonic()
        self._avoid = {route: until for route, until in self._avoid.items() if until > now}
        routes = sorted(dict.fromkeys(self._routes()), key=lambda route: route in self._avoid)
        if not routes:
            raise ConnectionError("no agent of a server with a way to it is connected")
        said: list[str] = []
        for route in routes:
            try:
                duplex = await self._dialer.dial(route.server, route.host, route.port, timeout=DIAL_SECONDS)
            except OSError as error:
                self._avoid[route] = now + AVOID_SECONDS
                said.append(f"{route.host}:{route.port} from {route.server}: {error or type(error).__name__}")
            else:
                self._last, self.error = route, ""
                return duplex
        raise ConnectionError("; ".join(said[:3]))


async def _up(reader: asyncio.StreamReader, duplex: Duplex) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await duplex.write(data)


async def _down(duplex: Duplex, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await duplex.read():
            writer.write(data)
            await writer.drain()


class Channel:
    """An HTTPS client through a `Tunnel`, with a client certificate that is renewed in time."""

    def __init__(self, tunnel: Tunnel, base_url: str, identity: Callable[[], pki.Identity | None]) -> None:
        """`identity` is blocking, as `pki.client_identity` is; None: the authorities are not made."""
        self.base_url = base_url
        self._tunnel = tunnel
        self._identity = identity
        self._client: httpx.AsyncClient | None = None
        self._retired: list[httpx.AsyncClient] = []
        self._made = 0.0
        self._making = asyncio.Lock()

    async def stop(self) -> None:
        """Close everything."""
        clients = [*self._retired, *([self._client] if self._client is not None else [])]
        self._client, self._retired = None, []
        for client in clients:
            await client.aclose()
        await self._tunnel.stop()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> httpx.Response:
        """Ask once; a second time on a new connection where the first was lost and asking twice does no harm.

        Raises:
            UnreachableError: no answer.
        """
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        for last in (method == "POST", True):
            client = await self._current()
            try:
                return await client.request(
                    method, path, params=params, content=content, headers=headers, timeout=timeout
                )
            except (httpx.HTTPError, OSError) as error:
                self._tunnel.demote()
                if last or isinstance(error, httpx.TimeoutException | httpx.ConnectError):
                    raise UnreachableError(self._why(error)) from None
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str], silence: float) -> AsyncGenerator[httpx.Response]:
        """Ask for an answer that goes on.

        Raises:
            UnreachableError: no answer, or it broke off.
            httpx.ReadTimeout: nothing came for `silence` seconds.
        """
        client = await self._current()
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=silence)
        try:
            async with client.stream("GET", path, params=params, timeout=timeout) as response:
                yield response
        except httpx.ReadTimeout:
            raise
        except (httpx.HTTPError, OSError) as error:
            self._tunnel.demote()
            raise UnreachableError(self._why(error)) from None

    async def _current(self) -> httpx.AsyncClient:
        async with self._making:
            if self._client is not None and time.monotonic() - self._made < RENEW_SECONDS:
                return self._client
            context = await asyncio.to_thread(self._context)
            await self._tunnel.start()
            for old in self._retired:
                await old.aclose()
            # Requests and watches may still be on the way over the old one: it lives until the next renewal.
            self._retired = [self._client] if self._client is not None else []
            self._client = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(self._tunnel.path), verify=context, limits=_LIMITS),
                base_url=self.base_url,
                trust_env=False,
            )
            self._made = time.monotonic()
            return self._client

    def _context(self) -> ssl.SSLContext:
        identity = self._identity()
        if identity is None:
            raise NoSecretsError("its certificate authorities are not made")
        return pki.ssl_context(identity)

    def _why(self, error: Exception) -> str:
        if self._tunnel.error:
            return self._tunnel.error
        if isinstance(error, httpx.TimeoutException):
            return "no answer in time"
        return str(error) or type(error).__name__
