"""Whether the other side of a connection still says something. Knows no protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOKS = 6
"""Looks within the limit, so that a silent peer is given up within the last sixth of it and never later."""


class Silence:
    """Ends a connection whose peer has said nothing for too long.

    A side that was itself held up does not judge: what the peer said meanwhile may wait to be read.

    Args:
        limit: Seconds.
        end: Ends the connection.
    """

    def __init__(self, limit: float, end: Callable[[], None]) -> None:
        self._limit = limit
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._pause = limit / LOOKS
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    def heard(self) -> None:
        """The peer said something."""
        self._heard = self._loop.time()

    def stop(self) -> None:
        """The connection is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._due = self._loop.time() + self._pause
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        held_up = now - self._due > self._pause
        if now - self._heard >= self._limit - self._pause and not held_up:
            self._end()
        else:
            self._wait()
