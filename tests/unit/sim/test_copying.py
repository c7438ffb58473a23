"""Copies of a process: each does its work, some at once, and none outlives whom it was made for."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable

from bedplate.sim import copying


def number(n: int) -> Callable[[], int]:
    return lambda: n


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it was killed")


def test_every_work_is_done_whatever_ends_first() -> None:
    works = [number(n * n) for n in range(9)]
    assert dict(copying.in_copies(works, int, at_once=4)) == {n: n * n for n in range(9)}


def test_one_that_is_killed_is_told_apart_and_the_others_go_on() -> None:
    assert dict(copying.in_copies([number(1), die, number(3)], int, at_once=2)) == {0: 1, 1: None, 2: 3}


def test_so_many_are_at_work_at_once() -> None:
    """Both wait for each other: neither could end alone."""
    meeting = multiprocessing.get_context("fork").Barrier(2)
    assert dict(copying.in_copies([meeting.wait, meeting.wait], int, at_once=2)).keys() == {0, 1}


def test_copies_end_with_their_process() -> None:
    reading, writing = os.pipe()

    def never_ends() -> int:
        os.write(writing, b"begun")
        signal.pause()
        return 0

    parent = multiprocessing.get_context("fork").Process(
        target=lambda: list(copying.in_copies([never_ends, never_ends], int, at_once=2))
    )
    parent.start()
    os.close(writing)
    told = b""
    while len(told) < 2 * len(b"begun"):
        told += os.read(reading, 100)
    parent.kill()
    parent.join()
    assert os.read(reading, 1) == b""  # it ends when nobody is left who could write
    os.close(reading)
