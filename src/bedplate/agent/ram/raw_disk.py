"""A disk opened to be written: directly, past the page cache, in large pieces; parts of it made zero; read back.

Blocking. The kernel lets it be opened only while nothing else on this server holds the disk.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import Device, open_alone

ALIGN = 4096
ZERO_STEP = 64 << 20
"""Bytes made zero by one call: a disk without a command for it has them written, a second's work or less."""
_BLKZEROOUT = 0x127F

Check = Callable[[], None]
"""Called between two parts of a long work; raises where it is to end."""


class RawDisk:
    """A disk that this process alone writes."""

    def __init__(self, disk: Device, *, write: bool = True) -> None:
        self.disk = disk
        self.fd = open_alone(disk, (os.O_RDWR if write else os.O_RDONLY) | os.O_DIRECT)

    def close(self) -> None:
        """Give it back."""
        os.close(self.fd)

    def write(self, offset: int, content: memoryview) -> None:
        """Write aligned memory, whole. Raises `OSError`."""
        while content:
            done = os.pwritev(self.fd, [content], offset)
            offset, content = offset + done, content[done:]

    def read(self, offset: int, buffer: memoryview) -> int:
        """Fill aligned memory; fewer bytes only at the disk's end. Raises `OSError`."""
        got = 0
        while got < len(buffer):
            done = os.preadv(self.fd, [buffer[got:]], offset + got)
            if not done:
                break
            got += done
        return got

    def zero(self, start: int, end: int, check: Check) -> None:
        """Make a part zero, by the disk's own command where it has one. Raises `OSError`."""
        for offset in range(start, end, ZERO_STEP):
            check()
            length = min(ZERO_STEP, end - offset)
            fcntl.ioctl(self.fd, _BLKZEROOUT, struct.pack("<QQ", offset, length))

    def flush(self) -> None:
        """All that was written is on the disk, not in its memory. Raises `OSError`."""
        os.fsync(self.fd)


def aligned(size: int) -> mmap.mmap:
    """Memory that direct input and output take."""
    return mmap.mmap(-1, -(-size // ALIGN) * ALIGN)


def check_fits(disk: Device, size: int) -> None:
    """Raise `AgentFault` where a disk can't carry an image of so many bytes."""
    if disk.sector != 512:
        message = f"disk {disk.serial} has sectors of {disk.sector} bytes, images have 512: format it to 512e"
        raise AgentFault("DiskSectors", message, permanent=True)
    if disk.size < size:
        message = f"disk {disk.serial} has {disk.size >> 20} MiB, the image needs {size >> 20} MiB: choose a larger one"
        raise AgentFault("DiskTooSmall", message, permanent=True)
