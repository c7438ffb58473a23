"""A WebSocket's client end that can always be closed.

websockets ends its reading thread by a note to its poller. Over TLS the thread may wait within the socket instead:
what made it readable was only a part of a record, or one without data. Where the server does not answer in time,
`connect` then waits for its thread without end.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from websockets.sync.client import ClientConnection, connect


class _Connection(ClientConnection):
    def close_socket(self) -> None:
        """Shut the socket down too: whoever reads from it is told that nothing more comes."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        super().close_socket()


def open_websocket(uri: str, **options: Any) -> ClientConnection:
    """As `websockets.sync.client.connect`, whose options these are, and whose errors."""
    return connect(uri, create_connection=_Connection, **options)
