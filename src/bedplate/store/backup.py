"""Backup and restore: one file of mode 0600 with a consistent copy of the database and its key."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tarfile
import tempfile
from pathlib import Path

from bedplate.store.errors import StoreError, StoreUnavailable
from bedplate.store.store import DATABASE, KEY, Store

EPOCH_JUMP = 1_000_000
"""A restored store begins so many epochs and revisions later than its copy: the world has seen numbers that the copy
does not know, and whoever follows an older revision must be told to list again. No store gets through a million
take-overs or loses a million writes between two backups."""


def backup(folder: Path | str, target: Path | str) -> None:
    """Write a backup of the store in `folder`, which may be in use, to the file `target`.

    Raises:
        StoreError: there is no store, or the target exists.
        StoreUnavailable: it can't be read or the target can't be written.
    """
    folder, target = Path(folder), Path(target)
    if not (folder / DATABASE).exists():
        raise StoreError(f"there is no store in {folder}")
    if target.exists():
        raise StoreError(f"{target} exists already; name a file that does not")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bedplate-backup-") as room:
            copy = Path(room) / DATABASE
            source = sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True)
            destination = sqlite3.connect(copy)
            with contextlib.closing(source), contextlib.closing(destination):
                source.backup(destination)
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
                archive.add(copy, DATABASE)
                archive.add(folder / KEY, KEY)
            os.replace(partial, target)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"the backup {target} can't be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def restore(source: Path | str, folder: Path | str) -> None:
    """Make a store in `folder` out of a backup. Its controller only observes until a person accepts.

    Raises:
        StoreError: the folder has a store already, or the file is no backup.
        StoreUnavailable: the folder can't be written.
    """
    source, folder = Path(source), Path(folder)
    if (folder / DATABASE).exists():
        raise StoreError(f"{folder} has a store already; restore into an empty folder, or move that one away first")
    try:
        with tarfile.open(source, "r:gz") as archive:
            parts = {name: _member(archive, name) for name in (DATABASE, KEY)}
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise StoreError(f"{source} is not a backup of Bedplate: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, content in parts.items():
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _begin_anew(folder)
    except BaseException:
        for name in parts:
            (folder / name).unlink(missing_ok=True)
        raise


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(f"it has no {name}")
    with found:
        return found.read()


def _begin_anew(folder: Path) -> None:
    store = Store.open(folder)
    try:
        with store.transaction() as tx:
            tx.set_setting("restored", "1")
            revision, epoch = tx.counter("revision") + EPOCH_JUMP, tx.counter("epoch") + EPOCH_JUMP
            tx.set_counter("revision", revision)
            tx.set_counter("compacted", revision)
            tx.set_counter("epoch", epoch)
            tx.forget_changes()
    finally:
        store.close()
