"""Processes of a lab are found by the mark in their environment, also one that is just being started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bedplate.lab import processes


def test_a_process_within_its_exec_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent goes on before the kernel has put its environment where others can read it."""
    process = subprocess.Popen(["sleep", "1000"], env=processes.environment(tmp_path, "hv1"))
    read, looks = Path.read_bytes, [0]

    def not_yet(path: Path) -> bytes:
        if str(path) == f"/proc/{process.pid}/environ":
            looks[0] += 1
            if looks[0] < 3:
                return b""
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", not_yet)
    try:
        assert [p.pid for p in processes.marked(tmp_path)] == [process.pid]
        assert looks[0] >= 3
    finally:
        process.kill()
        process.wait()
    assert processes.marked(tmp_path) == []
