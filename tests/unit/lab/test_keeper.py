"""A lab's folder: who holds its lock, and for how long."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bedplate.lab.keeper import Keeper


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """Of a lab in a folder whose path is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="bpl-") as folder:
        yield Keeper("l", Path(folder))


def is_locked(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@pytest.mark.parametrize("error", [FileNotFoundError("a file"), ValueError("a value"), KeyboardInterrupt()])
def test_whatever_goes_wrong_under_the_lock_is_told_and_the_lock_given_back(
    keeper: Keeper, error: BaseException
) -> None:
    def change() -> None:
        with keeper.locked(make=True) as there:
            assert there
            assert is_locked(keeper.folder)
            raise error

    with pytest.raises(type(error)) as told:
        change()
    assert told.value is error
    assert not is_locked(keeper.folder)


def test_who_waited_for_a_lab_that_was_removed_meanwhile_gets_the_new_one(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.folder.mkdir()
    flock, removed = fcntl.flock, []

    def while_waiting(handle: int, operation: int) -> None:
        if not removed:
            removed.append(keeper.folder)
            keeper.folder.rmdir()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", while_waiting)
    with keeper.locked() as there:
        assert not there
    removed.clear()
    with keeper.locked(make=True) as there:
        assert there
        assert keeper.folder.is_dir()
