"""The RAM system's medium: an ISO that UEFI boots as a CD, with a place for a server's settings.

May not know what is in the system.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bedplate.drivers.artifacts.disk import MIB
from bedplate.drivers.artifacts.proc import ArtifactError, run
from bedplate.model.metal_protocol import MEDIUM_LABEL, SETTINGS_MAGIC, SETTINGS_PATH, SETTINGS_SIZE

_SECTOR = 2048


def pack(root: Path, system: Path, log: Path) -> None:
    """Pack a file tree into one file."""
    squash = ["mksquashfs", root, system, "-comp", "zstd", "-Xcompression-level", "19"]
    squash += ["-b", "256K", "-noappend", "-no-progress", "-quiet"]
    run(squash, what="packing the RAM system", log=log, env={"SOURCE_DATE_EPOCH": "0"})


def write(iso: Path, system: Path, uki: Path, scratch: Path, log: Path) -> int:
    """Write the medium of a packed tree and a unified kernel image; gives the byte offset of the settings in it."""
    content = scratch / "iso"
    settings = content / SETTINGS_PATH
    settings.parent.mkdir(parents=True)
    settings.write_bytes(SETTINGS_MAGIC.ljust(SETTINGS_SIZE, b"\n"))
    settings.with_name("system").hardlink_to(system)
    _esp(content / "efi.img", uki, log)
    xorriso = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", MEDIUM_LABEL, "-o", iso]
    run([*xorriso, "-e", "efi.img", "-no-emul-boot", content], what="making the medium", log=log)
    shutil.rmtree(content)
    return settings_offset(iso)


def settings_offset(iso: Path) -> int:
    """Where the empty settings begin in a medium, in bytes. Raises `ArtifactError` unless there is one such place."""
    empty = SETTINGS_MAGIC.ljust(_SECTOR, b"\n")
    found: list[int] = []
    with iso.open("rb") as file:
        position = 0
        while block := file.read(MIB):
            found += [position + at for at in range(0, len(block), _SECTOR) if block[at : at + _SECTOR] == empty]
            position += len(block)
        if len(found) != 1:
            raise ArtifactError(f"the medium has {len(found)} places for settings instead of one; build it again")
        file.seek(found[0])
        if file.read(SETTINGS_SIZE) != SETTINGS_MAGIC.ljust(SETTINGS_SIZE, b"\n"):
            raise ArtifactError("the place for settings in the medium is not whole; build it again")
    return found[0]


def _esp(image: Path, uki: Path, log: Path) -> None:
    """A FAT file system with the unified kernel image where firmware looks for it."""
    with image.open("wb") as file:
        file.truncate(-(-uki.stat().st_size // MIB) * MIB + MIB)
    run(["mkfs.vfat", "-n", "BEDPLATE", "-i", "bed91a7f", "--invariant", image], what="making the ESP", log=log)
    run(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"], what="making the ESP", log=log)
    run(["mcopy", "-i", image, uki, "::/EFI/BOOT/BOOTX64.EFI"], what="copying the kernel to the ESP", log=log)
