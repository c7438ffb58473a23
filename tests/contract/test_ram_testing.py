"""Tests of a bare server's parts, on loop devices: what they find, and that they leave disks as they were."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bare_disks import MIB, Loop, loops, short_folder

from bedplate.agent.ram import testing
from bedplate.agent.ram.devices import Device
from bedplate.agent.ram.testing import Effort
from bedplate.agent.ram.writing import Stopped
from bedplate.model.metal import ServerTest

pytestmark = [pytest.mark.lab]

LITTLE = Effort(
    cpu_seconds=0.2,
    memory_share=0.25,
    memory_limit=32 * MIB,
    disk_bytes=0,
    disk_reads=20,
    disk_writes=24,
    round_trips=2,
)


@pytest.fixture
def disks() -> Iterator[dict[str, Loop]]:
    folder = short_folder()
    try:
        with loops(folder, {"one": 64 * MIB, "two": 64 * MIB}) as made:
            yield made
    finally:
        shutil.rmtree(folder)


def outcome(devices: list[Device], *, stopped: bool = False) -> dict[str, ServerTest]:
    stop = threading.Event()
    if stopped:
        stop.set()
    seen: list[float] = []
    tester = testing.Tester("unix:/none", None, seen.append, stop, lambda: devices)
    found = tester.run(LITTLE)
    assert seen == sorted(seen)
    return {t.name: t for t in found}


def test_a_burn_in_writes_blank_disks_only_and_leaves_them_blank(
    disks: dict[str, Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, int]] = []
    real = testing.RawDisk.write
    monkeypatch.setattr(
        testing.RawDisk, "write", lambda raw, at, what: (written.append((raw.disk.serial, at)), real(raw, at, what))[1]
    )
    content = (b"no file system, and yet something " * MIB + bytes(64 * MIB))[: 64 * MIB]
    disks["two"].fill(content)
    found = outcome([d.device() for d in disks.values()])
    assert {n: t.verdict for n, t in found.items()} == dict.fromkeys(
        ("cpu", "memory", "disk one", "disk two", "network"), "passed"
    )
    assert len(written) > 10
    assert {serial for serial, _ in written} == {"one"}
    assert not any(disks["one"].content())
    assert disks["two"].content() == content


def test_a_disk_that_ends_before_its_size_has_failed(disks: dict[str, Loop]) -> None:
    os.truncate(disks["one"].file, 20 * MIB)
    found = outcome([d.device(size=64 * MIB) for d in disks.values()])
    assert found["disk one"].verdict == "failed"
    assert found["disk one"].detail
    assert found["disk two"].verdict == "passed"


def test_memory_that_does_not_keep_a_bit_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Weak(testing.mmap.mmap):  # type: ignore[name-defined]
        """Loses a bit of each write above 16 MiB."""

        def __setitem__(self, where: slice, content: bytes) -> None:  # type: ignore[override]
            if where.start >= 16 * MIB:
                content = bytes([content[0] ^ 4]) + content[1:]
            super().__setitem__(where, content)

    monkeypatch.setattr(testing.mmap, "mmap", Weak)
    found = outcome([])
    assert found["memory"].verdict == "failed"
    assert str(16 * MIB) in found["memory"].detail


def test_who_is_told_to_stop_stops() -> None:
    with pytest.raises(Stopped):
        outcome([], stopped=True)
