"""A disk image as bare metal is written from it: what is told of it, and that it is all there."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts import pieces
from bedplate.drivers.artifacts.cache import Cache, sha256_file
from bedplate.model.metal_protocol import WriteManifest

MIB = 1 << 20


def disk(folder: Path, size: int = 18 * MIB + 512) -> Path:
    """A raw disk with something at its beginning, in its middle and at its end."""
    raw = folder / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(size)
        for offset, content in ((512, b"EFI PART"), (9 * MIB, os.urandom(MIB)), (size - 512, b"last")):
            file.seek(offset)
            file.write(content)
    return raw


def unpacked(manifest: WriteManifest, data: bytes) -> bytes:
    """The disk again, by each piece's own frame."""
    whole = bytearray(manifest.size)
    ends = [*(p.start for p in manifest.pieces[1:]), len(data)]
    for piece, end in zip(manifest.pieces, ends, strict=True):
        frame = data[piece.start : end]
        content = subprocess.run(["zstd", "-dcq"], input=frame, capture_output=True, check=True).stdout
        assert hashlib.sha256(content).hexdigest() == piece.sha256
        assert len(content) == manifest.length(piece)
        start = piece.index * manifest.piece
        whole[start : start + len(content)] = content
    return bytes(whole)


def test_the_pieces_are_the_disk_and_the_partition_table_comes_last(tmp_path: Path) -> None:
    raw = disk(tmp_path)
    made = pieces.write_pieces(raw, tmp_path / "manifest", tmp_path / "data")
    assert msgspec.json.decode((tmp_path / "manifest").read_bytes(), type=WriteManifest) == made
    assert [p.index for p in made.pieces] == [2, 4, 0], "what is zero is left out"
    data = (tmp_path / "data").read_bytes()
    assert made.data == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert made.data_size == len(data)
    assert unpacked(made, data) == raw.read_bytes()


def test_an_image_is_taken_apart_once_whatever_its_format(tmp_path: Path) -> None:
    raw, cache = disk(tmp_path), Cache(tmp_path / "cache")
    packed = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, packed], check=True)
    said: list[str] = []
    first = pieces.metal_files(packed, sha256_file(packed), "qcow2", cache, said.append)
    again = pieces.metal_files(packed, sha256_file(packed), "qcow2", cache, said.append)
    from_raw = pieces.metal_files(raw, sha256_file(raw), "raw", cache)
    assert first is not None
    assert from_raw is not None
    assert first == again
    assert len(said) == 1
    assert first.data.sha256 == from_raw.data.sha256
    assert sorted(p.name for p in first.data.path.parent.iterdir()) == ["manifest.json", "pieces.json", "pieces.zst"]
    pieces.remove(sha256_file(packed), cache)
    assert not first.data.path.exists()
    assert from_raw.data.path.exists()


def test_a_disk_without_a_partition_table_is_for_virtual_machines_only(tmp_path: Path) -> None:
    raw = tmp_path / "plain.raw"
    raw.write_bytes(os.urandom(MIB))
    assert pieces.metal_files(raw, sha256_file(raw), "raw", Cache(tmp_path / "cache")) is None
