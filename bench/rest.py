"""Controller and agent at rest: memory and CPU of `bedplate serve` with an empty fleet, and of an idle agent.

The peer is a bare Python process that has imported the same libraries and does nothing. The controller is on its second
start, as the first one makes the database's tables. The agent needs a libvirt daemon to be of use: here it waits for
one, with all of it loaded; one that is connected is measured in the lab.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from bedplate.cli import context
from bedplate.cli.client import Client
from bedplate.cli.errors import UserError
from bench.reference import cpu_seconds, memory, wall_loop
from bench.report import Figure, size

SETTLE_SECONDS = 5.0
WATCHED_SECONDS = 10.0
START_SECONDS = 60.0
SERVE_LIBRARIES = (
    "anyio, asyncio, cryptography.x509, httptools, httpx, msgspec, prometheus_client, sqlalchemy, ssl, "
    "starlette, structlog, uvicorn, websockets"
)
AGENT_LIBRARIES = "asyncio, cryptography.x509, libvirt, msgspec, ssl, websockets"


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    watched = 3.0 if small else WATCHED_SECONDS
    with tempfile.TemporaryDirectory(prefix="bedplate-bench-") as name:
        folder = Path(name)
        api, agents = _free_port(), _free_port()
        serve = ["serve", "--data", str(folder / "data"), "--listen", f"127.0.0.1:{api}"]
        for started in (1, 2):
            with _running(folder, [*serve, "--agents", f"127.0.0.1:{agents}"]) as controller:
                _wait_for(folder / "data" / "context", controller)
                if started == 2:
                    yield from _figures("`bedplate serve`, empty fleet", controller, SERVE_LIBRARIES, watched)
        agent = ["agent", "--state", str(folder / "agent"), "--libvirt", "test:///default", "--use", "tcg"]
        with _running(folder, agent) as waiting:
            yield from _figures("`bedplate agent`, waiting for a libvirt", waiting, AGENT_LIBRARIES, watched)


def _figures(what: str, process: subprocess.Popen[bytes], libraries: str, watched: float) -> Iterator[Figure]:
    time.sleep(SETTLE_SECONDS)
    began = cpu_seconds(process.pid)
    time.sleep(watched)
    used = cpu_seconds(process.pid) - began
    loop = wall_loop(0.2) / 0.2
    idle = [sys.executable, "-c", f"import sys, {libraries}; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(idle, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdout is not None
        peer.stdout.readline()
        bare = memory(peer.pid)
    assert process.poll() is None, f"it ended: {what}"
    ours = memory(process.pid)
    yield Figure(
        what=f"{what}: memory",
        measured=f"{size(ours)} RSS",
        reference=f"bare Python with the same libraries: {size(bare)} RSS",
        ratio=ours / bare,
    )
    yield Figure(
        what=f"{what}: CPU",
        measured=f"{used / watched * 100:.1f} % of a core over {watched:g} s",
        reference=f"1 % of a core; a reference second takes {loop:.2f} s",
        ratio=used / watched * 100,
    )


@contextlib.contextmanager
def _running(folder: Path, arguments: Sequence[str]) -> Generator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "bedplate.cli.main", *arguments]
    with (folder / f"{arguments[0]}.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    """Return once the controller with that context file answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(UserError):
            Client(context.load(file)).raw("GET", "/readyz")
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError("the controller does not answer")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
