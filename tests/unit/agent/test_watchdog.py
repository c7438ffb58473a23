"""The watchdog: what is accepted, what it is given, how it is let go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bedplate.agent import watchdog
from bedplate.agent.watchdog import GET_TIMEOUT, LEAST, SET_TIMEOUT, Watchdog, choose
from bedplate.model.leases import WATCHDOG


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "dog"
    os.mkfifo(path)
    return path


def reader(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def test_a_fifo_is_fed_and_let_go(fifo: Path) -> None:
    end = reader(fifo)
    dog = Watchdog(str(fifo))
    assert (dog.arm(), dog.armed, dog.error) == (True, True, "")
    assert os.read(end, 100) == b"1"
    assert dog.arm()  # once is enough
    dog.feed()
    dog.feed()
    assert os.read(end, 100) == b"11"
    dog.disarm()
    assert os.read(end, 100) == b"V"
    assert not dog.armed
    dog.feed()
    dog.disarm()
    assert os.read(end, 100) == b""
    os.close(end)


def test_one_that_is_left_gets_no_last_word(fifo: Path) -> None:
    end = reader(fifo)
    dog = Watchdog(str(fifo))
    dog.arm()
    dog.leave()
    assert os.read(end, 100) == b"1"
    os.close(end)


def test_a_fifo_that_nobody_reads_is_no_watchdog(fifo: Path) -> None:
    dog = Watchdog(str(fifo))
    assert not dog.arm()
    assert str(fifo) in dog.error
    end = reader(fifo)
    assert (dog.arm(), dog.error) == (True, "")
    os.close(end)
    dog.feed()
    assert (dog.armed, "can't be fed" in dog.error) == (False, True)


def test_a_reader_that_is_slow_holds_nobody_up(fifo: Path) -> None:
    end = reader(fifo)
    dog = Watchdog(str(fifo))
    dog.arm()
    for _ in range(70_000):  # more than a FIFO holds
        dog.feed()
    assert dog.armed
    os.close(end)


class Device:
    """`/dev/null` as a device whose time is what it likes."""

    def __init__(self, seconds: int, *, fixed: bool = False) -> None:
        self.seconds = seconds
        self.fixed = fixed
        self.asked: list[int] = []

    def control(self, _device: int, request: int, value: int) -> int:
        self.asked.append(request)
        if request == SET_TIMEOUT:
            if self.fixed:
                raise OSError(22, "it can't be set")
            self.seconds = min(self.seconds, value) if value else self.seconds
        return self.seconds


@pytest.mark.parametrize(("device", "takes"), [
    (Device(60), True),
    (Device(10), True),
    (Device(10, fixed=True), True),
    (Device(60, fixed=True), False),
    (Device(3, fixed=True), False),
])  # fmt: skip
def test_a_device_must_be_fast_enough_and_not_too_fast(device: Device, takes: bool) -> None:
    dog = Watchdog("/dev/null", device.control)
    assert dog.arm() == takes
    assert device.asked == [SET_TIMEOUT, GET_TIMEOUT]
    if not takes:
        assert f"{device.seconds} s" in dog.error
        assert "use another device" in dog.error
    dog.disarm()


def test_what_does_not_tell_its_time_is_refused() -> None:
    def control(_device: int, _request: int, _value: int) -> int:
        raise OSError(25, "not a typewriter")

    dog = Watchdog("/dev/null", control)
    assert not dog.arm()
    assert "does not tell its time" in dog.error


def test_a_refused_device_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda _device, data: written.append(data) or len(data))
    Watchdog("/dev/null", Device(60, fixed=True).control).arm()
    assert written == [b"V"]


def test_a_plain_file_is_no_watchdog(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    dog = Watchdog(str(path))
    assert not dog.arm()
    assert "neither a device nor a FIFO" in dog.error


def test_the_option_names_a_path_or_none_or_the_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert choose("") == ""
    assert choose("/dev/watchdog1") == "/dev/watchdog1"
    monkeypatch.setattr(watchdog, "DEFAULT", str(tmp_path / "absent"))
    assert choose("auto") == ""
    (tmp_path / "absent").touch()
    assert choose("auto") == str(tmp_path / "absent")
    assert not Watchdog("").arm()
    assert LEAST < WATCHDOG
