"""Reads what a system on a disk holds: of an image's tree as it is built, of a server's root as it runs.

The record of the first lies in the image itself. It tells what people and programs have changed; whoever is root on the
server can change it too, so it proves nothing against an intruder.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from bedplate.model.drift import WATCHED, AsBuilt, BuiltFile

RECORD = Path("usr/lib/bedplate/as-built.json.gz")
"""In the root; itself no part of what it tells."""

_DPKG = Path("var/lib/dpkg")


def write(root: Path, kernel: str, command_line: str) -> None:
    """Write the record of an image's tree into it, as the last thing that is done to it."""
    (root / RECORD).unlink(missing_ok=True)
    built = survey(root, kernel, command_line)
    (root / RECORD).write_bytes(gzip.compress(msgspec.json.encode(built), mtime=0))


def read(root: Path) -> AsBuilt | None:
    """The record in a root; None where there is none that can be read: an image of before."""
    try:
        return msgspec.json.decode(gzip.decompress((root / RECORD).read_bytes()), type=AsBuilt)
    except (OSError, EOFError, msgspec.MsgspecError):
        return None


def survey(root: Path, kernel: str, command_line: str, known: Mapping[str, BuiltFile] | None = None) -> AsBuilt:
    """What a root holds now.

    Args:
        known: A file of the same size, time and mode as here is taken for unchanged, and not read.
    """
    files: dict[str, BuiltFile] = {}
    for folder in WATCHED:
        for path, found in _walk(root / folder):
            name = "/" + os.path.relpath(path, root)
            if name != f"/{RECORD}":
                with suppress(OSError):  # it went meanwhile
                    files[name] = _file(path, found, (known or {}).get(name))
    return AsBuilt(kernel=kernel, command_line=command_line, packages=packages(root), files=files)


def _walk(folder: Path) -> Iterable[tuple[str, os.stat_result]]:
    """Files and links below a folder."""
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry.path, entry.stat(follow_symlinks=False)


def _file(path: str, found: os.stat_result, known: BuiltFile | None) -> BuiltFile:
    mode, modified = found.st_mode, int(found.st_mtime)
    same = (mode, found.st_size, modified)
    if known is not None and same == (known.mode, known.size, known.modified) and not stat.S_ISLNK(mode):
        content = known.content
    elif stat.S_ISLNK(mode):
        content = str(Path(path).readlink())
    else:
        content = _digest(path) if stat.S_ISREG(mode) else ""
    return BuiltFile(mode, found.st_uid, found.st_gid, found.st_size, modified, content)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packages(root: Path) -> dict[str, str]:
    """Installed packages and their versions, by dpkg's own list; empty where there is none."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for block in (root / _DPKG / "status").read_text(errors="replace").split("\n\n"):
            facts = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
            if facts.get("Status", "").endswith(" installed") and "Package" in facts:
                found[facts["Package"]] = facts.get("Version", "")
    return found


def owners(root: Path, names: Iterable[str]) -> dict[str, str]:
    """File to package, of these packages, as far as dpkg knows: of one that is gone it knows nothing."""
    found: dict[str, str] = {}
    for name in names:
        for path in (root / _DPKG / "info").glob(f"{name}*.list"):
            if path.stem.partition(":")[0] == name:
                with suppress(OSError):
                    found |= dict.fromkeys(path.read_text(errors="replace").splitlines(), name)
    return found
