"""The only way between the host and the lab: a SOCKS5 proxy into it, and relays out of it to the host's loopback.

Run as a script with the standard library alone: `gateway.py SPEC_JSON_FILE`. It lives in the host's network namespace;
sockets of the lab's side are made by one thread that has entered the switch's namespace, and a socket stays where it
was made. On the host it listens on 127.0.0.1 and on a Unix socket, through which relays are set; in the lab it
listens on the gateway address for each relay. It reaches nothing else and keeps no log of what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
CHUNK = 256 * 1024
CONNECT_LIMIT = 10.0
"""Seconds to reach an address in the lab; a hypervisor without power does not answer at all."""

SOCKS_OK, SOCKS_NET, SOCKS_HOST, SOCKS_REFUSED, SOCKS_COMMAND = 0, 3, 4, 5, 7
"""Reply codes of RFC 1928."""


class Inside:
    """Makes sockets inside the lab's network namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="inside", initializer=self._enter)

    def _enter(self) -> None:
        handle = os.open(self.namespace, os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the lab's network namespace")
        os.close(handle)

    async def call(self, make: Callable[[], socket.socket]) -> socket.socket:
        """Run `make` in the thread that is inside."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, make)

    async def listen(self, address: str, port: int) -> socket.socket:
        """A listening socket in the lab."""
        return await self.call(lambda: socket.create_server((address, port), backlog=256))

    async def connect(self, address: str, port: int) -> socket.socket:
        """A connection to an address in the lab."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = await self.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        try:
            made.setblocking(False)
            async with asyncio.timeout(CONNECT_LIMIT):
                await asyncio.get_running_loop().sock_connect(made, (address, port))
        except BaseException:
            made.close()
            raise
        return made


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, then pass the end on (a half-closed connection stays half open)."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()


async def join(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter], two: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Carry both directions until both have ended. Keepalive ends what a power cut left half open."""
    for _, writer in (one, two):
        made = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    try:
        await asyncio.gather(pump(one[0], two[1]), pump(two[0], one[1]))
    finally:
        one[1].close()
        two[1].close()


class Gateway:
    """The proxy and the relays of one lab."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.address: str = spec["address"]
        self.names: dict[str, str] = spec["names"]
        self.socks_port: int = spec["socks_port"]
        self.inside = Inside(spec["namespace"])
        self.relays: dict[int, tuple[int, asyncio.Server]] = {}

    async def socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client of the proxy."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await reader.readexactly((await reader.readexactly(2))[1])
                writer.write(b"\x05\x00")
                _, command, _, kind = await reader.readexactly(4)
                address = await self._address(reader, kind)
                (port,) = struct.unpack("!H", await reader.readexactly(2))
        except (OSError, EOFError, ValueError):
            writer.close()
            return
        made, code = await self._reach(command, kind, address, port)
        writer.write(bytes((5, code, 0, 1)) + bytes(6))
        if made is None:
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()
            return
        await join((reader, writer), await asyncio.open_connection(sock=made, limit=CHUNK))

    async def _reach(self, command: int, kind: int, address: str | None, port: int) -> tuple[socket.socket | None, int]:
        """Connect in the lab; give the socket, or None, and the SOCKS reply code."""
        if command != 1:
            return None, SOCKS_COMMAND
        if address is None:
            return None, SOCKS_HOST
        try:
            return await self.inside.connect(address, port), SOCKS_OK
        except ConnectionRefusedError:
            return None, SOCKS_REFUSED
        except OSError as error:  # also TimeoutError
            return None, SOCKS_NET if error.errno == errno.ENETUNREACH else SOCKS_HOST

    async def _address(self, reader: asyncio.StreamReader, kind: int) -> str | None:
        """The address that a client asked for; None when it is no name of the lab."""
        if kind == 1:
            return str(ipaddress.IPv4Address(await reader.readexactly(4)))
        if kind == 4:
            return str(ipaddress.IPv6Address(await reader.readexactly(16)))
        if kind != 3:
            raise ValueError(f"unknown address type {kind}")
        name = (await reader.readexactly((await reader.readexactly(1))[0])).decode("ascii", "replace").rstrip(".")
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(name))
        return self.names.get(name)

    async def relay(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client in the lab that dials the host."""
        target = self.relays[port][0]
        try:
            other = await asyncio.open_connection("127.0.0.1", target, limit=CHUNK)
        except OSError:
            writer.transport.abort()  # a reset, as a port without a listener answers
            return
        await join((reader, writer), other)

    async def set_relays(self, wanted: dict[int, int]) -> None:
        """Listen on exactly these ports of the lab. Connections that exist are kept."""
        for port in [port for port in self.relays if port not in wanted]:
            self.relays.pop(port)[1].close()
        for port, target in wanted.items():
            if port in self.relays:
                self.relays[port] = (target, self.relays[port][1])
                continue
            made = await self.inside.listen(self.address, port)

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
                await self.relay(port, reader, writer)

            self.relays[port] = (target, await asyncio.start_server(serve, sock=made, limit=CHUNK))

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One command of the lab: `{"relays": {...}, "names": {...}}`, each optional; the answer has `error`."""
        answer: dict[str, Any] = {"error": ""}
        try:
            asked = json.loads(await reader.readline())
            self.names = asked.get("names", self.names)
            if "relays" in asked:
                await self.set_relays({int(port): int(target) for port, target in asked["relays"].items()})
        except (OSError, ValueError) as error:
            answer["error"] = str(error)
        answer |= {"relays": {str(port): target for port, (target, _) in self.relays.items()}}
        writer.write(json.dumps(answer).encode() + b"\n")
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def serve(self, control_path: str, relays: dict[int, int], ready: Callable[[], None]) -> None:
        """Listen everywhere, then serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        proxy = await asyncio.start_server(self.socks, "127.0.0.1", self.socks_port, limit=CHUNK, backlog=256)
        control = await asyncio.start_unix_server(self.control, control_path)
        await self.set_relays(relays)
        ready()
        await ended.wait()
        proxy.close()
        control.close()


def main() -> int:
    """Read the specification file; say "ready" or what is wrong on descriptor 3."""

    def ready() -> None:
        os.write(3, b"ready\n")
        os.close(3)

    spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["control"]).unlink(missing_ok=True)
    os.umask(0o177)
    relays = {int(port): int(target) for port, target in spec["relays"].items()}
    try:
        asyncio.run(Gateway(spec).serve(spec["control"], relays, ready))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(3, f"{error}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
