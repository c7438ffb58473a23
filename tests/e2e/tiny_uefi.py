"""The smallest things that UEFI boots: a program that says a line on the serial port, as a CD and as a disk."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

COM1 = 0x3F8
CODE = 0x1000
"""Where the one section of the program lies in memory."""


End = Literal["halt", "reset", "off"]
"""What the program does last."""
_ENDS = {
    "halt": b"",
    "reset": b"\x66\xba\xf9\x0c\xb0\x06\xee",  # out 0xcf9, 6: a full reset
    "off": b"\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef",  # out 0x604, 0x2000: ACPI's S5 of a q35 machine
}


def program(line: str, end: End = "halt") -> bytes:
    """An EFI application that writes a line to the first serial port, then resets the machine, ends or halts it."""
    text = f"\r\n{line}\r\n".encode()
    head = b"\xfa\x48\x8d\x35" + b"%s" + b"\xb9" + struct.pack("<I", len(text))  # cli; lea rsi, text; mov ecx, length
    # again: wait until the port is empty (0x3fd, bit 5), then lodsb; out 0x3f8, al; loop again
    loop = b"\x66\xba" + struct.pack("<H", COM1 + 5) + b"\xec\xa8\x20\x74\xfb"
    loop += b"\xac\x66\xba" + struct.pack("<H", COM1) + b"\xee"
    loop += b"\xe2" + struct.pack("b", -(len(loop) + 2))
    tail = _ENDS[end] + b"\xf4\xeb\xfd"  # halt: hlt; jmp halt
    length_before_text = (len(head) - 2 + 4) + len(loop) + len(tail)
    lea_end = 8  # cli is one byte, lea seven
    code = head.replace(b"%s", struct.pack("<i", length_before_text - lea_end)) + loop + tail + text
    return _portable_executable(code)


def _portable_executable(code: bytes) -> bytes:
    """Wrap code as a PE32+ image with subsystem 10, an EFI application. The code needs no relocation."""
    raw = len(code) + -len(code) % 512
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 112 + 16 * 8, 0x22E)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, raw, 0, 0, CODE, CODE)
    optional += struct.pack("<QIIHHHHHHIIIIHH", 0, 0x1000, 512, 0, 0, 0, 0, 0, 0, 0, CODE + 0x1000, 512, 0, 10, 0)
    optional += struct.pack("<QQQQII", 0x10000, 0x10000, 0x10000, 0x10000, 0, 16) + bytes(16 * 8)
    section = struct.pack("<8sIIIIIIHHI", b".text", len(code), CODE, raw, 512, 0, 0, 0, 0, 0x60000020)
    return (dos + coff + optional + section).ljust(512, b"\0") + code.ljust(raw, b"\0")


def file_system(path: Path, line: str, end: End = "halt", *, size: int = 4 << 20) -> None:
    """Write a FAT file system without a partition table into a file, with the program where UEFI looks for it."""
    with tempfile.TemporaryDirectory() as name:
        efi = Path(name) / "BOOTX64.EFI"
        efi.write_bytes(program(line, end))
        fat = Path(name) / "fat"
        with fat.open("wb") as file:
            file.truncate(size)
        _run("mkfs.vfat", str(fat))
        _run("mmd", "-i", str(fat), "::/EFI", "::/EFI/BOOT")
        _run("mcopy", "-i", str(fat), str(efi), "::/EFI/BOOT/BOOTX64.EFI")
        with path.open("r+b" if path.exists() else "wb") as disk:
            disk.write(fat.read_bytes())


def iso(path: Path, line: str, end: End = "halt") -> None:
    """Write an ISO that UEFI boots as a CD."""
    with tempfile.TemporaryDirectory() as name:
        file_system(Path(name) / "efi.img", line, end)
        _run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", str(path), "-e", "efi.img", "-no-emul-boot", name)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"
