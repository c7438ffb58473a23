"""A shared disk pool's file system, mounted where the pool is to lie. Blocking; may hang with the storage."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bedplate.model.agent_protocol import Mount, Pool

MOUNTINFO = Path("/proc/self/mountinfo")
MOUNT_SECONDS = 60.0
_OCTAL = re.compile(r"\\([0-7]{3})")


def mounted(mountinfo: Path = MOUNTINFO) -> dict[str, str]:
    """What is mounted: mount point to source, the one on top where there are several."""
    found: dict[str, str] = {}
    for line in mountinfo.read_text().splitlines():
        left, _, right = line.partition(" - ")
        found[_plain(left.split(" ")[4])] = _plain(right.split(" ")[1])
    return found


def _plain(text: str) -> str:
    """A field of mountinfo without its escapes (proc_pid_mountinfo(5))."""
    return _OCTAL.sub(lambda m: chr(int(m[1], 8)), text)


def in_place(pool: Pool, there: Mapping[str, str]) -> bool:
    """True where a server that nobody else prepares may serve it: a shared pool on its root disk would be another one.

    Args:
        there: What is mounted.
    """
    path = Path(os.path.realpath(pool.path))
    return pool.type == "local" or pool.mount is not None or any(p != "/" and path.is_relative_to(p) for p in there)


def check(pool: Pool) -> None:
    """See that what lies at its path is what is to be mounted there. Raises `OSError`."""
    if pool.mount is None:
        return
    source = mounted().get(os.path.realpath(pool.path))
    if source is None:
        raise OSError(f"{pool.mount.source} is not mounted at {pool.path}")
    if source.rstrip("/") != pool.mount.source.rstrip("/"):
        raise OSError(f"{source} is mounted at {pool.path}, not {pool.mount.source}: unmount it")


def ensure(pool: Pool) -> None:
    """Mount it where the pool says what is to be mounted and nothing is, then check. Raises `OSError`."""
    path = Path(pool.path)
    if pool.mount is not None and os.path.realpath(path) not in mounted():
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            _mount(pool.mount, path)
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()  # nothing is to be written below it, a lease least of all
            raise
    check(pool)


def _mount(what: Mount, path: Path) -> None:
    options = ("-o", what.options) if what.options else ()
    argv = ["mount", "-t", what.type, *options, "--", what.source, str(path)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=MOUNT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        said = f"{what.source} was not mounted at {path} within {MOUNT_SECONDS:.0f} s"
        raise OSError(f"{said}: does its server answer?") from error
    if done.returncode != 0:
        raise OSError(f"{what.source} can't be mounted at {path}: {done.stderr.strip()}")
