"""The builders' cache: entries named by a digest of what they are made from.

An entry is a folder that appears whole (built beside, renamed in) with a `manifest.json` of its inputs and of
every file's SHA-256 and size. One builder at a time works on a key; others wait and use its result. What a process
has taken from the cache is not deleted under it. May not know what a release or an image is.

    <kind>/<key>/           the entry
    tmp/<kind>-<key>        what is built just now; `.gone` behind it: what is deleted just now
    locks/<kind>-<key>.lock held by whoever builds or deletes it
    locks/<kind>-<key>.use  held, shared, by each process that has taken it; its time stamp says when that was last
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet

MANIFEST = "manifest.json"
_SCRATCH = "tmp"
_GONE = ".gone"
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


class InUse(ArtifactError):
    """An entry is being built, or another process has taken it."""


_USED: dict[tuple[Path, str, str], int] = {}
"""Locks of the entries that this process has taken, held to its end: what it read of an entry's folder, such as paths,
is used long after the call."""

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
                    self._take(kind, key)
                    return Entry(target, _read_manifest(target))
                progress(f"{name}: the cached copy is damaged ({fault}); building it again")
                shutil.rmtree(target)
            entry = self._build(kind, key, dict(inputs), build)
            self._take(kind, key)
            return entry

    def find(self, kind: str, inputs: Mapping[str, Any]) -> Entry | None:
        """The entry for these inputs if it is there and sound, without building."""
        key = key_of(kind, inputs)
        target = self._folder(kind, key)
        if not target.exists():
            return None
        self._take(kind, key)  # first: from here on nobody deletes it
        return None if self.fault(target) is not None else Entry(target, _read_manifest(target))

    def take(self, entry: Entry) -> bool:
        """Keep an entry of a list from being deleted while this process runs; False where it has just gone."""
        self._take(entry.manifest.kind, entry.key)
        return entry.path.exists()

    def entries(self, kind: str) -> list[Entry]:
        """All entries of a kind with a readable manifest, newest first."""
        found: list[Entry] = []
        for folder in sorted((self.root / kind).glob("*")):
            try:
                found.append(Entry(folder, _read_manifest(folder)))
            except ArtifactError:
                continue
        return sorted(found, key=lambda e: -e.manifest.created)

    def all(self) -> list[Entry]:
        """All entries of all kinds with a readable manifest, newest first."""
        kinds = sorted({p.parent.parent.name for p in self.root.glob(f"*/*/{MANIFEST}")} - {_SCRATCH})
        return sorted((e for kind in kinds for e in self.entries(kind)), key=lambda e: -e.manifest.created)

    def last_used(self, entry: Entry) -> float:
        """When a process last took it, or when it was made; seconds since the epoch."""
        try:
            taken = self._lock_path(entry.manifest.kind, entry.key, "use").stat().st_mtime
        except OSError:
            taken = 0.0
        return max(taken, entry.manifest.created)

    def remove(self, entry: Entry, *, not_since: float = float("inf")) -> int:
        """Delete an entry; give the bytes that became free.

        Args:
            not_since: Only where it was not taken since then; seconds since the epoch.

        Raises:
            InUse: it is being built, another process has taken it, or it was taken since.
        """
        kind, key = entry.manifest.kind, entry.key
        with self._alone(kind, key):
            if self.last_used(entry) > not_since:
                raise InUse(f"{kind}/{key} was just taken")
            if not entry.path.exists():
                return 0
            freed = disk_bytes([entry.path])
            gone = self.root / _SCRATCH / f"{kind}-{key}{_GONE}"
            gone.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(gone, ignore_errors=True)
            entry.path.rename(gone)  # whole or not at all, whenever this is cut short
            shutil.rmtree(gone)
            return freed

    def leftovers(self) -> list[Path]:
        """What killed builders and deletions left half made; what is at work just now too, see `clear`."""
        return sorted(p for p in (self.root / _SCRATCH).glob("*") if p.is_dir())

    def clear(self, leftover: Path) -> int:
        """Delete a leftover; give the bytes that became free. Raises `InUse` where somebody works on it."""
        kind, _, key = leftover.name.removesuffix(_GONE).rpartition("-")
        with self._alone(kind, key):
            freed = disk_bytes([leftover]) if leftover.exists() else 0
            shutil.rmtree(leftover, ignore_errors=True)
            return freed

    @contextmanager
    def _alone(self, kind: str, key: str) -> Generator[None]:
        """Hold both locks, or raise `InUse` at once. What this process itself has taken does not count."""
        held = _USED.pop((self.root, kind, key), None)
        if held is not None:
            os.close(held)
        with self._exclusive(kind, key, "lock"), self._exclusive(kind, key, "use"):
            yield

    @contextmanager
    def _exclusive(self, kind: str, key: str, lock: str) -> Generator[None]:
        fd = self._open_lock(kind, key, lock)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                by = "another builder works on it" if lock == "lock" else "another process uses it"
                raise InUse(f"{kind}/{key} can't be deleted now: {by}; try again once that has ended") from None
            yield
        finally:
            os.close(fd)

    def _take(self, kind: str, key: str) -> None:
        """Note that this process uses the entry, to its end. In a cache that can't be written nobody deletes either."""
        try:
            fd = _USED.get((self.root, kind, key))
            if fd is None:
                fd = os.open(self._lock_path(kind, key, "use"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(fd, fcntl.LOCK_SH)
                _USED[self.root, kind, key] = fd
            os.utime(fd)
        except OSError:
            return

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
        scratch_root = self.root / _SCRATCH
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
        fd = self._open_lock(kind, key, "lock")
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"{name}: another builder works on it; waiting for its result")
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self, kind: str, key: str, lock: str) -> int:
        path = self._lock_path(kind, key, lock)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ArtifactError(
                f"the cache folder {self.root} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a "
                "folder with room that you own"
            ) from error

    def _lock_path(self, kind: str, key: str, lock: str) -> Path:
        return self.root / "locks" / f"{kind}-{key}.{lock}"


def disk_bytes(folders: Iterable[Path]) -> int:
    """Bytes that deleting these folders together frees: a file that has a name elsewhere too frees nothing."""
    names: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            stat = path.lstat()
            if not path.is_dir() or path.is_symlink():
                names[stat.st_dev, stat.st_ino] += 1
                found[stat.st_dev, stat.st_ino] = stat
    return sum(s.st_blocks * 512 for at, s in found.items() if names[at] >= s.st_nlink)


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
