"""Byte streams over the API's WebSocket subresources, bridged to file descriptors."""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import urlencode, urlsplit

from bedplate.cli.client import Query
from bedplate.cli.errors import ApiError, UserError
from bedplate.cli.session import Session

_CHUNK = 65536


def open_stream(session: Session, path: str, query: Query | None = None) -> Any:
    """Open a WebSocket; gives `websockets.sync.client.ClientConnection`.

    Raises:
        UserError: no controller answers, or it refuses.
    """
    from websockets.exceptions import InvalidStatus, WebSocketException

    from bedplate.cli.websocket import open_websocket

    client = session.client
    base = urlsplit(session.context.server)
    tail = f"?{urlencode({k: v for k, v in query.items() if v is not None})}" if query else ""
    uri = f"wss://{base.netloc}{base.path}{path}{tail}"
    try:
        # The token goes to the controller alone: never through a proxy that the environment may name.
        return open_websocket(
            uri, ssl=client.tls(), additional_headers=client.headers(), proxy=None, compression=None, max_size=None
        )
    except InvalidStatus as error:
        raise _refusal(error.response) from None
    except (OSError, WebSocketException) as error:
        raise client.explain(error) or UserError(f"no stream from {session.context.server}: {error}") from None


def pump(socket: Any, source: int, sink: int, stop_at: bytes = b"") -> str:
    """Carry bytes both ways until one side ends; gives the reason that the server gave, or an empty text.

    `source` is read from and `sink` written to. A chunk that is exactly `stop_at` ends the stream.
    """
    from websockets.exceptions import ConnectionClosed

    def outwards() -> None:
        try:
            while data := os.read(source, _CHUNK):
                if stop_at and data == stop_at:
                    break
                socket.send(data)
        except (OSError, ConnectionClosed):
            pass
        socket.close()

    threading.Thread(target=outwards, daemon=True).start()
    try:
        while True:
            message = socket.recv()
            _write_all(sink, message.encode() if isinstance(message, str) else message)
    except ConnectionClosed as error:
        closed = error.rcvd
        return "" if closed is None or closed.code in (1000, 1001, 1005) else closed.reason or f"code {closed.code}"
    except BrokenPipeError:
        socket.close()
        return ""


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


def _refusal(response: Any) -> ApiError:
    import json

    try:
        status: dict[str, Any] = json.loads(response.body or b"{}")
    except ValueError:
        status = {}
    message = str(status.get("message") or f"the controller refused the stream: {response.status_code}")
    return ApiError(message, response.status_code, status)
