"""The builders' cache: entries named by a digest of what they are made from.

An entry is a folder that appears whole (built beside, renamed in) with a `manifest.json` of its inputs and of
every file's SHA-256 and size. One builder at a time works on a key; others wait and use its result. May not
know what a release or an image is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet

MANIFEST = "manifest.json"
_KEY_CHARS = 16  # 64 bits of a SHA-256: no collision among the thousands of entries a cache will ever hold


class FileRecord(msgspec.Struct, frozen=True):
    """One file of an entry: digest in hex, size in bytes, and the time stamp that went with that digest."""

    sha256: str
    size: int
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True):
    """What an entry was made from (`inputs`), what it holds (`files`) and what its builder noted (`facts`)."""

    kind: str
    key: str
    inputs: dict[str, Any]
    files: dict[str, FileRecord]
    facts: dict[str, Any]
    created: float


class Entry(msgspec.Struct, frozen=True):
    """A finished entry: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.manifest.files.values())


Builder = Callable[[Path], Mapping[str, Any] | None]
"""Fills the empty folder it is given; may return facts to keep in the manifest."""


def default_root() -> Path:
    """`$XDG_CACHE_HOME/bedplate`, or `~/.cache/bedplate`."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "bedplate"


def key_of(kind: str, inputs: Mapping[str, Any]) -> str:
    """The key of an entry: equal inputs give an equal key on every machine."""
    text = msgspec.json.encode([kind, inputs], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:_KEY_CHARS]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Cache:
    """A cache folder. Cheap to make; several processes may use one folder at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def obtain(
        self, kind: str, inputs: Mapping[str, Any], build: Builder, progress: Progress = quiet, *, label: str = ""
    ) -> Entry:
        """The entry for these inputs, built now if it is missing or damaged.

        `label` names the entry in messages. Raises what `build` raises; nothing half made stays behind.
        """
        key = key_of(kind, inputs)
        name = label or f"{kind}/{key}"
        with self._locked(kind, key, progress, name):
            target = self._folder(kind, key)
            if target.exists():
                fault = self.fault(target)
                if fault is None:
                    return Entry(target, _read_manifest(target))
                progress(f"{name}: the cached copy is damaged ({fault}); building it again")
                shutil.rmtree(target)
            return self._build(kind, key, dict(inputs), build)

    def find(self, kind: str, inputs: Mapping[str, Any]) -> Entry | None:
        """The entry for these inputs if it is there and sound, without building."""
        target = self._folder(kind, key_of(kind, inputs))
        if not target.exists() or self.fault(target) is not None:
            return None
        return Entry(target, _read_manifest(target))

    def entries(self, kind: str) -> list[Entry]:
        """All entries of a kind with a readable manifest, newest first."""
        found: list[Entry] = []
        for folder in sorted((self.root / kind).glob("*")):
            try:
                found.append(Entry(folder, _read_manifest(folder)))
            except ArtifactError:
                continue
        return sorted(found, key=lambda e: -e.manifest.created)

    def remove(self, entry: Entry) -> None:
        """Delete an entry, once no builder works on it."""
        with self._locked(entry.manifest.kind, entry.key, quiet, entry.key):
            shutil.rmtree(entry.path, ignore_errors=True)

    def fault(self, folder: Path, *, thorough: bool = False) -> str | None:
        """What is wrong with an entry's folder, or None.

        A file whose size and time stamp are those of its digest is taken as sound; `thorough` reads it all.
        """
        try:
            manifest = _read_manifest(folder)
        except ArtifactError as error:
            return str(error)
        for name, record in manifest.files.items():
            path = folder / name
            try:
                stat = path.lstat()
            except FileNotFoundError:
                return f"{name} is missing"
            if stat.st_size != record.size:
                return f"{name} has {stat.st_size} bytes instead of {record.size}"
            if (thorough or stat.st_mtime_ns != record.mtime_ns) and sha256_file(path) != record.sha256:
                return f"{name} does not have the digest that the manifest names"
        return None

    def _build(self, kind: str, key: str, inputs: dict[str, Any], build: Builder) -> Entry:
        scratch_root = self.root / "tmp"
        scratch_root.mkdir(parents=True, exist_ok=True)
        scratch = scratch_root / f"{kind}-{key}"
        # Only the holder of this key's lock comes here, so what lies there is from a builder that was killed.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            facts = dict(build(scratch) or {})
            manifest = Manifest(kind, key, inputs, _records(scratch), facts, time.time())
            (scratch / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            target = self._folder(kind, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync_tree(scratch)
            scratch.rename(target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return Entry(target, manifest)

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    @contextmanager
    def _locked(self, kind: str, key: str, progress: Progress, name: str) -> Generator[None]:
        locks = self.root / "locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
            fd = os.open(locks / f"{kind}-{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ArtifactError(
                f"the cache folder {self.root} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a "
                "folder with room that you own"
            ) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"{name}: another builder works on it; waiting for its result")
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _records(folder: Path) -> dict[str, FileRecord]:
    records: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            name = str(path.relative_to(folder))
            records[name] = FileRecord(sha256_file(path), stat.st_size, stat.st_mtime_ns)
    return records


def _read_manifest(folder: Path) -> Manifest:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ArtifactError(f"{MANIFEST} is missing") from None
    except (msgspec.DecodeError, OSError) as error:
        raise ArtifactError(f"{MANIFEST} cannot be read: {error}") from error


def _sync_tree(folder: Path) -> None:
    """Data on the disk before the rename: after a power cut an entry is whole or absent."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
