"""Python packages for the builders, from the package index that this machine's uv or pip is set to.

May not: resolve versions; the callers name exact ones.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bedplate.drivers.artifacts.proc import run


def install(target: Path, wanted: Sequence[str], *, what: str, python: str = "") -> None:
    """Install requirements into a folder, without what they depend on.

    Args:
        target: The folder.
        wanted: Requirements, or options of both uv and pip that name some.
        what: What is done, for messages.
        python: Version of another Python on amd64 Linux that is to run them, as `3.13`; empty: this one.
    """
    words = ["--no-deps", "--target", str(target), *wanted]
    if python:
        words += ["--python-version", python, "--only-binary", ":all:"]
    beside = Path(sys.executable).with_name("uv")
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is not None:
        platform = ["--python-platform", "x86_64-manylinux_2_28"] if python else ["--python", sys.executable]
        run([uv, "pip", "install", *platform, *words], what=what)
    else:
        platform = ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_17_x86_64"] if python else []
        run([sys.executable, "-m", "pip", "install", "--no-compile", *platform, *words], what=what)
