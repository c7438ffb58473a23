"""Archives as the kernel unpacks them into its first file system: cpio, "newc"
(`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel). Folders come before what is in them."""

from __future__ import annotations

import shutil
from typing import IO

_BLOCK = 1 << 20
_FOLDER, _FILE = 0o040755, 0o100600
_END = "TRAILER!!!"


def header(name: str, size: int | None, number: int) -> bytes:
    """What goes before an entry's content: a file of that size in bytes, or a folder (None). `number`: its own."""
    mode = _FOLDER if size is None else _FILE
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, size or 0, 0, 0, 0, 0, len(encoded), 0)
    made = b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
    return made + _padding(len(made))


def end() -> bytes:
    """The last entry."""
    return header(_END, 0, 0)


def archive(folder: str, files: dict[str, bytes]) -> bytes:
    """A folder with files, whole."""
    parts = [header(folder, None, 1)]
    for number, (name, content) in enumerate(sorted(files.items()), start=2):
        parts += [header(f"{folder}/{name}", len(content), number), content, _padding(len(content))]
    return b"".join([*parts, end()])


def write(target: IO[bytes], folder: str, name: str, content: IO[bytes], size: int) -> None:
    """Write an archive of a folder with one file that need not fit into memory."""
    target.write(header(folder, None, 1) + header(f"{folder}/{name}", size, 2))
    shutil.copyfileobj(content, target, _BLOCK)
    target.write(_padding(size) + end())


def _padding(length: int) -> bytes:
    return bytes(-length % 4)
