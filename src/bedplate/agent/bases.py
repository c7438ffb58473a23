"""What the disks in a pool stand on: the image files that their qcow2 headers name, whosever disks they are.

Reads only. What can't be read counts as unknown: then nothing may be deleted.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

SIDECAR = "volume.json"
"""Beside a machine's disk: whose it is."""

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQI")
"""Magic, version, offset and size of the backing file's name (QEMU, `docs/interop/qcow2.txt`)."""
_LONGEST_NAME = 1023
GLANCE = 256
"""Folders that one look reads anew: each takes a few milliseconds where the pool is far away."""
_Known = dict[tuple[str, int], tuple[int, frozenset[str]]]
"""By a folder's path and inode: when it last changed, and the digests of the image files that its disks stand on."""
_IMAGE = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What `volume.json` says of image files, in whichever version it was written."""

    image: str = ""
    boots: tuple[str, ...] = ()


class BaseReader:
    """Reads the folders of disks."""

    def __init__(self, machines: Path, retained: Path) -> None:
        # In this order: a disk that is moved while it is read is then seen in one of them at least.
        self._places = (machines, retained)
        self._known: _Known = {}

    def glance(self) -> frozenset[str] | None:
        """Digests of the image files in use; folders that have not changed are not read again, and of the others only
        some each time: None until all are read. Raises `OSError`."""
        self._known, whole = self._read(self._known, GLANCE)
        return _all(self._known) if whole else None

    def read(self) -> frozenset[str]:
        """The same, all of it read anew. Raises `OSError` where anything can't be read."""
        known, _ = self._read({}, None)
        return _all(known)

    def _read(self, known: _Known, limit: int | None) -> tuple[_Known, bool]:
        """What the folders' disks stand on, and whether all was read."""
        found: _Known = {}
        whole, count = True, 0
        for entry in self._folders():
            try:
                at, changed = (entry.path, entry.inode()), entry.stat(follow_symlinks=False).st_mtime_ns
            except FileNotFoundError:
                continue  # moved or deleted just now
            before = known.get(at)
            if before is not None and before[0] == changed:
                found[at] = before
            elif count == limit:
                whole = False
            else:
                count += 1
                found[at] = (changed, _of_folder(Path(entry.path)))
        return found, whole

    def _folders(self) -> Iterator[os.DirEntry[str]]:
        """Folders of disks, half-made ones too."""
        for place in self._places:
            with os.scandir(place) as entries:
                yield from (e for e in entries if e.is_dir(follow_symlinks=False))


def _all(known: _Known) -> frozenset[str]:
    return frozenset[str]().union(*(digests for _, digests in known.values()))


def _of_folder(folder: Path) -> frozenset[str]:
    found: set[str] = set()
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return frozenset()  # moved or deleted just now
    for path in paths:
        try:
            if path.name == SIDECAR:
                found |= _of_mark(path)
            elif path.is_file():
                found |= _of_disk(path)
        except FileNotFoundError:
            if path.suffix == ".qcow2" and folder.exists():
                raise  # what it stands on is not known, and whoever made it may not be done
    return frozenset(f"sha256:{name}" for name in found)


def _of_disk(path: Path) -> set[str]:
    """What a qcow2 file is backed by; nothing for any other file."""
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            return set()
        _, _, offset, size = _HEADER.unpack(head)
        if offset == 0 or size == 0:
            return set()
        if size > _LONGEST_NAME:
            raise OSError(f"{path} has no sound qcow2 header: what it stands on can't be told")
        file.seek(offset)
        return set(_IMAGE.findall(file.read(size).decode(errors="replace")))


def _of_mark(path: Path) -> set[str]:
    """What the machine was made from and boots from. A mark that can't be read says nothing: its disk's header does."""
    try:
        mark = msgspec.json.decode(path.read_bytes(), type=_Mark)
    except msgspec.MsgspecError:
        return set()
    return {name for text in (mark.image, *mark.boots) for name in _IMAGE.findall(text)}
