"""Streams that start at this server: TCP into machines' networks, and what carries any stream."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress

from bedplate.model.agent_protocol import StreamOpen
from bedplate.multiplex import Stream

CHUNK = 64 * 1024


class Ends:
    """The local end of a stream."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: asyncio.BaseTransport | None = None,
        *,
        half_close: bool,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.half_close = half_close
        self._source = source

    def close(self) -> None:
        """Close both directions."""
        self.writer.close()
        if self._source is not None:
            self._source.close()


async def connect_tcp(request: StreamOpen, *, own_addresses: bool) -> Ends:
    """Connect to a machine.

    Args:
        own_addresses: Also to this server itself. Else loopback and link-local addresses are refused: what listens
            there trusts who is local, and the controller passes on its users' wishes.

    Raises:
        OSError: refused, not reached, or too slow.
    """
    try:
        address = ipaddress.ip_address(request.host)
    except ValueError:
        raise ConnectionRefusedError(f"{request.host!r} is not an IP address: machines have no names here") from None
    if not own_addresses and (address.is_loopback or address.is_link_local or address.is_unspecified):
        raise ConnectionRefusedError(f"{request.host} is the server's own: streams go to machines only")
    connecting = asyncio.open_connection(request.host, request.port)
    reader, writer = await asyncio.wait_for(connecting, request.timeout)
    return Ends(reader, writer, half_close=True)


async def pump(stream: Stream, ends: Ends) -> None:
    """Carry bytes both ways until both sides have ended."""

    async def outward() -> None:
        with contextlib.suppress(OSError):
            while data := await ends.reader.read(CHUNK):
                await stream.write(data)
        with contextlib.suppress(OSError):
            await stream.end()

    async def inward() -> None:
        with contextlib.suppress(OSError):
            while data := await stream.read():
                ends.writer.write(data)
                await ends.writer.drain()
        if stream.closed or not ends.half_close:
            tasks[0].cancel()  # nobody reads what the machine may still say
        elif ends.writer.can_write_eof():
            with contextlib.suppress(OSError):
                ends.writer.write_eof()

    tasks = [asyncio.ensure_future(outward()), asyncio.ensure_future(inward())]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        ends.close()
        with contextlib.suppress(OSError):
            await stream.close()
