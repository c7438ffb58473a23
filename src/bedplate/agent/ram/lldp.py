"""What the switches say of themselves by LLDP, heard on the wire for a while. Sends nothing. Blocking."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

_ETHERTYPE = 0x88CC
_GROUPS = ("01:80:c2:00:00:0e", "01:80:c2:00:00:03", "01:80:c2:00:00:00")
"""To which switches send it: a card passes on only groups that it was told of."""
_SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 263, 1, 0
_CHASSIS, _PORT, _PORT_TEXT, _SYSTEM_NAME = 1, 2, 4, 5
_MAC_CHASSIS, _MAC_PORT = 4, 3


def neighbours(interfaces: Iterable[str], seconds: float, stop: threading.Event | None = None) -> dict[str, str]:
    """`switch port` by interface, for those that heard of one; listens no longer than until all have, or `stop`."""
    sockets: dict[int, tuple[socket.socket, str]] = {}
    heard: dict[str, str] = {}
    try:
        for name in interfaces:
            with suppress(OSError):
                made = _listen(name)
                sockets[made.fileno()] = (made, name)
        end = time.monotonic() + seconds
        while len(heard) < len(sockets) and (left := end - time.monotonic()) > 0:
            if stop is not None and stop.is_set():
                break
            for fd in select.select(list(sockets), [], [], min(left, 0.5))[0]:
                listening, name = sockets[fd]
                with suppress(OSError):
                    said = read_frame(listening.recv(2048))
                    if said:
                        heard[name] = said
    finally:
        for listening, _ in sockets.values():
            listening.close()
    return heard


def read_frame(frame: bytes) -> str:
    """`switch port` of an LLDP frame with its Ethernet header; empty where it is none."""
    at = 12
    if frame[at : at + 2] == b"\x81\x00":  # of a VLAN
        at += 4
    if frame[at : at + 2] != struct.pack(">H", _ETHERTYPE):
        return ""
    at += 2
    values: dict[int, bytes] = {}
    while at + 2 <= len(frame):
        head = int.from_bytes(frame[at : at + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        if not kind or at + 2 + length > len(frame):
            break
        values.setdefault(kind, frame[at + 2 : at + 2 + length])
        at += 2 + length
    switch = _text(values.get(_SYSTEM_NAME, b"")) or _id(values.get(_CHASSIS, b""), _MAC_CHASSIS)
    port = _id(values.get(_PORT, b""), _MAC_PORT) or _text(values.get(_PORT_TEXT, b""))
    return f"{switch} {port}".strip() if switch and port else ""


def _id(value: bytes, mac: int) -> str:
    if len(value) < 2:
        return ""
    return value[1:].hex(":") if value[0] == mac else _text(value[1:])


def _text(value: bytes) -> str:
    text = value.decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _listen(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE))
    try:
        made.bind((name, _ETHERTYPE))
        for group in _GROUPS:
            address = bytes.fromhex(group.replace(":", ""))
            request = struct.pack("=iHH8s", socket.if_nametoindex(name), _MULTICAST, len(address), address)
            made.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
    except OSError:
        made.close()
        raise
    return made
