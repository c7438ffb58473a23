"""The watchdog: when it cuts the power, and how it reads its device."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.lab.watchdog import Device, Timer, drain, watch
from bedplate.model.leases import WATCHDOG


def test_it_lets_nobody_wait_who_never_fed_it() -> None:
    timer = Timer()
    assert timer.left(1e9) is None
    timer.take(b"V", 0.0)
    timer.closed()
    assert timer.left(1e9) is None


def test_the_first_byte_arms_and_each_other_puts_the_cut_off() -> None:
    timer = Timer()
    timer.take(b"\0", 100.0)
    assert timer.left(100.0) == WATCHDOG
    timer.take(b"\0", 110.0)
    assert timer.left(112.0) == WATCHDOG - 2
    assert timer.left(110.0 + WATCHDOG) == 0


def test_only_the_magic_byte_before_the_close_disarms() -> None:
    timer = Timer(10)
    timer.take(b"\0", 0.0)
    timer.closed()
    assert timer.left(10.0) == 0
    timer.take(b"V\0", 10.0)
    timer.closed()
    assert timer.left(20.0) == 0
    timer.take(b"\0", 20.0)
    timer.take(b"V", 25.0)
    assert timer.left(26.0) == 4, "the magic byte does not feed, and does nothing before the close"
    timer.closed()
    assert timer.left(1e9) is None
    timer.take(b"\0", 50.0)
    assert timer.left(55.0) == 5


events = st.lists(st.tuples(st.sampled_from([b"\0", b"V", b"\0V", b"V\0", b"close"]), st.floats(0, 5)), max_size=20)


@given(events)
def test_it_is_armed_exactly_since_the_last_disarming_close(script: list[tuple[bytes, float]]) -> None:
    """Against the rule told over the whole history: the last feeding after the last close that followed a `V`."""
    timer, now = Timer(), 0.0
    fed: float | None = None
    last = b""
    for event, later in script:
        now += later
        if event == b"close":
            timer.closed()
            fed, last = (None if last == b"V" else fed), b""
        else:
            timer.take(event, now)
            fed, last = (now if event != b"V" else fed), event[-1:]
        left = timer.left(now)
        assert (left is None) == (fed is None)
        if left is not None and fed is not None:
            assert left == max(fed + WATCHDOG - now, 0.0)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Device, Path]]:
    """The FIFO as a hypervisor has it, and its path."""
    path = tmp_path / "watchdog"
    os.mkfifo(path)
    made = Device(str(path))
    yield made, path
    os.close(made.handle)


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process in the server's stead, and its handle."""
    process = subprocess.Popen(["sleep", "1000"])
    handle = os.pidfd_open(process.pid)
    yield process, handle
    process.kill()
    process.wait()
    os.close(handle)


def test_unfed_for_too_long_asks_for_the_cut(
    device: tuple[Device, Path], server: tuple[subprocess.Popen[bytes], int]
) -> None:
    with device[1].open("wb", buffering=0) as writer:
        writer.write(b"\0")
        begun = time.monotonic()
        assert watch(device[0], Timer(0.1), server[1])
        assert time.monotonic() - begun >= 0.1


def test_a_writer_that_died_is_unfed_and_one_that_said_goodbye_is_not(
    device: tuple[Device, Path], server: tuple[subprocess.Popen[bytes], int]
) -> None:
    with device[1].open("wb", buffering=0) as writer:
        writer.write(b"\0")
    assert watch(device[0], Timer(0.1), server[1])
    timer = Timer(0.1)
    with device[1].open("wb", buffering=0) as writer:
        writer.write(b"\0V")
    drain(device[0], timer)
    assert not timer.armed
    server[0].kill()
    assert not watch(device[0], timer, server[1]), "it ends with the server"


def test_a_close_is_told_once_and_the_device_takes_the_next_writer(device: tuple[Device, Path]) -> None:
    timer = Timer()
    for _ in range(3):
        with device[1].open("wb", buffering=0) as writer:
            writer.write(b"\0")
            drain(device[0], timer)
            assert timer.armed
            writer.write(b"V")
        drain(device[0], timer)
        assert not timer.armed
