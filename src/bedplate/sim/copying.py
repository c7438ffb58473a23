"""A world that took long to bring to its beginning is used many times: each story is told in a copy of the process."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import selectors
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

import msgspec

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
"""As in linux/prctl.h."""


@contextmanager
def frozen() -> Generator[None]:
    """While it lasts, looking for garbage does not touch, and so copy, the memory that is shared with copies."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def in_a_copy(work: Callable[[], T], type_: type[T]) -> T | None:
    """Do the work in a child process that begins with this one's memory; None where it ended without a word."""
    return next(in_copies([work], type_, at_once=1))[1]


def in_copies(works: Iterable[Callable[[], T]], type_: type[T], *, at_once: int) -> Iterator[tuple[int, T | None]]:
    """Do each work in a copy of its own, so many at once. Results come as they end, with the work's position; None for
    one that ended without a word. The copies end with this process."""
    left = enumerate(works)
    with selectors.DefaultSelector() as waiting:

        def begin(count: int) -> None:
            for n, work in itertools.islice(left, count):
                answer, child = _begin(work)
                waiting.register(answer, selectors.EVENT_READ, (n, answer, child))

        begin(at_once)
        while waiting.get_map():
            for ready, _ in waiting.select():
                n, answer, child = ready.data
                waiting.unregister(answer)
                with answer:
                    told = answer.read()
                os.waitpid(child, 0)
                begin(1)
                yield n, msgspec.msgpack.decode(told, type=type_) if told else None


def _begin(work: Callable[[], object]) -> tuple[BinaryIO, int]:
    """Where the answer of a copy will be read, and its process."""
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            _end_with(parent)
            result = work()
            with os.fdopen(writing, "wb") as out:
                out.write(msgspec.msgpack.encode(result))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return os.fdopen(reading, "rb"), child


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)
