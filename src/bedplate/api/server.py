"""Serves the application over TLS with uvicorn, on a socket that is bound before anything else begins."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from bedplate.api.watch import Hub

GRACE_SECONDS = 2
"""How long requests in hand may take once the end was asked for; watches end at once."""


def listening(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OSError`: the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=512)


async def serve_app(app: Starlette, listener: socket.socket, certificate: Path) -> None:
    """Serve until cancelled.

    Args:
        listener: Listening socket; closed at the end.
        certificate: PEM file with certificate and key; deleted once it was read.
    """
    config = uvicorn.Config(
        app,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(certificate),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="websockets-sansio",
        http="httptools",
        ws_max_size=2**20,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=75,
        server_header=False,
    )
    try:
        config.load()
    finally:
        await asyncio.to_thread(certificate.unlink, missing_ok=True)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        hub: Hub = app.state.hub
        hub.close()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
