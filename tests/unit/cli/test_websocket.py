"""A WebSocket's client end over TLS: who waits for a server that does not answer has waited long enough some time."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bedplate.cli.websocket import open_websocket

HALF_A_RECORD = b"\x17\x03\x03"
"""The beginning of one: it makes the socket readable, and whoever reads then waits for its rest."""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server that begins to answer, and leaves it at that."""
    key, certificate = _identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
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


def _identity(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = folder / "key", folder / "certificate"
    files[0].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[1].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return files


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
