"""One agent as the controller sees it: its calls in flight, its streams, what it told last.

Outlives single connections: commands in flight are asked again after a reconnection, by the same operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bedplate.model.agent_protocol import (
    Command,
    FromAgent,
    FromController,
    GuestExecute,
    GuestReply,
    GuestWrite,
    Measure,
    MeasureReply,
    Observed,
    Reply,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamOpen,
    StreamOpened,
)
from bedplate.model.ids import Key, OperationId, ServerName
from bedplate.model.inventory import AnyView, Observation, ServerView
from bedplate.model.steps import StepResult, Unknown
from bedplate.multiplex import Stream, Streams
from bedplate.ports import GuestError, Sink

log = logging.getLogger("bedplate.agents")

LATE = 2.0
"""Seconds beyond a deadline that a reply may take to come in."""
RESUME = 10.0
"""Seconds that a call waits for a lost connection to come back before its outcome counts as unknown."""

_decoder = msgspec.msgpack.Decoder(FromAgent)
_encoder = msgspec.msgpack.Encoder()


class NotConnected(Exception):
    """The agent's connection is down."""


class _NoAnswer(Exception):
    """The agent did not answer in time."""


R = TypeVar("R", GuestReply, MeasureReply)


class AgentLink:
    """The controller's end of one agent."""

    def __init__(self, server: ServerName, sink: Sink, clock: Callable[[], float]) -> None:
        self.server = server
        self.source = f"agent/{server}"
        self.view: ServerView | None = None
        self._sink = sink
        self._clock = clock
        self._connection: ServerConnection | None = None
        self._streams: Streams | None = None
        self._opening: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count(1)
        self._commands: dict[OperationId, tuple[Command, float, asyncio.Future[StepResult]]] = {}
        self._calls: dict[int, tuple[type, asyncio.Future[Any]]] = {}
        """By number: the reply that is awaited."""
        self._last: dict[Key, AnyView] = {}
        self._synced = False
        self._resume: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """True while the agent's connection stands."""
        return self._connection is not None

    # --- the connection -----------------------------------------------------------------------------------------

    async def attend(self, connection: ServerConnection, view: ServerView) -> None:
        """Serve a connection until it ends. The newest one counts: an older one is closed."""
        old, self._connection = self._connection, connection
        if old is not None:
            self._drop_streams()
            old.transport.abort()
        self._synced = False
        self.view = view
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._streams = Streams(self._send)
        try:
            for command, end, _ in list(self._commands.values()):
                await self._send(msgspec.structs.replace(command, deadline=max(1.0, end - time.monotonic())))
            async for message in connection:
                if self._connection is not connection:
                    return
                self._take(_decoder.decode(message if isinstance(message, bytes) else b""))
        except (ConnectionClosed, NotConnected):
            pass
        except msgspec.MsgspecError as error:
            log.error("agent %s speaks what is not understood: %s", self.server, error)
            await connection.close(1002, "not understood")
        finally:
            if self._connection is connection:
                self._lost()

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close(1001, "the controller ends")
        for _, _, future in list(self._commands.values()):
            if not future.done():
                future.set_result(Unknown(message="the controller ends"))
        if self._resume is not None:
            self._resume.cancel()

    async def send(self, frame: FromController) -> None:
        """Send one frame. Raises `NotConnected`."""
        await self._send(frame)

    async def _send(self, frame: object) -> None:
        connection = self._connection
        if connection is None:
            raise NotConnected(f"the agent of {self.server} is not connected")
        try:
            await connection.send(_encoder.encode(frame))
        except ConnectionClosed as error:
            raise NotConnected(f"the agent of {self.server} lost its connection") from error

    def _lost(self) -> None:
        self._connection = None
        self._drop_streams()
        for _, future in self._calls.values():
            if not future.done():
                future.set_exception(NotConnected(f"the connection to {self.server} was lost"))
        now = self._clock()
        down = ServerView(server=self.server, connected=False)
        if self.view is not None:
            down = self.view = msgspec.structs.replace(self.view, connected=False, error="its agent is not connected")
        # What was seen stays known, but no longer for what is.
        stale = [self._observation(v, good_until=now) for v in self._last.values() if not isinstance(v, ServerView)]
        self._sink(self.source, [self._observation(down), *stale])
        self._resume = asyncio.get_running_loop().call_later(RESUME, self._give_up)

    def _give_up(self) -> None:
        for _, _, future in list(self._commands.values()):
            if not future.done():
                future.set_result(Unknown(message=f"the connection to {self.server} was lost"))

    def _drop_streams(self) -> None:
        if self._streams is not None:
            self._streams.lose()
            self._streams = None
        for future in self._opening.values():
            if not future.done():
                future.set_result(f"the connection to {self.server} was lost")

    # --- what comes in ------------------------------------------------------------------------------------------

    def _take(self, frame: FromAgent) -> None:
        match frame:
            case Observed():
                self._observed(frame)
            case Reply():
                entry = self._commands.get(frame.operation)
                if entry is not None and not entry[2].done():
                    entry[2].set_result(frame.result)
            case GuestReply() | MeasureReply():
                call = self._calls.get(frame.call)
                if call is not None and isinstance(frame, call[0]) and not call[1].done():
                    call[1].set_result(frame)
            case StreamOpened():
                opening = self._opening.get(frame.stream)
                if opening is not None and not opening.done():
                    opening.set_result(frame.error)
            case StreamData() | StreamCredit() | StreamEnd():
                if self._streams is not None:
                    self._streams.take(frame)
            case _:
                log.warning("agent %s said hello twice", self.server)

    def _observed(self, frame: Observed) -> None:
        if frame.full:
            self._last.clear()
            self._synced = True
        for view in frame.views:
            self._last[view.key] = view
            if isinstance(view, ServerView):
                self.view = view
        self._sink(self.source, [self._observation(v) for v in frame.views], full=frame.full)

    def _observation(self, view: AnyView, good_until: float = float("inf")) -> Observation[AnyView]:
        return Observation(value=view, time=self._clock(), source=self.source, good_until=good_until)

    # --- calls --------------------------------------------------------------------------------------------------

    async def command(self, command: Command) -> StepResult:
        """Run a command; the same operation asked twice is one command."""
        entry = self._commands.get(command.operation)
        if entry is not None:
            return await asyncio.shield(entry[2])
        future: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        self._commands[command.operation] = (command, time.monotonic() + command.deadline, future)
        try:
            # Lost between the look and the sending: it is sent again on reconnection, or given up.
            with contextlib.suppress(NotConnected):
                await self._send(command)
            return await asyncio.wait_for(asyncio.shield(future), command.deadline + LATE)
        except TimeoutError:
            message = f"the agent of {self.server} did not answer within {command.deadline:.0f} s"
            return Unknown(message=message)
        finally:
            if not future.done():
                future.set_result(Unknown(message="the caller gave up"))
            self._commands.pop(command.operation, None)

    async def guest_call(self, make: Callable[[int], GuestWrite | GuestExecute], timeout: float) -> GuestReply:
        """Make one guest call.

        Raises:
            GuestError: not reached, or no answer in time.
        """
        try:
            reply = await self._call(make, GuestReply, timeout)
        except (NotConnected, _NoAnswer) as error:
            raise GuestError(str(error)) from error
        if reply.error:
            raise GuestError(reply.error)
        return reply

    async def measure(self, make: Callable[[int], Measure], timeout: float) -> MeasureReply:
        """Run one benchmark; an error is in the reply."""
        try:
            return await self._call(make, MeasureReply, timeout)
        except (NotConnected, _NoAnswer) as error:
            return MeasureReply(call=0, error=str(error))

    async def _call(self, make: Callable[[int], object], reply: type[R], timeout: float) -> R:
        """Make a call under a number of its own. Raises `NotConnected` and `_NoAnswer`."""
        number = next(self._numbers)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._calls[number] = (reply, future)
        try:
            await self._send(make(number))
            return await asyncio.wait_for(future, timeout + LATE)
        except TimeoutError as error:
            raise _NoAnswer(f"the agent of {self.server} did not answer within {timeout:.0f} s") from error
        finally:
            self._calls.pop(number, None)

    async def open(self, make: Callable[[int], StreamOpen], timeout: float) -> Stream:
        """Open a stream. Raises `OSError`."""
        if self._streams is None:
            raise ConnectionError(f"the agent of {self.server} is not connected")
        number = next(self._numbers)
        streams = self._streams
        stream = streams.add(number)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._opening[number] = future
        try:
            await self._send(make(number))
            error = await asyncio.wait_for(future, timeout + LATE)
        except NotConnected as e:
            raise ConnectionError(str(e)) from e
        except TimeoutError:
            await stream.close()
            raise
        finally:
            self._opening.pop(number, None)
        if error:
            streams.drop(number)
            raise ConnectionError(error)
        return stream
