"""`bedplate get machines` from start to end, against a bare Python program that makes the same request over TLS; and
`bedplate get servers` for a large fleet, against the kubectl of a release in the cache.

Both are started in turn, pair by pair, so that a busy moment hits both; the median of the pairs' ratios decides.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from bedplate.cli import artifacts, context
from bedplate.cli.client import TABLE
from bench.report import Figure, seconds
from bench.serving import MACHINES

TIMES = 2.0
SERVERS, TIMES_OF_KUBECTL = 5_000, 1.5
PAIRS = 25
PATH = "/apis/bedplate.dev/v1alpha1/namespaces/default/machines?limit=500"
PRODUCT = (str(Path(sys.executable).with_name("bedplate")), "get")
BARE = Path(__file__).with_name("bare.py")


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    servers = SERVERS // 10 if small else SERVERS
    with tempfile.TemporaryDirectory(prefix="bedplate-bench-") as name:
        folder = Path(name)
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.serving", name, str(servers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            file = Path(server.stdout.readline().strip())
            pairs = 5 if small else PAIRS
            yield _machines(folder, file, pairs)
            kubectl = _kubectl()
            if kubectl:
                yield _servers(folder, file, kubectl, servers, pairs)
            else:
                print("kubectl is in no release of the cache: `bedplate get servers` is not compared")
        finally:
            server.communicate(timeout=30)


def _kubectl() -> str:
    """That of the newest release in the cache; empty: there is none."""
    found = artifacts.releases()
    return artifacts.release_paths(found[0].name)["kubectl"] if found else ""


def _machines(folder: Path, file: Path, pairs: int) -> Figure:
    found = context.load(file)
    authority = folder / "authority.pem"
    authority.write_text(found.ca)
    where = urlsplit(found.server)
    bare = [sys.executable, str(BARE), str(where.hostname), str(where.port), str(authority), PATH, TABLE]
    shown = _Shown("machines", MACHINES, "bare Python, same TLS request", TIMES)
    return _compared(shown, bare, _environment(folder, file), pairs)


def _servers(folder: Path, file: Path, kubectl: str, servers: int, pairs: int) -> Figure:
    peer = [kubectl, "--kubeconfig", str(file), "get", "servers.bedplate.dev"]
    shown = _Shown("servers", servers, "kubectl get servers", TIMES_OF_KUBECTL)
    return _compared(shown, peer, _environment(folder, file), pairs)


class _Shown(NamedTuple):
    """What is listed, and how long it may take of its peer's time."""

    kind: str
    count: int
    peer: str
    times: float


def _compared(shown: _Shown, peer: Sequence[str], environment: dict[str, str], pairs: int) -> Figure:
    ours, theirs, ratio = _in_turn([*PRODUCT, shown.kind], peer, environment, pairs, shown.count)
    return Figure(
        what=f"`bedplate get {shown.kind}` with {shown.count} {shown.kind}, start to end",
        measured=f"median {seconds(ours)}",
        reference=f"{shown.peer}: median {seconds(theirs)}",
        ratio=ratio,
        goal=f"{shown.times:g} times (median of {pairs} pairs)",
        limit=shown.times,
    )


def _environment(folder: Path, file: Path) -> dict[str, str]:
    return {
        **os.environ,
        "TOKEN": context.load(file).token,
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
        "BEDPLATE_CONFIG": str(file),
    }


def _in_turn(
    product: Sequence[str], peer: Sequence[str], environment: dict[str, str], pairs: int, rows: int
) -> tuple[float, float, float]:
    """The medians (seconds) of both and of the pairs' ratios."""
    _took(product, environment, rows)  # the kinds that the API serves are remembered from the first time on
    _took(peer, environment, rows)
    ours: list[float] = []
    theirs: list[float] = []
    for n in range(pairs):
        turns = ((ours, product), (theirs, peer))
        for kept, argv in turns if n % 2 else reversed(turns):
            kept.append(_took(argv, environment, rows))
    return median(ours), median(theirs), median(a / b for a, b in zip(ours, theirs, strict=True))


def _took(argv: Sequence[str], environment: dict[str, str], rows: int) -> float:
    began = time.perf_counter()
    shown = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
    took = time.perf_counter() - began
    lines = len(shown.splitlines())
    assert lines >= rows, f"{argv[0]} showed {lines} lines"
    return took
