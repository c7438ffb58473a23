"""The way from one server's libvirt to another's while a machine moves: TLS between their agents, a socket at each end.

The source's libvirt dials a socket of its own agent, which dials the target's agent; that one hands on to its libvirt,
but only where it awaits a machine from just that server. So no libvirt listens on the network, no server may reach into
another one but for a move that the controller ordered, and both prove who they are by the certificates of their
enrolment. The guest's memory does not pass here: QEMU sends it itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from bedplate.agent.enrol import tls_context
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import MOVE_PORT
from bedplate.model.ids import ServerName

log = logging.getLogger("bedplate.agent.moves")

CHUNK = 64 * 1024
DIAL_SECONDS = 5.0
DEAD_MILLISECONDS = 5000
"""Unanswered data for so long ends a passage: libvirt then knows at once that the other server is gone."""
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
"""Where libvirt listens locally: as one daemon, or as one of several."""


def libvirt_socket(uri: str) -> str:
    """Path of the socket behind a local URI of libvirt."""
    named = parse_qs(urlsplit(uri).query).get("socket")
    if named:
        return named[0]
    return next((path for path in SOCKETS if Path(path).exists()), SOCKETS[0])


class Passage:
    """Both ends of it on one server.

    Args:
        libvirt: Gives the path of this server's libvirt socket.
        awaited: Tells whether a machine is awaited from a server.
        folder: For the source's sockets; its path must be short.
    """

    def __init__(
        self,
        state: AgentState,
        libvirt: Callable[[], str],
        awaited: Callable[[ServerName], bool],
        folder: Path,
        *,
        port: int = MOVE_PORT,
    ) -> None:
        self._state = state
        self._libvirt = libvirt
        self._awaited = awaited
        self._folder = folder
        self._port = port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    # --- the target's end ---------------------------------------------------------------------------------------

    async def listen(self, address: str) -> None:
        """Take machines in at that address of this server, or at any where it is not one. Raises `OSError`."""
        if self._server is not None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._state.ca_file.read_text())
        context.load_cert_chain(self._state.certificate_file, self._state.key_file)
        try:
            self._server = await asyncio.start_server(self._admit, address or None, self._port, ssl=context)
        except OSError:
            self._server = await asyncio.start_server(self._admit, None, self._port, ssl=context)

    def close(self) -> None:
        """Take nobody in any more; what is on its way goes on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """End everything."""
        self.close()
        for task in list(self._pumps):
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer)
        if not self._awaited(peer):
            log.warning("server %s asks for a move, but no machine is awaited from it", peer or "(unknown)")
            writer.close()
            return
        try:
            inside = await asyncio.open_unix_connection(self._libvirt())
        except OSError as error:
            log.error("libvirt can't be reached for a move from %s: %s", peer, error)
            writer.close()
            return
        await self._join((reader, writer), inside)

    # --- the source's end ---------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def to(self, server: ServerName, address: str) -> AsyncGenerator[str]:
        """Open a way to a server's libvirt; gives the path of the socket here. Raises `OSError` where it does not
        answer: it is tried before anything is begun."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = [await self._dial(server, address)]

        async def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                outside = first.pop() if first else await self._dial(server, address)
            except OSError as error:
                log.warning("%s at %s is not reached: %s", server, address, error)
                writer.close()
                return
            await self._join((reader, writer), outside)

        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = f"{folder}/s"
            listener = await asyncio.start_unix_server(admit, path)
            try:
                yield path
            finally:
                listener.close()
                for _, writer in first:
                    writer.close()

    async def _dial(self, server: ServerName, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = tls_context(self._state.ca_file.read_text(), self._state)
        dialled = asyncio.open_connection(address, self._port, ssl=context, server_hostname=server)
        try:
            reader, writer = await asyncio.wait_for(dialled, DIAL_SECONDS)
        except TimeoutError:
            raise ConnectionError(f"{server} does not answer at {address}, port {self._port}") from None
        _impatient(writer)
        return reader, writer

    # --- both ---------------------------------------------------------------------------------------------------

    async def _join(
        self,
        one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry bytes both ways until one side ends."""
        tasks = [
            asyncio.ensure_future(_carry(one[0], other[1])),
            asyncio.ensure_future(_carry(other[0], one[1])),
        ]
        self._pumps.update(tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._pumps.difference_update(tasks)
            one[1].close()
            other[1].close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


def _peer(writer: asyncio.StreamWriter) -> ServerName:
    _impatient(writer)
    certificate = writer.get_extra_info("ssl_object").getpeercert() or {}
    names = dict(pair for part in certificate.get("subject", ()) for pair in part)
    return ServerName(str(names.get("commonName", "")))


def _impatient(writer: asyncio.StreamWriter) -> None:
    link: socket.socket = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 1),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, DEAD_MILLISECONDS),
    ):
        link.setsockopt(socket.IPPROTO_TCP, option, value)
