"""A cgroup for each hypervisor, by which it can be frozen as a hung host is, and its disk limited. A lab without
cgroups works too.

cgroup v2 wherever it is mounted (alone, or beside v1), else the v1 freezer, else nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from bedplate.lab.disk_limits import DiskLimits
from bedplate.lab.errors import LabError

SETTLE_LIMIT = 5.0
"""Seconds for the kernel to freeze, thaw or empty a group; it takes milliseconds."""


class Cgroups:
    """The groups of one lab."""

    def __init__(self, name: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
        self.roots = _roots(mountinfo)
        self.name = name
        self.disks = DiskLimits(name, mountinfo)

    def _group(self, part: str) -> Path | None:
        for root, _ in self.roots:
            group = root / self.name / part
            if group.is_dir():
                return group
        return None

    def make(self, part: str) -> list[Path]:
        """Make the groups of a part; give the `cgroup.procs` files its first process must join (none: no cgroups)."""
        disks = self.disks.make(part)
        for root, _ in self.roots:
            group = root / self.name / part
            try:
                group.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue  # read-only in a container: try the next, or do without
            return [group / "cgroup.procs", *disks]
        return disks

    def procs(self, part: str) -> list[Path]:
        """The files through which a process joins the groups of a part."""
        group = self._group(part)
        disks = [] if self.disks.blkio is None else [self.disks.blkio / self.name / part / "cgroup.procs"]
        found = disks if group is None else [group / "cgroup.procs", *disks]
        return [path for path in found if path.exists()]

    def limit_disk(self, part: str, device: str, rate: int) -> None:
        """Limit a part's disk to `rate` bytes a second; LabError where this host can't."""
        self.disks.limit(part, device, rate, self._group(part))

    def lift_disk(self, part: str) -> None:
        """Take the limit of a part's disk away: what waited for it goes on, or can be ended."""
        self.disks.lift(part, self._group(part))

    def frozen(self, part: str) -> bool:
        """Whether the part is frozen."""
        group = self._group(part)
        if group is None:
            return False
        try:
            if (group / "cgroup.freeze").exists():
                return (group / "cgroup.freeze").read_text().strip() == "1"
            return (group / "freezer.state").read_text().strip() != "THAWED"
        except OSError:
            return False

    def freeze(self, part: str, on: bool) -> bool:
        """Freeze or thaw; return when it is so. False when there is no cgroup to do it with."""
        group = self._group(part)
        if group is None:
            return False
        if (group / "cgroup.freeze").exists():
            (group / "cgroup.freeze").write_text("1" if on else "0")
            wanted = f"frozen {int(on)}"
            _until(lambda: wanted in (group / "cgroup.events").read_text().splitlines(), part)
        else:
            state = "FROZEN" if on else "THAWED"
            (group / "freezer.state").write_text(state)
            _until(lambda: (group / "freezer.state").read_text().strip() == state, part)
        return True

    def release(self) -> None:
        """Thaw all groups of the lab and lift their disks' limits, without waiting: both hold even what was killed."""
        tops = [root / self.name for root, _ in self.roots]
        for part in {*self.disks.parts(), *(group.name for top in tops for group in top.glob("*/"))}:
            self.lift_disk(part)
        for root, _ in self.roots:
            for file in ((root / self.name).glob("*/cgroup.freeze"), (root / self.name).glob("*/freezer.state")):
                for path in file:
                    path.write_text("0" if path.name == "cgroup.freeze" else "THAWED")

    def remove(self, part: str = "") -> None:
        """Remove the group of a part, or all of the lab's; its processes must have ended."""
        roots = [root for root, _ in self.roots]
        for root in roots if self.disks.blkio is None else [*roots, self.disks.blkio]:
            top = root / self.name / part if part else root / self.name
            if not top.is_dir():
                continue
            for folder, _, _ in os.walk(top, topdown=False):
                _remove_group(Path(folder))


def _remove_group(group: Path) -> None:
    """rmdir, again while the kernel still counts ended processes in it."""
    deadline = time.monotonic() + SETTLE_LIMIT
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                pids = ", ".join((group / "cgroup.procs").read_text().split())
                raise LabError(f"the cgroup {group} cannot be removed ({error.strerror}); in it: {pids}") from None
        time.sleep(0.01)


def _until(true: Callable[[], bool], part: str) -> None:
    """Wait until the kernel says that it is done."""
    deadline = time.monotonic() + SETTLE_LIMIT
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"the kernel did not freeze or thaw {part} within {SETTLE_LIMIT:.0f} s: call it again")
        time.sleep(0.005)


def _roots(mountinfo: Path) -> list[tuple[Path, str]]:
    """Where groups that can freeze can be made: v2 first, then the v1 freezer."""
    second: list[tuple[Path, str]] = []
    first: list[tuple[Path, str]] = []
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        left, _, right = line.partition(" - ")
        target = Path(left.split()[4])
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            second.append((target, "v2"))
        elif kind == "cgroup" and "freezer" in options.split(","):
            first.append((target, "v1"))
    return second + first
