"""Disks from file trees: GPT with an EFI system partition and an ext4 root, as qcow2, without mounting anything.

May not know what is in the tree.
"""

from __future__ import annotations

from pathlib import Path

from bedplate.drivers.artifacts.proc import ArtifactError, run

MIB = 1 << 20
ESP_MIB = 256
"""Room for two unified kernel images (an update beside the old one) and for credentials."""
DISK_MIB = 6144
"""Inside size of the disk. Larger machines' root grows at boot; the file holds only what is used."""

_DISK_GUID = "5a1d9a3e-6f7b-4f0c-9d5e-0bed91a7e000"
_ROOT_UUID = "5a1d9a3e-6f7b-4f0c-9d5e-0bed91a7e002"


def write(out: Path, root: Path, uki: Path, log: Path) -> int:
    """Write `out/disk.qcow2` with the tree as its root and the unified kernel image on its ESP; returns its inside
    size in bytes."""
    raw = out / "disk.raw"
    raw.unlink(missing_ok=True)
    with raw.open("wb") as file:
        file.truncate(DISK_MIB * MIB)
    _partition(raw, log)
    _esp(out / "esp.fat", uki, log)
    _splice(out / "esp.fat", raw, 1 * MIB)
    start = (1 + ESP_MIB) * MIB
    size_kib = (DISK_MIB - 1 - ESP_MIB - 1) * 1024
    mke2fs = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", _ROOT_UUID, "-m", "1", "-d", root]
    # Nothing is left to be initialised in the background: each node would write it into its own overlay.
    mke2fs += ["-E", f"offset={start},lazy_itable_init=0,lazy_journal_init=0,hash_seed={_ROOT_UUID}"]
    run([*mke2fs, raw, f"{size_kib}k"], what="making the root file system", log=log)
    run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, out / "disk.qcow2"],
        what="writing the qcow2 disk",
        log=log,
    )
    raw.unlink()
    (out / "esp.fat").unlink()
    return DISK_MIB * MIB


def _partition(raw: Path, log: Path) -> None:
    sgdisk = ["sgdisk", "--clear", f"--disk-guid={_DISK_GUID}"]
    sgdisk += [f"--new=1:1MiB:+{ESP_MIB}MiB", "--typecode=1:ef00", "--change-name=1:esp"]
    sgdisk += [f"--new=2:{1 + ESP_MIB}MiB:{DISK_MIB - 1}MiB", "--typecode=2:8304", "--change-name=2:root"]
    run([*sgdisk, raw], what="partitioning the disk", log=log)
    # sgdisk has been seen to write an empty table and to say nothing.
    table = run(["sgdisk", "--print", raw], what="reading the partition table back", log=log)
    rows = [line.split() for line in table.splitlines() if line[:4].strip().isdigit()]
    starts = [int(r[1]) for r in rows]
    if starts != [2048, (1 + ESP_MIB) * 2048]:
        raise ArtifactError(f"the partition table reads back wrong (starts {starts}); see {log}")


def _esp(esp: Path, uki: Path, log: Path) -> None:
    with esp.open("wb") as file:
        file.truncate(ESP_MIB * MIB)
    run(["mkfs.vfat", "-F", "32", "-n", "ESP", "-i", "bed91a7e", "--invariant", esp], what="making the ESP", log=log)
    run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/credentials"], what="ESP", log=log)
    run(["mcopy", "-i", esp, uki, "::/EFI/BOOT/BOOTX64.EFI"], what="copying the kernel to the ESP", log=log)


def _splice(source: Path, target: Path, offset: int) -> None:
    """Copy a file into another at an offset, leaving its holes (zero blocks) out."""
    zero = bytes(MIB)
    with source.open("rb") as read, target.open("r+b") as written:
        position = offset
        while block := read.read(MIB):
            if block != zero[: len(block)]:
                written.seek(position)
                written.write(block)
            position += len(block)
