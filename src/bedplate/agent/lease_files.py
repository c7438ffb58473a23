"""Lease files on a shared disk pool, and what an agent leaves for its successor. Blocking; decides nothing.

    <pool>/leases/<store>/<server>   one record of fixed size, written in place

Files are opened anew each time: so a network file system asks its server, and a pool that was unmounted is noticed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from bedplate.agent.leases import RECORD_BYTES, LeaseRecord, encode
from bedplate.model.ids import ServerName, StoreId

FOLDER = "leases"


class LeaseFolder:
    """The leases of one store on one pool. Every method may hang with the pool's storage, and raises `OSError`."""

    def __init__(self, pool: str, store: StoreId) -> None:
        self._pool = Path(pool)
        self._folder = self._pool / FOLDER / store

    def write(self, record: LeaseRecord) -> None:
        """Write a lease; it is on the storage when this returns."""
        path = self._folder / record.server
        try:
            file = _open(path)
        except FileNotFoundError:
            for folder in (self._folder.parent, self._folder):  # but never the pool itself: it may not be mounted
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o755)
            file = _open(path)
        try:
            os.pwrite(file, encode(record), 0)
        finally:
            os.close(file)

    def read(self, server: ServerName) -> bytes:
        """Give a lease file's content; empty where there is none."""
        try:
            file = os.open(self._folder / server, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(file, RECORD_BYTES, 0)
        finally:
            os.close(file)

    def others(self, server: ServerName) -> list[tuple[ServerName, bytes]]:
        """All other servers' files."""
        names = sorted(ServerName(n) for n in os.listdir(self._folder) if n != server and not n.startswith("."))
        return [(name, self.read(name)) for name in names]

    def real_path(self) -> str:
        """The pool's path as the kernel names it, links resolved."""
        return os.path.realpath(self._pool)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC | os.O_CLOEXEC, 0o644)


class HeldPool(msgspec.Struct, frozen=True):
    """A shared pool as an agent served it."""

    name: str
    path: str
    renewed: float
    """When its renewal last succeeded, on the clock of `boot_time`."""


class Handover(msgspec.Struct, frozen=True):
    """What the next agent of the same boot must know before it has spoken with anybody."""

    boot_id: str
    watchdog: bool = False
    """The watchdog runs and must be fed."""
    pools: tuple[HeldPool, ...] = ()


def leave_handover(path: Path, handover: Handover) -> None:
    """Write it, whole at once, in memory: it is of no use after a reboot. Raises `OSError`."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(handover))
    beside.replace(path)


def read_handover(path: Path, boot_id: str) -> Handover:
    """What an agent before left; empty where there was none in this boot."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        found = msgspec.json.decode(path.read_bytes(), type=Handover)
        if found.boot_id == boot_id:
            return found
    return Handover(boot_id)
