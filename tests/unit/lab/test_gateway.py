"""The SOCKS side of the gateway, over real sockets; the thread that makes them stays in this namespace."""

from __future__ import annotations

import asyncio
import struct

import pytest

from bedplate.lab.gateway import Gateway


class Here:
    """Stands where the lab's namespace is entered, which needs root: connects from here."""

    async def connect(self, address: str, port: int) -> object:
        import socket

        made = socket.socket()
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
        return made


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr("bedplate.lab.gateway.Inside", lambda namespace: Here())
    return Gateway({"address": "127.0.0.1", "names": {"hv1": "127.0.0.1"}, "socks_port": 0, "namespace": ""})


async def talk(gateway: Gateway, request: bytes, then: bytes = b"") -> bytes:
    """Send a greeting, a request and some data; give all that comes back after the greeting's answer."""
    proxy = await asyncio.start_server(gateway.socks, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*proxy.sockets[0].getsockname())
    writer.write(b"\x05\x01\x00" + request + then)
    writer.write_eof()
    heard = await reader.read()
    writer.close()
    proxy.close()
    assert heard[:2] == b"\x05\x00"
    return heard[2:]


def request(kind: int, address: bytes, port: int, command: int = 1) -> bytes:
    return bytes((5, command, 0, kind)) + address + struct.pack("!H", port)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end (a half-closed connection), answer in capitals."""
    writer.write((await reader.read()).upper())
    writer.close()


async def test_names_and_addresses_lead_to_the_listener_and_half_closing_passes(gateway: Gateway) -> None:
    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for kind, address in ((1, bytes((127, 0, 0, 1))), (3, b"\x03hv1"), (3, b"\x09127.0.0.1")):
        heard = await talk(gateway, request(kind, address, port), b"hello" * 100_000)
        assert heard == b"\x05\x00\x00\x01" + bytes(6) + b"HELLO" * 100_000
    server.close()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request(3, b"\x07unknown", 80), 4),
        (request(1, bytes((127, 0, 0, 1)), 1), 5),
        (request(1, bytes((127, 0, 0, 1)), 80, command=2), 7),
    ],
)
async def test_what_cannot_be_is_refused_with_its_code(gateway: Gateway, asked: bytes, code: int) -> None:
    heard = await talk(gateway, asked)
    assert heard[1] == code


async def test_a_client_that_breaks_off_is_let_go(gateway: Gateway) -> None:
    assert await talk(gateway, b"\x05\x01\x00") == b""
    assert await talk(gateway, request(9, b"", 80)) == b""
