"""Terminals as the local end of a stream."""

from __future__ import annotations

import asyncio
import io
import os

from bedplate.agent.streams import CHUNK, Ends


async def ends_of(fd: int) -> Ends:
    """The terminal behind a descriptor, which is the stream's from now on. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK)
    # asyncio's pipe transports take character devices; each end owns its own descriptor.
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), io.FileIO(os.dup(fd), "rb"))
    sink, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, io.FileIO(fd, "wb"))
    writer = asyncio.StreamWriter(sink, protocol, reader, loop)
    return Ends(reader, writer, source, half_close=False)
