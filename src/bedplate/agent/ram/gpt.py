"""Reading a GUID partition table, both copies of it, and having it fill a larger disk than it was made for."""

from __future__ import annotations

import os
import struct
import uuid
import zlib

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import Device, run_tool

SECTOR = 512
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_X86_64 = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_SIGNATURE = b"EFI PART"


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """One partition; `start` and `size` in bytes."""

    type: uuid.UUID
    id: uuid.UUID
    """Its PARTUUID."""
    start: int
    size: int


def partitions(fd: int, size: int) -> tuple[Partition, ...]:
    """The partitions of a disk of so many bytes; empty where it has no table that holds.

    The copy at the disk's end is not asked: it may be another life's.
    """
    return _read(fd, SECTOR, size) or ()


def spread(disk: Device) -> None:
    """Move the table's copy to the disk's end, and make the identities of disk and partitions its own.

    Raises:
        AgentFault: the table was not found whole afterwards, in both copies.
    """
    fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = [(p.type, p.start, p.size) for p in partitions(fd, disk.size)]
        # The same image stands on other disks too: what is found by its identity must be this disk's.
        run_tool(["sgdisk", "--move-second-header", "--randomize-guids", disk.path])
        _forget_cache(fd)
        main, copy = partitions(fd, disk.size), _read(fd, disk.size - SECTOR, disk.size)
    finally:
        os.close(fd)
    # sgdisk has been seen to write an empty table and to say nothing.
    if not main or main != copy or [(p.type, p.start, p.size) for p in main] != before:
        raise AgentFault("TableFailed", f"the partition table of disk {disk.serial} reads back wrong, once moved")


def _forget_cache(fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _read(fd: int, offset: int, size: int) -> tuple[Partition, ...] | None:
    """The table whose header lies there; None where it does not hold."""
    if size < 64 * SECTOR:
        return None
    block = os.pread(fd, SECTOR, offset)
    if len(block) < SECTOR:
        return None
    head = _HEADER.unpack_from(block)
    signature, _, length, checksum, _, here = head[:6]
    entries, count, width, digest = head[10:14]
    if signature != _SIGNATURE or not 92 <= length <= SECTOR or here != offset // SECTOR:
        return None
    if zlib.crc32(block[:16] + bytes(4) + block[20:length]) != checksum or width < 128 or count * width > 1 << 20:
        return None
    table = os.pread(fd, count * width, entries * SECTOR)
    if len(table) != count * width or zlib.crc32(table) != digest:
        return None
    found: list[Partition] = []
    for at in range(0, len(table), width):
        kind, own = uuid.UUID(bytes_le=table[at : at + 16]), uuid.UUID(bytes_le=table[at + 16 : at + 32])
        if kind.int:
            first, last = struct.unpack_from("<QQ", table, at + 32)
            if not 0 < first <= last < size // SECTOR:
                return None
            found.append(Partition(type=kind, id=own, start=first * SECTOR, size=(last - first + 1) * SECTOR))
    return tuple(found)
