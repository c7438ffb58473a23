"""Byte streams side by side in one ordered connection, with flow control per stream.

Used by both ends of an agent's connection; knows frames and nothing of what they travel in. A slow reader of one
stream stops that stream's writer, never the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from bedplate.model.agent_protocol import (
    STREAM_WINDOW,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFrame,
)

CHUNK = 32 * 1024
"""Bytes per frame: a command waits behind one chunk at most, not behind a window."""

Send = Callable[[StreamFrame], Awaitable[None]]


class Stream:
    """One stream; implements `ports.Duplex`. Made by `Streams` only."""

    def __init__(self, number: int, send: Send, forget: Callable[[int], None]) -> None:
        self._number = number
        self._send = send
        self._forget = forget
        self._received: deque[bytes] = deque()
        self._readable = asyncio.Event()
        self._read_end = False
        self._unread_credit = 0
        self._credit = STREAM_WINDOW
        self._writable = asyncio.Event()
        self._writable.set()
        self._write_end = False
        self._broken = False

    @property
    def closed(self) -> bool:
        """True where neither direction is open any more."""
        return self._broken or (self._read_end and self._write_end)

    async def read(self) -> bytes:
        """Next bytes; empty at the end. Raises `ConnectionError` where the connection under it is lost."""
        while not self._received:
            if self._broken:
                raise ConnectionResetError("the connection under the stream is lost")
            if self._read_end:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = self._received.popleft()
        self._unread_credit += len(data)
        if self._unread_credit >= STREAM_WINDOW // 2 and not self._read_end and not self._broken:
            size, self._unread_credit = self._unread_credit, 0
            await self._send(StreamCredit(stream=self._number, size=size))
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the other side is slow. Raises `ConnectionError` after an end or a loss."""
        view = memoryview(data)
        while view:
            while self._credit <= 0 and not self._broken and not self._write_end:
                self._writable.clear()
                await self._writable.wait()
            if self._broken or self._write_end:
                raise ConnectionResetError("the stream is closed")
            size = min(len(view), self._credit, CHUNK)
            self._credit -= size
            await self._send(StreamData(stream=self._number, data=bytes(view[:size])))
            view = view[size:]

    async def end(self) -> None:
        """Send no more bytes; reading goes on."""
        if not self._write_end and not self._broken:
            self._write_end = True
            self._writable.set()
            await self._send(StreamEnd(stream=self._number))
            self._over()

    async def close(self) -> None:
        """End both directions; what was not read is dropped."""
        done = self.closed
        self._write_end = self._read_end = True
        self._wake()
        if not done:
            self._forget(self._number)
            await self._send(StreamEnd(stream=self._number, abort=True))

    def take(self, frame: StreamFrame) -> None:
        """A frame of this stream arrived."""
        match frame:
            case StreamData():
                if not self._read_end:
                    self._received.append(frame.data)
                    self._readable.set()
            case StreamCredit():
                self._credit += frame.size
                self._writable.set()
            case StreamEnd():
                self._read_end = True
                self._write_end = self._write_end or frame.abort
                self._wake()
                self._over()

    def lose(self) -> None:
        """The connection is gone."""
        self._broken = True
        self._wake()

    def _over(self) -> None:
        if self._read_end and self._write_end:
            self._forget(self._number)

    def _wake(self) -> None:
        self._readable.set()
        self._writable.set()


class Streams:
    """All streams of one connection."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams: dict[int, Stream] = {}

    def add(self, number: int) -> Stream:
        """Make the stream of that number."""
        stream = Stream(number, self._send, self.drop)
        self._streams[number] = stream
        return stream

    def take(self, frame: StreamFrame) -> None:
        """Hand a frame to its stream; one of a stream that is over is dropped."""
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.take(frame)

    def lose(self) -> None:
        """The connection is gone: every stream breaks."""
        for stream in self._streams.values():
            stream.lose()
        self._streams.clear()

    def __len__(self) -> int:
        return len(self._streams)

    def drop(self, number: int) -> None:
        """Forget the stream of that number."""
        self._streams.pop(number, None)
