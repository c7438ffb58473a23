"""The least of a secret store and an image source, for drivers' tests."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from bedplate.model.ids import Digest


class MemorySecrets:
    """Implements `ports.SecretStore`."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get_secret(self, name: str) -> bytes | None:
        return self.values.get(name)

    def put_secret(self, name: str, value: bytes) -> None:
        self.values[name] = value

    def put_secret_once(self, name: str, value: bytes) -> bytes:
        with self._lock:
            return self.values.setdefault(name, value)

    def delete_secret(self, name: str) -> None:
        self.values.pop(name, None)

    def list_secrets(self, prefix: str) -> Sequence[str]:
        return sorted(n for n in self.values if n.startswith(prefix))


class FileImages:
    """Implements `ports.ImageSource`."""

    def __init__(self, files: Mapping[Digest, Path]) -> None:
        self.files = dict(files)

    def path(self, digest: Digest) -> str | None:
        found = self.files.get(digest)
        return str(found) if found is not None else None
