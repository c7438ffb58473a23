"""Leases on shared disk pools, judged by the clock alone: an agent's own, and what it sees of others'. No I/O.

An agent renews one lease per shared pool; guests of that pool may only run while it is renewed. How a lease goes on:

    NEW       not renewed yet since this agent began
    HELD      renewed in time: guests may start and run
    LOST      not renewed for `GIVE_UP` seconds: the pool's guests are being ended
    ENDED     they are gone; the pool is not reached yet
    RENEWED   the pool is reached again, but nothing starts until the controller was spoken with: it may have placed
              the machines elsewhere meanwhile

Times are seconds of one clock that does not stand still while the server sleeps. Threads may share a `Lease`.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from bedplate.model.ids import ServerName, StoreId
from bedplate.model.leases import EXPIRY, GIVE_UP, RENEW

RECORD_BYTES = 512
"""One sector: it is written whole or not at all."""
TAKE_OVER = EXPIRY + 3.0
"""Seconds after a renewal until the successor of an agent that was killed must have renewed in turn, or end the guests:
in time to feed the watchdog, which waits `WATCHDOG` seconds."""
FIRST_TRY = 1.0
"""Seconds that a successor has for its first renewal in any case, however late it comes."""
UNBROKEN = 2 * RENEW
"""Seconds between two looks, and since the witness's own renewal, beyond which what was not seen proves nothing."""

Clock = Callable[[], float]


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease file says."""

    store: StoreId
    server: ServerName
    boot_id: str
    counter: int
    """Grows with each renewal."""
    guarded: bool = False
    """A watchdog cuts the holder's power within `WATCHDOG` seconds where it does not do its duty."""
    written: float = 0.0
    """Seconds since the epoch on the holder's clock. For eyes."""


def encode(record: LeaseRecord) -> bytes:
    """Give the file's content, always `RECORD_BYTES` long."""
    text = msgspec.json.encode(record)
    if len(text) >= RECORD_BYTES:
        raise ValueError(
            f"a lease record has {len(text)} bytes, more than {RECORD_BYTES - 1}: shorten the server's name"
        )
    return text.ljust(RECORD_BYTES - 1) + b"\n"


def decode(content: bytes) -> LeaseRecord | None:
    """Read a lease file; None where it is none or was half written."""
    try:
        return msgspec.json.decode(content, type=LeaseRecord)
    except msgspec.MsgspecError:
        return None


class LeaseState(enum.Enum):
    """See the module."""

    NEW = "new"
    HELD = "held"
    LOST = "lost"
    ENDED = "ended"
    RENEWED = "renewed"


