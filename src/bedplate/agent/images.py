"""The image cache of a disk pool: files named by their digest, there only once they are verified.

Fetched from the controller, resumed after a break, under a file lock so that agents on one shared pool fetch once.
Blocking; runs in a thread and ends soon after it is told to stop.
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
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from bedplate.agent.enrol import ControllerConnection
from bedplate.agent.faults import AgentFault
from bedplate.model.agent_protocol import BLOB_PATH
from bedplate.model.ids import Digest

CHUNK = 1024 * 1024
LOCK_POLL_SECONDS = 0.2
RESERVE_BYTES = 64 * 1024 * 1024
"""Kept free in a pool: running guests' disks grow too."""


class ImageCache:
    """The `images` folder of one pool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: Digest) -> Path:
        """Where the file lies or will lie."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise AgentFault("BadDigest", f"{digest!r} is not sha256:<64 hex digits>", permanent=True)
        return self.folder / value

    def has(self, digest: Digest) -> bool:
        """True where the verified file is there."""
        return self.path(digest).is_file()

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
        if target.is_file():
            return
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with _locked(target.with_name(f".{target.name}.lock"), stop):
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
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(LOCK_POLL_SECONDS):
                    raise AgentFault("ImageFetchFailed", "another agent is still fetching this image") from None
        yield
