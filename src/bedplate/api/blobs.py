"""Files known by their digest: images that agents fetch. Uploaded in one pass, there only once they are verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from anyio import to_thread

from bedplate.model.ids import Digest


class BlobError(Exception):
    """The file can't be kept; the message says why. `full`: the disk is."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class Blobs:
    """Implements `ports.ImageSource` on a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: Digest) -> str | None:
        """Path of the file, or None."""
        place = self._place(digest)
        return str(place) if place is not None and place.is_file() else None

    def size(self, digest: Digest) -> int | None:
        """Bytes of the file, or None."""
        path = self.path(digest)
        return None if path is None else os.path.getsize(path)

    async def put(self, digest: Digest, chunks: AsyncIterator[bytes]) -> None:
        """Keep what comes, if it is what the digest says.

        Raises:
            BlobError: malformed or wrong digest, or no room; nothing of it stays.
        """
        place = self._place(digest)
        if place is None:
            raise BlobError(f"{digest!r} is no digest; write sha256: and 64 hex digits")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=".upload-", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:

                def write(data: bytes) -> None:
                    file.write(data)
                    found.update(data)

                gathered: list[bytes] = []
                size = 0
                async for chunk in chunks:
                    gathered.append(chunk)
                    size += len(chunk)
                    if size >= _PART:
                        await to_thread.run_sync(write, b"".join(gathered))
                        gathered, size = [], 0
                await to_thread.run_sync(write, b"".join(gathered))
                file.flush()
                await to_thread.run_sync(os.fsync, file.fileno())
            if found.hexdigest() != place.name:
                raise BlobError(f"what came has the digest sha256:{found.hexdigest()}, not {digest}; send it again")
            os.replace(name, place)
        except OSError as error:
            raise BlobError(f"the file can't be kept: {error.strerror}", full=True) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def remove(self, digest: Digest) -> None:
        """Remove the file if it is there; who reads it now reads on."""
        place = self._place(digest)
        if place is not None:
            place.unlink(missing_ok=True)

    def _place(self, digest: Digest) -> Path | None:
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            return None
        return self._folder / value


_PART = 4 * 2**20
"""Bytes written at once: a thread's start is small beside it."""
