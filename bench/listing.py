"""`bedplate get machines` from start to end, against a bare Python program that makes the same request over TLS.

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
from urllib.parse import urlsplit

from bedplate.cli import context
from bedplate.cli.client import TABLE
from bench.report import Figure, seconds
from bench.serving import MACHINES

TIMES = 2.0
PAIRS = 25
PATH = "/apis/bedplate.dev/v1alpha1/namespaces/default/machines?limit=500"
BARE = Path(__file__).with_name("bare.py")


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    with tempfile.TemporaryDirectory(prefix="bedplate-bench-") as name:
        folder = Path(name)
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.serving", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            file = Path(server.stdout.readline().strip())
            yield _compared(folder, file, 5 if small else PAIRS)
        finally:
            server.communicate(timeout=30)


def _compared(folder: Path, file: Path, pairs: int) -> Figure:
    found = context.load(file)
    authority = folder / "authority.pem"
    authority.write_text(found.ca)
    where = urlsplit(found.server)
    bare = [sys.executable, str(BARE), str(where.hostname), str(where.port), str(authority), PATH, TABLE]
    product = [str(Path(sys.executable).with_name("bedplate")), "get", "machines"]
    environment = {
        **os.environ,
        "TOKEN": found.token,
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
        "BEDPLATE_CONFIG": str(file),
    }
    _took(product, environment)  # the kinds that the API serves are remembered from the first time on
    _took(bare, environment)
    ours: list[float] = []
    theirs: list[float] = []
    for n in range(pairs):
        turns = ((ours, product), (theirs, bare))
        for kept, argv in turns if n % 2 else reversed(turns):
            kept.append(_took(argv, environment))
    return Figure(
        what=f"`bedplate get machines` with {MACHINES} machines, start to end",
        measured=f"median {seconds(median(ours))}",
        reference=f"bare Python, same TLS request: median {seconds(median(theirs))}",
        ratio=median(a / b for a, b in zip(ours, theirs, strict=True)),
        goal=f"{TIMES:g} times (median of {pairs} pairs)",
        limit=TIMES,
    )


def _took(argv: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    shown = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
    took = time.perf_counter() - began
    lines = len(shown.splitlines())
    assert lines >= MACHINES, f"{argv[0]} showed {lines} lines"
    return took
