"""Encryption of secrets at rest: AES-256-GCM with a key file of mode 0600 beside the database.

The name of a secret is bound to its value as associated data, so that rows can't be swapped.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bedplate.store.errors import StoreError

_KEY_BYTES = 32
_NONCE_BYTES = 12


class Vault:
    """Seals and opens values. Never logs, never puts a value into an error."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, name: str, value: bytes) -> tuple[bytes, bytes]:
        """Give nonce and sealed value."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, nonce: bytes, sealed: bytes) -> bytes:
        """Give the value.

        Raises:
            StoreError: sealed with another key, under another name, or changed since.
        """
        try:
            return self._cipher.decrypt(nonce, sealed, name.encode())
        except InvalidTag:
            raise StoreError(f"secret {name!r} can't be opened: the key file does not belong to this store") from None


def load_key(path: Path, *, create: bool) -> bytes:
    """Read the key file, or make it (mode 0600) where `create` allows.

    Raises:
        StoreError: it is missing, too open, or no key.
    """
    if not path.exists():
        if not create:
            raise StoreError(f"the key file {path} is missing: put it back, or restore a backup, which holds it")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise StoreError(f"the key file {path} has mode {mode:04o}, so that others can read it: run `chmod 600 {path}`")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise StoreError(f"the key file {path} has {len(key)} bytes instead of {_KEY_BYTES}: restore a backup")
    return key