class Lease:
    """This server's lease on one pool.

    Args:
        clock: See the module.
        renewed_before: When an agent before this one, which was killed while a watchdog guarded the server, renewed
            last; None: there was none.
    """

    def __init__(self, clock: Clock, renewed_before: float | None = None) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._last, self._limit = clock(), GIVE_UP
        if renewed_before is not None:
            self._limit = max(TAKE_OVER, self._last - renewed_before + FIRST_TRY)
            self._last = renewed_before
        self._state = LeaseState.NEW
        self._term = 0
        self._spoken = False
        self._judged = clock()

    def renewed(self, begun: float) -> None:
        """A renewal that was begun at that time has succeeded."""
        with self._mutex:
            self._judge(begun)  # a success that comes too late is a loss first: others saw none in between
            match self._state:
                case LeaseState.NEW | LeaseState.HELD:
                    self._state, self._limit = LeaseState.HELD, GIVE_UP
                case LeaseState.ENDED | LeaseState.RENEWED:
                    self._state = LeaseState.HELD if self._spoken else LeaseState.RENEWED
                case LeaseState.LOST:
                    pass
            self._last = max(self._last, begun)

    def guests_gone(self) -> None:
        """It was looked since the loss, and no guest of the pool runs."""
        with self._mutex:
            if self._state is LeaseState.LOST:
                self._state = LeaseState.ENDED

    def guests_found(self) -> None:
        """A guest of the pool runs all the same, perhaps one that was just starting."""
        with self._mutex:
            if self._state in {LeaseState.ENDED, LeaseState.RENEWED}:
                self._state = LeaseState.LOST

    def spoken(self) -> None:
        """A new connection to the controller stands: what it orders from now on is of the present."""
        with self._mutex:
            self._judge(self._clock())
            self._spoken = True
            if self._state is LeaseState.RENEWED:
                self._state = LeaseState.HELD

    @property
    def state(self) -> LeaseState:
        """How it is now."""
        with self._mutex:
            self._judge(self._clock())
            return self._state

    @property
    def term(self) -> int:
        """Grows with each loss: what was begun in another term is not gone on with."""
        with self._mutex:
            self._judge(self._clock())
            return self._term

    def age(self) -> float:
        """Seconds since the last renewal began."""
        with self._mutex:
            return self._clock() - self._last

    def in_order(self) -> bool:
        """Whether the watchdog may be fed, as far as this lease goes.

        Not beyond `EXPIRY` after the last renewal while guests may run: the power is then cut before the others, who
        wait `EXPIRY + WATCHDOG + MARGIN` seconds, act.
        """
        with self._mutex:
            now = self._clock()
            self._judge(now)
            match self._state:
                case LeaseState.NEW | LeaseState.HELD:
                    return now - self._last < EXPIRY
                case LeaseState.LOST:
                    return False
                case LeaseState.ENDED | LeaseState.RENEWED:
                    return True

    def held_for(self) -> float:
        """Seconds for which it is surely still held; 0: it is not held."""
        with self._mutex:
            now = self._clock()
            self._judge(now)
            return max(0.0, self._last + self._limit - now) if self._state is LeaseState.HELD else 0.0

    def _judge(self, now: float) -> None:
        if now - self._judged >= GIVE_UP:
            self._spoken = False  # this server stood still: what it was told before is of the past
        self._judged = max(self._judged, now)
        overdue = now - self._last >= self._limit
        if overdue and self._state in {LeaseState.NEW, LeaseState.HELD}:
            self._state = LeaseState.LOST
            self._term += 1
            self._spoken = False
            self._limit = GIVE_UP
        elif overdue and self._state is LeaseState.RENEWED:
            self._state = LeaseState.ENDED


class Sighting(msgspec.Struct, frozen=True):
    """What a witness has made out of one holder's lease."""

    server: ServerName
    held: bool
    boot_id: str = ""
    guarded: bool = False


class _Seen:
    def __init__(self, content: bytes, now: float) -> None:
        self.content = content
        self.since = now
        self.record = decode(content)
        self.told: Literal["nothing", "held", "expired"] = "nothing"


class Witness:
    """Sees whether other servers renew their leases on one pool. One thread only.

    What it can't be sure of it does not tell: it counts only time through which it looked without a break, and through
    which its own lease was renewed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[ServerName, _Seen] = {}
        self._looked = float("-inf")

    def look(self, files: Iterable[tuple[ServerName, bytes]], own_age: float) -> list[Sighting]:
        """Take what all other holders' files say now; gives what changed.

        Args:
            files: Each holder with its file's content. A holder that is not among them has not renewed.
            own_age: Seconds since this server's own last renewal of the pool.
        """
        now = self._clock()
        blind = own_age > UNBROKEN or now - self._looked > UNBROKEN
        self._looked = now
        news: list[Sighting] = []
        for server, content in files:
            seen = self._seen.get(server)
            if seen is None:
                self._seen[server] = _Seen(content, now)
            elif content != seen.content:
                news += self._renewed(server, seen, content, now)
        for server, seen in self._seen.items():
            if blind:
                seen.since = now
            elif now - seen.since >= EXPIRY and seen.told != "expired":
                seen.told = "expired"
                news.append(_sighting(server, seen, held=False))
        return news

    def forget(self) -> None:
        """Begin anew: what was told does not count any more."""
        self._seen.clear()
        self._looked = float("-inf")

    def _renewed(self, server: ServerName, seen: _Seen, content: bytes, now: float) -> list[Sighting]:
        before = seen.record
        seen.content, seen.since = content, now
        record = decode(content)
        if record is None:
            return []  # half written: it is alive, the next look says who
        seen.record = record
        changed = before is None or (before.boot_id, before.guarded) != (record.boot_id, record.guarded)
        if seen.told == "held" and not changed:
            return []
        seen.told = "held"
        return [_sighting(server, seen, held=True)]


def _sighting(server: ServerName, seen: _Seen, *, held: bool) -> Sighting:
    record = seen.record
    if record is None:
        return Sighting(server, held)
    return Sighting(server, held, record.boot_id, record.guarded)
