"""A WebSocket's client end over TLS: who waits for a server that does not answer has waited long enough some time."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from tests.contract.memory_store import MemorySecrets

from bedplate.cli.identity import api_identity
from bedplate.cli.websocket import open_websocket

HALF_A_RECORD = b"\x17\x03\x03"
"""The beginning of one: it makes the socket readable, and whoever reads then waits for its rest."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server that begins to answer, and leaves it at that."""
    identity = api_identity(MemorySecrets(), ("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate)
    identity.certificate.unlink()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as kept:
        thread = threading.Thread(target=_begin_to_answer, args=(listener, context, kept), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def _begin_to_answer(listener: socket.socket, context: ssl.SSLContext, kept: contextlib.ExitStack) -> None:
    raw = kept.enter_context(listener.accept()[0])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    request = b""
    done = False
    while b"\r\n\r\n" not in request:
        try:
            if not done:
                tls.do_handshake()
                done = True
            request += tls.read(65536)
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65536))
    raw.sendall(outgoing.read() + HALF_A_RECORD)


def test_the_time_limit_holds(port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    told: list[BaseException] = []

    def ask() -> None:
        try:
            open_websocket(f"wss://127.0.0.1:{port}/", ssl=context, proxy=None, compression=None, open_timeout=0.5)
        except TimeoutError as error:
            told.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(20)
    assert told
