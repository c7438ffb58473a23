"""The image cache of a disk pool: files named by their digest, there only once they are verified.

Fetched from the controller, resumed after a break, under a file lock so that agents on one shared pool fetch once.
Blocking; runs in a thread and ends soon after it is told to stop.

    <hex>              the file
    .<hex>.part        what was fetched of it so far
    .<hex>.lock        held by whoever fetches or deletes the file, and, shared, by whoever makes a disk that needs it
    .<hex>.for-<store> this store has asked for the file: only then, and where no other store has, it may delete it
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Set
from contextlib import contextmanager
from pathlib import Path

from bedplate.agent.enrol import ControllerConnection
from bedplate.agent.faults import AgentFault
from bedplate.model.agent_protocol import BLOB_PATH
from bedplate.model.ids import Digest, StoreId

CHUNK = 1024 * 1024
LOCK_POLL_SECONDS = 0.2
ABANDONED_SECONDS = 7 * 86_400.0
"""A fetch that nobody has gone on with for so long is not to be gone on with."""
RESERVE_BYTES = 64 * 1024 * 1024
"""Kept free in a pool: running guests' disks grow too."""


class ImageCache:
    """The `images` folder of one pool."""

    def __init__(self, folder: Path, store: StoreId = StoreId("")) -> None:
        self.folder = folder
        self._store = store

    def path(self, digest: Digest) -> Path:
        """Where the file lies or will lie."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise AgentFault("BadDigest", f"{digest!r} is not sha256:<64 hex digits>", permanent=True)
        return self.folder / value

    def has(self, digest: Digest) -> bool:
        """True where the verified file is there."""
        return self.path(digest).is_file()

    def claim(self, digest: Digest) -> bool:
        """Write down that this store wants the file; False where it is not there, or is just being fetched."""
        target = self.path(digest)
        if not target.is_file():
            return False
        with _shared(self._beside(target, "lock")) as held:
            if not held or not target.is_file():
                return False
            self._mark(target)
            return True

    @contextmanager
    def standing_on(self, digest: Digest) -> Generator[None]:
        """Keep the file from being deleted while a disk is made that stands on it.

        Raises:
            AgentFault: it is not there, or is just being deleted.
        """
        target = self.path(digest)
        with _shared(self._beside(target, "lock")) as held:
            if not held or not target.is_file():
                raise AgentFault("ImageMissing", f"image file {digest} has just gone: it is fetched again")
            yield

    def wanted(self, among: Iterable[Digest]) -> tuple[Digest, ...]:
        """Those of these files that this store has asked for."""
        return tuple(d for d in among if self._claim(self.path(d)).exists())

    def drop(self, digest: Digest, bases: Callable[[], Set[str]], stop: threading.Event) -> str:
        """Delete the file; give a message. Done where it is not there, or where another store has asked for it.

        Args:
            bases: reads what the pool's disks stand on; asked once no new one can be made.

        Raises:
            AgentFault: a disk stands on it, or this store never asked for it.
        """
        target = self.path(digest)
        if not self.folder.is_dir():
            return f"image file {digest} was not there"
        with _locked(self._beside(target, "lock"), stop):
            claim = self._claim(target)
            if not target.exists():
                claim.unlink(missing_ok=True)
                return f"image file {digest} was not there"
            if digest in bases():
                raise AgentFault("ImageInUse", f"a disk stands on image file {digest}: it stays")
            if not claim.exists():
                raise AgentFault("NotOurs", f"image file {digest} was not fetched by this store", permanent=True)
            if any(p != claim for p in self.folder.glob(f".{target.name}.for-*")):
                claim.unlink()
                return f"image file {digest} stays: another store has asked for it"
            # What proves that it is ours goes last, so that a crash between leaves nothing that nobody may delete.
            target.unlink()
            self._beside(target, "part").unlink(missing_ok=True)
            claim.unlink()
            return f"image file {digest} is deleted"

    def clear_parts(self) -> None:
        """Delete what was fetched of files that nobody has gone on fetching for long."""
        for part in self.folder.glob(".*.part"):
            with _shared(part.with_suffix(".lock")) as held:
                if held and part.exists() and part.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    part.unlink(missing_ok=True)

    def _beside(self, target: Path, what: str) -> Path:
        return target.with_name(f".{target.name}.{what}")

    def _claim(self, target: Path) -> Path:
        return self._beside(target, f"for-{self._store}")

    def _mark(self, target: Path) -> None:
        claim = self._claim(target)
        if self._store and not claim.exists():
            claim.touch(mode=0o644)

    def digests(self) -> tuple[Digest, ...]:
        """All verified files."""
        if not self.folder.is_dir():
            return ()
        names = sorted(p.name for p in self.folder.iterdir())
        return tuple(Digest(f"sha256:{n}") for n in names if len(n) == 64 and not n.startswith("."))

    def fetch(self, digest: Digest, connect: Callable[[], ControllerConnection], stop: threading.Event) -> None:
        """Have the file here, verified.

        Raises:
            AgentFault: it can't be had; the reason says why.
        """
        target = self.path(digest)
        if self.claim(digest):
            return
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        part = self._beside(target, "part")
        with _locked(self._beside(target, "lock"), stop):
            self._mark(target)  # first: what a crash leaves can then be deleted
            if target.is_file():  # the other agent fetched it while we waited
                return
            try:
                found = self._download(digest, part, connect, stop)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise AgentFault("DiskFull", f"no room for image {digest} in {self.folder}") from error
                # What was fetched stays: the next try goes on from there.
                raise AgentFault("ImageFetchFailed", f"image {digest} could not be fetched: {error}") from error
            if found != digest:
                part.unlink()
                raise AgentFault("ImageCorrupt", f"the controller's file for image {digest} is {found}: make it anew")
            part.chmod(0o644)
            os.replace(part, target)

    def _download(
        self, digest: Digest, part: Path, connect: Callable[[], ControllerConnection], stop: threading.Event
    ) -> str:
        sha = hashlib.sha256()
        with open(part, "ab+") as file:
            file.seek(0)
            while chunk := file.read(CHUNK):
                sha.update(chunk)
            have = file.tell()
            connection = connect()
            try:
                headers = {"Range": f"bytes={have}-"} if have else {}
                connection.request("GET", BLOB_PATH + digest, headers=headers)
                answer = connection.getresponse()
                if answer.status == 404:
                    raise AgentFault("ImageNotFound", f"the controller has no image file {digest}")
                if answer.status not in {200, 206}:
                    part.unlink()
                    raise AgentFault("ImageFetchFailed", f"the controller answered {answer.status} for image {digest}")
                size = int(answer.headers.get("Content-Length", "0"))
                self._check_room(size, digest)
                if _copy(answer, file, sha, stop) != size:
                    raise AgentFault("ImageFetchFailed", f"image {digest} broke off; it goes on from there")
                file.flush()
                os.fsync(file.fileno())
            except (http.client.HTTPException, ssl.SSLError) as error:
                raise AgentFault("ImageFetchFailed", f"image {digest} could not be fetched: {error}") from error
            finally:
                connection.close()
        return f"sha256:{sha.hexdigest()}"

    def _check_room(self, size: int, digest: Digest) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < size + RESERVE_BYTES:
            raise AgentFault(
                "DiskFull",
                f"image {digest} needs {size >> 20} MiB and {RESERVE_BYTES >> 20} MiB to spare in {self.folder}, "
                f"{free >> 20} MiB are free",
            )


def _copy(source: http.client.HTTPResponse, file: object, sha: object, stop: threading.Event) -> int:
    copied = 0
    while not stop.is_set():
        chunk = source.read(CHUNK)
        if not chunk:
            return copied
        file.write(chunk)  # type: ignore[attr-defined]
        sha.update(chunk)  # type: ignore[attr-defined]
        copied += len(chunk)
    raise AgentFault("ImageFetchFailed", "the fetch was stopped; it goes on from there at the next try")


@contextmanager
def _locked(path: Path, stop: threading.Event) -> Generator[None]:
    """Hold a lock that ends with the process that holds it."""
    with open(path, "a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(LOCK_POLL_SECONDS):
                    raise AgentFault("ImageFetchFailed", "another agent is still at this image") from None
        yield


@contextmanager
def _shared(path: Path) -> Generator[bool]:
    """Hold the lock together with others; False where somebody has it alone."""
    with open(path, "a+") as file:  # to read and to write: NFS asks for both
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
