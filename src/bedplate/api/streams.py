"""WebSocket subresources: a machine's console, a TCP connection into its network. Bytes both ways, nothing else."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from bedplate.api import errors
from bedplate.api.hooks import NotAvailable, Streams
from bedplate.api.requests import Target
from bedplate.ports import Duplex

NORMAL, INTERNAL = 1000, 1011
_REASON_LIMIT = 120
"""A close frame holds 123 bytes of reason (RFC 6455)."""


async def open_stream(streams: Streams, target: Target, port: str) -> Duplex:
    """Open what the path names. Raises `ApiError`, `NotAvailable`."""
    kind = target.info.kind
    allowed = {"console": {"Machine", "VirtualMachine", "Server"}, "tcp": {"Machine", "VirtualMachine", "Cluster"}}
    if not target.name or kind not in allowed.get(target.subresource, set()):
        raise errors.not_found_path(f"{target.info.plural}/{target.name}/{target.subresource}")
    try:
        if target.subresource == "console":
            return await streams.console(kind, target.room, target.name)
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise errors.bad_request(f"port is {port!r}; it must be a number from 1 to 65535")
        return await streams.tcp(kind, target.room, target.name, int(port))
    except OSError as error:
        what = "its console" if target.subresource == "console" else f"port {port}"
        raise NotAvailable(f"{target.info.singular} {target.name}: {what} can't be reached: {error}") from error


async def carry(websocket: WebSocket, duplex: Duplex) -> None:
    """Carry bytes until one side ends. The WebSocket is accepted already."""
    reason, code = "", NORMAL

    async def outwards() -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while data := await duplex.read():
                await websocket.send_bytes(data)

    async def inwards() -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data: bytes = message.get("bytes") or (message.get("text") or "").encode()
                await duplex.write(data)

    tasks = {asyncio.create_task(outwards()), asyncio.create_task(inwards())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) is not None:
                reason, code = str(error), INTERNAL
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await duplex.close()
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(code, reason.encode()[:_REASON_LIMIT].decode(errors="ignore"))
