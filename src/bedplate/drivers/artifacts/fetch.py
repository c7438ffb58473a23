"""Files over HTTP into a folder, by digest: streamed to disk, resumed after a break, tried again, checked.

A file lies there as `DIGEST.part` until it is whole, then as `DIGEST`, so that a run that fails or is killed costs
nothing that had arrived. May not: know what a release or an image is, or choose what to fetch.
"""

from __future__ import annotations

import fcntl
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from bedplate.drivers.artifacts.cache import sha256_file
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""Longest wait for the next bytes. A whole file has no limit: slow links are served too."""
DELAYS = (1.0, 2.0, 4.0)
"""Seconds before each further try: long enough for a balancer to notice a dead backend, short for who waits."""
LONGEST_DELAY = 30.0
"""A `Retry-After` of a busy host is followed up to so many seconds."""
KEEP_SECONDS = 14 * 24 * 3600.0
"""What nobody came back for after two weeks is deleted."""
_PASSING = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")


class _PassingError(Exception):
    """Worth another try, after at least so many seconds."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Fetcher:
    """Fetches into a folder. A context manager, and not for several threads.

    `remedy` ends the sentence of every failure; `pause` waits for some seconds. Proxies come from the environment,
    trust in certificates from the machine.
    """

    def __init__(
        self, folder: Path, *, remedy: str, progress: Progress = quiet, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._folder = folder
        self._remedy = remedy
        self._progress = progress
        self._pause = pause
        self._fetched: set[Path] = set()
        self._client = httpx.Client(
            # Compressed on the way, a file could not be resumed by its bytes.
            headers={"User-Agent": "bedplate", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            verify=ssl.create_default_context(),
            follow_redirects=True,
        )

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    @contextmanager
    def store(self) -> Generator[None]:
        """Hold the folder while files are fetched and used; one process at a time does.

        Once all went well the files are deleted; after an error they stay, for the next run to go on from.
        """
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress("another download is under way; waiting for its end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            oldest = time.time() - KEEP_SECONDS
            for file in self._folder.iterdir():
                if file.name != "lock" and file.stat().st_mtime < oldest:
                    file.unlink()
            yield
            for file in self._fetched:
                file.unlink(missing_ok=True)

    def get(
        self, url: str, label: str, *, headers: Mapping[str, str] | None = None, auth: httpx.Auth | None = None
    ) -> httpx.Response:
        """A small answer, whole in memory. `label` names it in messages. Raises `ArtifactError`."""

        def once() -> httpx.Response:
            response = self._client.get(url, headers=headers, auth=auth or httpx.USE_CLIENT_DEFAULT)
            self._judge(response, label)
            return response

        return self._persist(url, label, once)

    def file(
        self,
        url: str,
        sha256: str,
        label: str,
        *,
        size: int | None = None,
        headers: Mapping[str, str] | None = None,
        auth: httpx.Auth | None = None,
    ) -> Path:
        """The file with this digest (hex), fetched where the folder has not got it. `size` in bytes, where known.

        Only within `store`. Raises `ArtifactError`; of a file with another digest nothing is kept.
        """
        whole = self._folder / sha256
        part = self._folder / f"{sha256}.part"
        with self._writing():
            if whole.exists() and sha256_file(whole) != sha256:
                whole.unlink()
            old = part.exists()
            while not whole.exists():
                self._persist(url, label, lambda: self._append(url, part, label, size, headers or {}, auth))
                found = sha256_file(part)
                if found == sha256:
                    part.rename(whole)
                    break
                part.unlink()
                if not old:
                    raise ArtifactError(
                        f"{label} from {_host(url)} has the SHA-256 digest {found} instead of {sha256} and was thrown "
                        f"away; try again, and if that does not help, {self._remedy}"
                    )
                old = False  # what an earlier run had left may have been the fault
        self._fetched.add(whole)
        return whole

    def _append(
        self,
        url: str,
        part: Path,
        label: str,
        size: int | None,
        headers: Mapping[str, str],
        auth: httpx.Auth | None,
    ) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have and have == size:
            return
        wanted = {**headers, "Range": f"bytes={have}-"} if have else headers
        with self._client.stream("GET", url, headers=wanted, auth=auth or httpx.USE_CLIENT_DEFAULT) as response:
            if have and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # nothing is missing; the digest decides
            self._judge(response, label)
            resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            with part.open("ab" if have and resumed else "wb") as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
                    if size is not None and file.tell() > size:
                        return  # not that file, and perhaps without end
                if size is not None and file.tell() < size:
                    raise _PassingError(f"the answer ended after {file.tell()} of {size} bytes")

    def _judge(self, response: httpx.Response, label: str) -> None:
        if response.is_success:
            return
        said = f"{response.status_code} {response.reason_phrase}".strip()
        if response.status_code in _PASSING:
            asked = response.headers.get("Retry-After", "")
            raise _PassingError(f"it answered {said}", float(asked) if asked.isdecimal() else 0.0)
        where = response.url.copy_with(query=None)  # a signed address is as good as a password
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise ArtifactError(
                f"{label} is not at {where} (404): name a version that has been released, or a mirror that holds it"
            )
        raise ArtifactError(f"{label} cannot be had: {where} answered {said}; {self._remedy}")

    def _persist(self, url: str, label: str, once: Callable[[], T]) -> T:
        reason, host = "", _host(url)
        for delay in (*DELAYS, None):
            try:
                return once()
            except httpx.RequestError as error:
                reason, asked = str(error) or type(error).__name__, 0.0
                host = _host(error.request.url)  # of a chain of redirects the one that failed
            except _PassingError as error:
                reason, asked = str(error), error.seconds
            except httpx.InvalidURL as error:
                raise ArtifactError(
                    f"{label}: {host} named an address that is none ({error}); {self._remedy}"
                ) from error
            if delay is not None:
                seconds = min(max(delay, asked), LONGEST_DELAY)
                self._progress(f"{label} from {host}: {reason}; trying again in {seconds:.0f} s")
                self._pause(seconds)
        raise ArtifactError(f"{label} cannot be had from {host} ({reason}); {self._remedy}")

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(
                f"the folder {self._folder} cannot be written ({error.strerror}); make room there, or set "
                "XDG_CACHE_HOME to a folder with room that you own"
            ) from error


def _host(url: str | httpx.URL) -> str:
    return httpx.URL(url).netloc.decode()
