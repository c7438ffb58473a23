"""The lab's folder, its lock and its state: what every change of a lab goes through. Starts and ends no process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from bedplate.lab import config
from bedplate.lab.cgroups import Cgroups
from bedplate.lab.config import HypervisorState, LabState, MetalState
from bedplate.lab.errors import LabError

Progress = Callable[[str, str], None]
"""Told what happens: the part ("switch", "gateway", "hv1", ...) and a few words. Perhaps from another thread."""


def quiet(_part: str, _words: str) -> None:
    """Tell nobody."""


class Keeper:
    """One lab's folder. Changes take turns by a lock; whoever reads only needs none."""

    def __init__(self, name: str = "default", root: Path | None = None) -> None:
        config.check_name(name)
        self.name = name
        self.folder = (root or config.default_root()).absolute() / name
        config.check_folder(self.folder)
        self.cgroups = Cgroups(config.cgroup_name(self.folder, name))
        self._saving = threading.Lock()

    @contextlib.contextmanager
    def locked(self, make: bool = False) -> Generator[bool, None, None]:
        """Hold the lab's lock, which is on its folder itself, so that nothing stays. Gives whether it is there."""
        while True:
            if make:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if make:
                    continue
                yield False
                return
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if self._is(handle):
                    yield True
                    return
            finally:
                os.close(handle)

    def _is(self, handle: int) -> bool:
        """Whether that open folder is still the lab's, and not one that was removed while its lock was waited for."""
        try:
            return os.stat(self.folder).st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def changing(self) -> Generator[LabState, None, None]:
        """Hold the lock and give the state of a lab that exists."""
        with self.locked() as there:
            if not there:
                raise LabError(f"there is no lab {self.name!r}: `bedplate lab up` makes one")
            yield self.load()

    def load(self) -> LabState:
        """Read the state; LabError where there is no lab."""
        state = config.load(self.folder)
        if state is None:
            raise LabError(f"there is no lab {self.name!r}: `bedplate lab up` makes one")
        return state

    def save(self, state: LabState) -> None:
        """Write the state; before an effect, so that none is forgotten."""
        with self._saving:
            config.save(self.folder, state)

    def refuse_foreign(self) -> None:
        """Never take over or remove a folder that a lab did not make."""
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".state-")}
        if names and config.STATE_FILE not in names:
            raise LabError(f"{self.folder} holds files and is no lab: remove it by hand, or give the lab another name")


def find(state: LabState, name: str) -> HypervisorState:
    """One hypervisor of the lab; LabError where there is none of that name."""
    if name in state.servers:
        raise LabError(f"{name} is a bare server and no hypervisor: name one of {', '.join(state.hypervisors)}")
    if name not in state.hypervisors:
        raise LabError(f"there is no hypervisor {name!r} in the lab: it has {', '.join(state.hypervisors)}")
    return state.hypervisors[name]


def find_server(state: LabState, name: str) -> MetalState:
    """One bare server of the lab; LabError where there is none of that name."""
    if name not in state.servers:
        raise LabError(f"there is no bare server {name!r} in the lab: it has {', '.join(state.servers) or 'none'}")
    return state.servers[name]


@contextlib.contextmanager
def plainly() -> Generator[None, None, None]:
    """Turn what the host refuses into a sentence."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise LabError(
            f"the host refused what the lab needs: {error.strerror or error}{where}; mend it and call again, or remove"
            " the lab with `bedplate lab down`"
        ) from error
