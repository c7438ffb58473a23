"""How well an address is reached: how long it takes to connect, how often that fails. Blocking."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import msgspec

CONNECT_SECONDS = 3.0


class RoundTrips(msgspec.Struct, frozen=True):
    """Seconds of those that came about, sorted, and how many did not."""

    seconds: tuple[float, ...]
    failed: int


def round_trips(host: str, port: int, count: int, check: Callable[[], None]) -> RoundTrips:
    """Connect so many times. `check` is called before each and raises where it is to end."""
    times: list[float] = []
    for _ in range(count):
        check()
        began = time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
                times.append(time.monotonic() - began)
        except OSError:
            continue
    return RoundTrips(tuple(sorted(times)), count - len(times))
