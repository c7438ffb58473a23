"""Writing files that only their owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from bedplate.cli.errors import UserError


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
