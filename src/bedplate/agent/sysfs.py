"""Reading what the kernel tells in small files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def text(path: Path) -> str:
    """What the file says; empty where it can't be read."""
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def number(said: str) -> int:
    """The number in a text; 0 where there is none."""
    with suppress(ValueError):
        return int(said)
    return 0
