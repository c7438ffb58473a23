"""A world that took long to bring to its beginning is used many times: each story is told in a copy of the process."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

T = TypeVar("T")


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
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            result = work()
            with os.fdopen(writing, "wb") as out:
                out.write(msgspec.msgpack.encode(result))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return msgspec.msgpack.decode(told, type=type_) if told else None
