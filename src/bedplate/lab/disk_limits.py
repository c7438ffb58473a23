"""A limit on how fast a hypervisor reads and writes its disk, by cgroups: v1's blkio throttle, or v2's `io.max`.

Only what goes to a block device is limited: direct I/O (as guests' disks have it), reads that no cache answers, and
what a program flushes itself. With v1 that leaves out what the kernel writes back by itself, later.
"""

from __future__ import annotations

import os
from pathlib import Path

from bedplate.lab.errors import LabError

V1_FILES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")


class DiskLimits:
    """The limits of one lab's hypervisors. `name`: the lab's cgroup."""

    def __init__(self, name: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
        self.name = name
        self.blkio = _blkio(mountinfo)

    def make(self, part: str) -> list[Path]:
        """Make the blkio group of a part; give the `cgroup.procs` files that its processes must join."""
        if self.blkio is None:
            return []  # v2: the group that the part has already
        group = self.blkio / self.name / part
        try:
            group.mkdir(parents=True, exist_ok=True)
        except OSError:
            return []  # read-only in a container
        return [group / "cgroup.procs"]

    def limit(self, part: str, device: str, rate: int, group: Path | None) -> None:
        """Limit a part to `rate` bytes a second, each way, on `device` (`MAJOR:MINOR`). `group`: its v2 group, if any.

        Raises LabError where this host has no means for it.
        """
        first = None if self.blkio is None else self.blkio / self.name / part
        try:
            if first is not None and (first / V1_FILES[0]).exists():
                for file in V1_FILES:
                    (first / file).write_text(f"{device} {rate}\n")
                return
            if group is not None and _delegate_io(group):
                (group / "io.max").write_text(f"{device} rbps={rate} wbps={rate}\n")
                return
        except OSError as error:
            raise LabError(f"the kernel refused to limit the disk {device}: {error.strerror}") from error
        raise LabError(
            "this host can't limit a disk's speed: it has neither cgroup v1's blkio throttle nor v2's io controller"
            " (in a container, start it with --privileged and the host's cgroups); take another fault"
        )

    def lift(self, part: str, group: Path | None) -> None:
        """Take the limits of a part away: what waited goes on at once."""
        if self.blkio is not None:
            for file in V1_FILES:
                path = self.blkio / self.name / part / file
                if path.exists():
                    for device in [line.split()[0] for line in path.read_text().splitlines() if ":" in line]:
                        path.write_text(f"{device} 0\n")
        if group is not None and (group / "io.max").exists():
            for device in [line.split()[0] for line in (group / "io.max").read_text().splitlines()]:
                (group / "io.max").write_text(f"{device} rbps=max wbps=max\n")

    def parts(self) -> list[str]:
        """Names of the parts that have a group here."""
        if self.blkio is None or not (self.blkio / self.name).is_dir():
            return []
        return [entry.name for entry in (self.blkio / self.name).iterdir() if entry.is_dir()]


def _delegate_io(group: Path) -> bool:
    """Let the io controller reach a v2 group; whether it does."""
    for parent in (group.parent.parent, group.parent):
        try:
            (parent / "cgroup.subtree_control").write_text("+io")
        except OSError:
            return False
    return (group / "io.max").exists()


def _blkio(mountinfo: Path) -> Path | None:
    """Where v1's blkio controller is mounted."""
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and "blkio" in options.split(","):
            return Path(left.split()[4])
    return None


def device_of(folder: Path, sys_block: Path = Path("/sys/dev/block")) -> str:
    """`MAJOR:MINOR` of the whole disk that a folder lies on; LabError where it lies on no block device."""
    number = os.stat(folder).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    entry = sys_block / device
    if os.major(number) == 0 or not entry.exists():
        raise LabError(
            f"{folder} lies on a file system without a disk of its own (memory, overlay, network, or several disks), so"
            " its speed can't be limited: put the lab elsewhere (XDG_STATE_HOME)"
        )
    if (entry / "partition").exists():
        return (entry.resolve().parent / "dev").read_text().strip()
    return device
