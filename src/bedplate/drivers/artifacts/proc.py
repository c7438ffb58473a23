"""Run the outside programs of the builders, with a readable error when one fails.

May not: decide what to build, or keep a program's output anywhere but in the log file it is given.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Progress = Callable[[str], None]
"""Called with one short sentence whenever a builder starts something that takes a while."""

_TAIL_LINES = 15


class ArtifactError(Exception):
    """A release or image cannot be had. The message is one sentence with the remedy, for people."""


def quiet(_: str) -> None:
    """A progress callback that says nothing."""


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    stdin: bytes | None = None,
) -> str:
    """Run a program to its end and return what it printed (both streams when `log` is given).

    `env` is laid over the present environment. Raises `ArtifactError` with the last lines of the output.
    """
    words = [str(a) for a in argv]
    need(words[0])
    full_env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    # Outside programs at a lower priority: a build beside running guests must not starve them.
    done = subprocess.run(
        words,
        cwd=cwd,
        env=full_env,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if log is None else subprocess.STDOUT,
        check=False,
        preexec_fn=_lower_priority,
    )
    out = done.stdout.decode(errors="replace")
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(words)}\n{out}\n")
    if done.returncode != 0:
        said = out if log is not None else (done.stderr or b"").decode(errors="replace") or out
        tail = "\n".join(said.strip().splitlines()[-_TAIL_LINES:])
        where = f" (whole output: {log})" if log is not None else ""
        raise ArtifactError(f"{what} failed: {words[0]} ended with status {done.returncode}{where}\n{tail}")
    return out


def need(program: str, *, package: str | None = None) -> str:
    """The path of a program, or an error that names the Debian package to install."""
    found = program if "/" in program and os.access(program, os.X_OK) else shutil.which(program, path=_path())
    if found is None:
        hint = package or _PACKAGES.get(program, program)
        raise ArtifactError(f"program {program!r} is missing; install it with: apt-get install {hint}")
    return found


_PACKAGES = {
    "qemu-img": "qemu-utils",
    "sgdisk": "gdisk",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "mksquashfs": "squashfs-tools",
    "mke2fs": "e2fsprogs",
    "tune2fs": "e2fsprogs",
    "gcc": "gcc libc6-dev",
}


def _path() -> str:
    """PATH with the administrator's folders, which a plain user's lacks on Debian."""
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def _lower_priority() -> None:
    os.nice(5)
