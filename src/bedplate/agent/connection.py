"""The agent's connection to its controller: dials, says hello, hands frames out, comes back after a loss.

Guests and steps in flight know nothing of it: they go on while it is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from bedplate.agent.enrol import EnrolmentFailed, renew_if_due, split_address, tls_context
from bedplate.agent.faults import OutOfDate
from bedplate.agent.role import Role
from bedplate.agent.signing import SigningFailed
from bedplate.agent.state import AgentState, Identity
from bedplate.agent.streams import connect_tcp, pump
from bedplate.liveness import Silence
from bedplate.model.agent_protocol import (
    CLOSE_REFUSED,
    CONTROLLER_NAME,
    MAX_FRAME,
    PROTOCOL_VERSION,
    WEBSOCKET_PATH,
    Command,
    FromController,
    GuestExecute,
    GuestWrite,
    Hello,
    Measure,
    Observed,
    Pool,
    Pools,
    Reply,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamOpen,
    StreamOpened,
    Welcome,
)
from bedplate.model.inventory import AnyView, ServerView
from bedplate.multiplex import Streams

log = logging.getLogger("bedplate.agent")

FIRST_DELAY = 0.25
LAST_DELAY = 1.0
"""Seconds between tries. A thousand agents come back to a restarted controller within a second, with a millisecond or
two of work for each; one that came back later would be taken for suspect."""
DIAL_SECONDS = 2.0
"""For the bare connection: with the delay, a controller that can be reached again is found within 3 s."""
LOG_EVERY = 100
"""Failed tries in a row per line of the log: one in a minute or two."""
OPEN_SECONDS = 5.0
"""For TLS and the WebSocket's handshake, which a controller with much to do may take a while to answer."""
REFUSED_DELAY = 30.0
"""After a refusal only a person can change something."""
WELCOME_SECONDS = 10.0
RENEWAL_SECONDS = 3600.0
"""Between looks whether the certificate is due: months are left when it first is."""

_decoder = msgspec.msgpack.Decoder(FromController)
_encoder = msgspec.msgpack.Encoder()


class _Link(ClientConnection):
    """A connection that is given up as soon as the controller is silent for too long."""

    limit: float
    _silence: Silence | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._silence = Silence(self.limit, transport.abort)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._silence is not None:
            self._silence.heard()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.stop()
        super().connection_lost(exc)


class Refusal(Exception):
    """This agent and that controller will not work together; the text says why."""


