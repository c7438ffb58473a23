"""A disk image as bare metal is written from it: a manifest of its pieces, and a file of them, each compressed.

A qcow2 image can't be written as it arrives, since its tables may point anywhere; this can, and be checked piece by
piece, gone on with after a break, and it skips what is zero. Made once for an image and kept by the image's digest.
May not: know what is on the disk beyond whether it has a partition table.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts.cache import Cache, Entry
from bedplate.drivers.artifacts.image import DiskFile
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, need, quiet, run
from bedplate.model.ids import Digest
from bedplate.model.metal_protocol import Piece, WriteManifest

PIECE = 4 << 20
"""Bytes: so large that a disk writes at its full rate, so small that a dozen of them are no burden in memory."""
LEVEL = 3
"""Of zstd: unpacked faster than disks write, at two fifths of the size for a node image; higher ones save little."""
KIND = "metal"
MANIFEST, DATA = "pieces.json", "pieces.zst"
_RECIPE = 1
_SECTOR = 512


class MetalFiles(msgspec.Struct, frozen=True):
    """The two files of an image."""

    manifest: DiskFile
    data: DiskFile


def metal_files(
    disk: Path, sha256: str, form: str, cache: Cache | None = None, progress: Progress = quiet
) -> MetalFiles | None:
    """The image's files, made now if they are missing; None where it has no GUID partition table to boot metal by.

    Args:
        disk: The image's disk file.
        sha256: Its digest in hex.
        form: `qcow2` or `raw`.

    Raises:
        ArtifactError: it can't be read or there is no room.
    """
    cache = cache or Cache()

    def build(folder: Path) -> dict[str, object]:
        progress(f"{disk.name}: making the form in which bare metal is written from it")
        raw = disk
        if form != "raw":
            raw = folder / "disk.raw"
            run(["qemu-img", "convert", "-f", form, "-O", "raw", disk, raw], what=f"unpacking {disk.name}")
        bootable = _has_table(raw)
        if bootable:
            write_pieces(raw, folder / MANIFEST, folder / DATA)
        if raw is not disk:
            raw.unlink()
        return {"bootable": bootable}

    inputs = {"recipe": _RECIPE, "disk": sha256, "format": form, "piece": PIECE, "level": LEVEL}
    entry = cache.obtain(KIND, inputs, build, progress, label=f"bare metal's form of {disk.name}")
    return MetalFiles(_file(entry, MANIFEST), _file(entry, DATA)) if entry.facts["bootable"] else None


def remove(sha256: str, cache: Cache | None = None) -> None:
    """Delete what was made of the image with this digest."""
    cache = cache or Cache()
    for entry in cache.entries(KIND):
        if entry.manifest.inputs.get("disk") == sha256:
            cache.remove(entry)


def write_pieces(raw: Path, manifest: Path, data: Path) -> WriteManifest:
    """Write both files of a raw disk image. Raises `ArtifactError`."""
    need("zstd")
    size = raw.stat().st_size
    if size % _SECTOR:
        raise ArtifactError(f"{raw.name} has {size} bytes, which is no whole number of sectors of {_SECTOR} bytes")
    pieces: list[Piece] = []
    digest = hashlib.sha256()
    with data.open("wb") as out:
        for index, sha256, frame in _compressed(raw, size):
            pieces.append(Piece(index, out.tell(), sha256))
            out.write(frame)
            digest.update(frame)
        data_size = out.tell()
    made = WriteManifest(
        size=size, piece=PIECE, data=Digest(f"sha256:{digest.hexdigest()}"), data_size=data_size, pieces=tuple(pieces)
    )
    manifest.write_bytes(msgspec.json.encode(made))
    return made


def _compressed(raw: Path, size: int) -> Iterator[tuple[int, str, bytes]]:
    """Each piece that is not zero, with its digest and its frame; that of the partition table last."""

    def pack(content: bytes) -> tuple[str, bytes]:
        argv = ["zstd", f"-{LEVEL}", "-q", "-c", "--no-check", "--single-thread"]
        done = subprocess.run(argv, input=content, capture_output=True, check=False)
        if done.returncode != 0:
            raise ArtifactError(f"zstd could not pack a piece of {raw.name}: {done.stderr.decode(errors='replace')}")
        return hashlib.sha256(content).hexdigest(), done.stdout

    count = -(-size // PIECE)
    workers = os.cpu_count() or 1
    with raw.open("rb") as file, ThreadPoolExecutor(workers) as pool:
        underway: deque[tuple[int, Future[tuple[str, bytes]]]] = deque()
        for index in [*range(1, count), 0][-count:]:
            content = _read(file.fileno(), index * PIECE, size)
            if content:
                underway.append((index, pool.submit(pack, content)))
            if len(underway) > 2 * workers:
                first, packed = underway.popleft()
                yield first, *packed.result()
        for first, packed in underway:
            yield first, *packed.result()


_ZERO = bytes(PIECE)


def _read(fd: int, offset: int, size: int) -> bytes:
    """A piece's content; empty where it is all zero."""
    length = min(PIECE, size - offset)
    try:
        if os.lseek(fd, offset, os.SEEK_DATA) >= offset + length:
            return b""
    except OSError:  # no data from here to the end
        return b""
    content = os.pread(fd, length, offset)
    return b"" if content == _ZERO[:length] else content


def _has_table(raw: Path) -> bool:
    with raw.open("rb") as file:
        file.seek(_SECTOR)
        return file.read(8) == b"EFI PART"


def _file(entry: Entry, name: str) -> DiskFile:
    record = entry.manifest.files[name]
    return DiskFile(entry.path / name, record.sha256, record.size)
