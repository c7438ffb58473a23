"""Orders to a running QEMU over its monitor socket (QMP). Knows no lab: a path, commands, their answers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from bedplate.lab.errors import LabError

LIMIT = 30.0
"""Seconds for an answer: it takes a thousandth, but an emulated guest on a busy computer holds QEMU's lock for long."""


def ask(path: Path, *commands: tuple[str, dict[str, Any]], limit: float = LIMIT) -> list[Any]:
    """Give the answers of commands, one after the other.

    Raises:
        LabError: QEMU refused one; those before it are done.
        OSError: it can't be reached, or it does not answer in time.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(limit)
        link.connect(str(path))
        with link.makefile("rb") as reader:
            reader.readline()  # its greeting
            answers: list[Any] = []
            for name, arguments in (("qmp_capabilities", {}), *commands):
                link.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
                answers.append(_answer(reader, name))
            return answers[1:]


def _answer(reader: Any, name: str) -> Any:
    """What the next line says that is no event."""
    while True:
        line = reader.readline()
        if not line:
            raise ConnectionResetError(f"QEMU ended before it answered {name}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise LabError(f"QEMU refuses {name}: {said['error'].get('desc', said['error'])}")
        if "return" in said:
            return said["return"]