class ControllerLink:
    """Keeps the connection up."""

    def __init__(
        self,
        state: AgentState,
        identity: Identity,
        role: Role,
        *,
        keepalive: float,
        silence: float,
        dial_own_addresses: bool,
        renewed: Callable[[], None] = lambda: None,
    ) -> None:
        """`renewed`: called, in a thread, when the certificate was renewed."""
        self._state = state
        self._identity = identity
        self._role = role
        self._renewed = renewed
        self._connection: ClientConnection | None = None
        self._keepalive = keepalive
        self._silence = silence
        self._own_addresses = dial_own_addresses
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing = asyncio.Lock()
        self._configuring = asyncio.Lock()

    async def run(self) -> None:
        """Connect again and again until cancelled."""
        renewing = asyncio.create_task(self._renew_in_time())
        try:
            await self._keep_connected()
        finally:
            renewing.cancel()

    def reconnect(self) -> None:
        """Drop the connection and all that is still on its way in it, and make a new one."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _keep_connected(self) -> None:
        delay, unreached = FIRST_DELAY, 0
        while True:
            try:
                await self._renew()
                async with await self._dial() as connection:
                    delay, unreached = FIRST_DELAY, 0
                    self._connection = connection
                    try:
                        await self._session(connection)
                    finally:
                        self._connection = None
            except Refusal as error:
                log.error("controller: %s", error)
                delay = REFUSED_DELAY
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code in {CLOSE_REFUSED, 4401}:
                    log.error("the controller refuses this agent: %s", error.rcvd.reason)
                    delay = REFUSED_DELAY
                else:
                    log.warning("connection to the controller lost: %s", error)
            except (OSError, WebSocketException, TimeoutError) as error:
                if not unreached % LOG_EVERY:
                    said = str(error) or "it does not answer"
                    log.warning("the controller at %s is not reached: %s", self._identity.controller, said)
                unreached += 1
            except Exception:  # a fault of ours in one connection must not end the agent
                log.exception("the connection failed")
            await asyncio.sleep(random.uniform(0.5, 1.0) * delay)
            delay = min(delay * 2, LAST_DELAY)

    async def _renew_in_time(self) -> None:
        """A connection may last longer than the certificate, and the next one needs one that is good."""
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            try:
                await self._renew()
            except OSError as error:
                log.warning("the certificate was not renewed: %s", error)

    async def _renew(self) -> None:
        try:
            async with self._renewing:
                if await asyncio.to_thread(renew_if_due, self._state):
                    log.info("certificate renewed")
                    await asyncio.to_thread(self._renewed)
        except (EnrolmentFailed, SigningFailed) as error:
            log.error("the certificate was not renewed: %s", error)

    async def _dial(self) -> connect:
        address = self._identity.controller
        context = tls_context(self._state.ca_file.read_text(), self._state)
        link = self

        class Link(_Link):
            limit = link._silence

        options: dict[str, Any] = {
            "ssl": context,
            "server_hostname": CONTROLLER_NAME,
            "create_connection": Link,
            "compression": None,
            "max_size": MAX_FRAME,
            "ping_interval": self._keepalive,
            "ping_timeout": None,
            "open_timeout": OPEN_SECONDS,
            "close_timeout": 2,
            "proxy": None,
            "user_agent_header": None,
        }
        plain = await asyncio.wait_for(_plain_socket(address), DIAL_SECONDS)
        return connect(f"wss://{CONTROLLER_NAME}{WEBSOCKET_PATH}", sock=plain, **options)

    # --- one connection -----------------------------------------------------------------------------------------

    async def _session(self, connection: ClientConnection) -> None:
        local = connection.local_address
        if isinstance(local, tuple):
            self._role.reached_from(str(local[0]))
        await connection.send(_encoder.encode(self._hello(await self._role.server_view())))
        welcome = _decoder.decode(_binary(await asyncio.wait_for(connection.recv(), WELCOME_SECONDS)))
        await self._check(welcome)
        assert isinstance(welcome, Welcome)
        log.info("connected to the controller of store %s, epoch %s", welcome.store, welcome.epoch)

        async def send(frame: object) -> None:
            try:
                await connection.send(_encoder.encode(frame))
            except ConnectionClosed as error:
                raise ConnectionResetError("the connection to the controller is lost") from error

        async def tell(views: Sequence[AnyView], full: bool) -> None:
            # A frame has a limit, and only the last one makes the set full... so a full set travels whole.
            await send(Observed(views=tuple(views), full=full))

        streams = Streams(send)
        self._role.spoken()
        await self._configure(welcome.pools)
        self._spawn(self._role.attach(tell))
        try:
            async for message in connection:
                self._take(_decoder.decode(_binary(message)), streams, send)
        finally:
            self._role.detach()
            streams.lose()
        raise connection.protocol.close_exc

    def _hello(self, view: ServerView) -> Hello:
        return Hello(protocol=PROTOCOL_VERSION, server=view, epoch=self._state.epoch)

    async def _check(self, frame: FromController) -> None:
        if not isinstance(frame, Welcome) or frame.protocol != PROTOCOL_VERSION:
            raise Refusal("the controller speaks another protocol: install the same version on both sides")
        if frame.store != self._identity.store:
            raise Refusal(f"the controller is of store {frame.store}, this agent belongs to {self._identity.store}")
        try:
            await asyncio.to_thread(self._state.admit_epoch, frame.epoch)
        except OutOfDate as error:
            raise Refusal(str(error)) from error

    def _take(self, frame: FromController, streams: Streams, send: Any) -> None:
        match frame:
            case Command():
                self._spawn(self._command(frame, send))
            case GuestWrite() | GuestExecute():
                self._spawn(self._guest(frame, send))
            case Measure():
                self._spawn(self._measure(frame, send))
            case StreamOpen():
                self._spawn(self._open(frame, streams, send))
            case StreamData() | StreamCredit() | StreamEnd():
                streams.take(frame)
            case Pools():
                self._spawn(self._pools(frame))
            case Welcome():
                log.warning("the controller said welcome twice")

    async def _command(self, command: Command, send: Any) -> None:
        log.info("%s %s", command.step.name, command.step.target)
        result = await self._role.run(command)
        log.info("%s %s: %s", command.step.name, command.step.target, type(result).__name__)
        await send(Reply(operation=command.operation, result=result))

    async def _guest(self, call: GuestWrite | GuestExecute, send: Any) -> None:
        await send(await self._role.guest(call))

    async def _measure(self, call: Measure, send: Any) -> None:
        await send(await self._role.measure(call))

    async def _pools(self, frame: Pools) -> None:
        await self._configure(frame.pools)
        await self._role.resync()

    async def _configure(self, pools: Sequence[Pool]) -> None:
        async with self._configuring:  # in the order in which they came: the last word counts
            await self._role.configure(pools)

    async def _open(self, request: StreamOpen, streams: Streams, send: Any) -> None:
        stream = streams.add(request.stream)
        try:
            if request.kind == "tcp":
                ends = await connect_tcp(request, own_addresses=self._own_addresses)
            else:
                ends = await self._role.console(request.uid)
        except Exception as error:
            streams.drop(request.stream)
            await send(StreamOpened(stream=request.stream, error=str(error) or type(error).__name__))
            return
        try:
            await send(StreamOpened(stream=request.stream))
        except OSError:
            ends.close()
            raise
        await pump(stream, ends)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            # A reply that can't be sent is asked for again by its operation.
            with contextlib.suppress(ConnectionError):
                await work

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the connection failed", exc_info=error)


async def _plain_socket(address: str) -> socket.socket:
    """A connected socket. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if address.startswith("unix:"):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(plain, address.removeprefix("unix:"))
        except BaseException:
            plain.close()
            raise
        return plain
    host, port = split_address(address)
    failed: OSError = ConnectionError(f"{host} has no address")
    for family, kind, protocol, _, target in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        plain = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            await loop.sock_connect(plain, target)
        except OSError as error:
            plain.close()
            failed = error
        except BaseException:
            plain.close()
            raise
        else:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plain
    raise failed


def _binary(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise Refusal("the controller sent text where frames are binary")
    return message
