"""QEMU's processes on this server: which of them have a disk of a pool open, and their end. Knows no libvirt.

Reads of `/proc` only what the kernel gives without the process's help: a process that hangs on its storage must not
hold up the one who is to end it (its command line could). Nothing here touches a disk pool.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bedplate.model.ids import MachineUid

_COMMAND = re.compile(r"qemu-(system-|kvm)|kvm$")
_UID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Guest(msgspec.Struct, frozen=True):
    """A running guest."""

    uid: MachineUid
    pid: int


def guests_on(folders: Iterable[str], proc: Path = Path("/proc")) -> list[Guest]:
    """All QEMU processes that have a machine's disk in one of these pools open.

    Args:
        folders: The pool's path as it is named and, where links lead there, as it really is.
        proc: The process file system.
    """
    names = "|".join(re.escape(f.rstrip("/")) for f in sorted(set(folders)))
    disk = re.compile(rf"(?:{names})/machines/({_UID})/")
    found: list[Guest] = []
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has just ended
            if is_qemu(proc / entry) and (uid := _open_disk(proc / entry / "fd", disk)):
                found.append(Guest(MachineUid(uid), int(entry)))
    return found


def is_qemu(folder: Path) -> bool:
    """Whether the process of that folder of `/proc` is a QEMU."""
    return _COMMAND.match((folder / "comm").read_text()) is not None


def _open_disk(descriptors: Path, disk: re.Pattern[str]) -> str:
    for entry in os.listdir(descriptors):
        with contextlib.suppress(OSError):
            if match := disk.match(os.readlink(descriptors / entry)):
                return match[1]
    return ""


def kill(guests: Iterable[Guest], patience: float, clock: Callable[[], float] = time.monotonic) -> list[Guest]:
    """End them at once (SIGKILL); gives those that have not ended within `patience` seconds."""
    handles: list[tuple[Guest, int]] = []
    try:
        for guest in guests:
            with contextlib.suppress(ProcessLookupError):
                handles.append((guest, os.pidfd_open(guest.pid)))
                # Looked again now that the handle holds: the number may have become another process's.
                with contextlib.suppress(OSError):
                    if is_qemu(Path(f"/proc/{guest.pid}")):
                        signal.pidfd_send_signal(handles[-1][1], signal.SIGKILL)
        return _alive(handles, clock() + patience, clock)
    finally:
        for _, handle in handles:
            os.close(handle)


def _alive(handles: list[tuple[Guest, int]], end: float, clock: Callable[[], float]) -> list[Guest]:
    waiting = {handle: guest for guest, handle in handles}
    poll = select.poll()
    for handle in waiting:
        poll.register(handle, select.POLLIN)
    while waiting and (left := end - clock()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            del waiting[handle]
    return list(waiting.values())
