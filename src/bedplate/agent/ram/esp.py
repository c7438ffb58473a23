"""Files on a disk's EFI system partition, without mounting it: the machine's credentials and the marker.

Blocking. A content never goes through a file or a command line.
"""

from __future__ import annotations

import contextlib
import os
import subprocess

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import TOOL_SECONDS, Device
from bedplate.agent.ram.gpt import EFI_SYSTEM, partitions
from bedplate.model.metal import Written
from bedplate.model.metal_protocol import MARKER_PATH

CREDENTIALS = "loader/credentials"
"""From here systemd's boot stub hands files that end in `.cred` to the system that it starts."""
_ENVIRONMENT = {"MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C"}


class Esp:
    """An EFI system partition, `start` bytes into the device at `path`. `name`: of it or its disk, for people."""

    def __init__(self, path: str, name: str, start: int = 0) -> None:
        self._path = path
        self._name = name
        self._image = f"{path}@@{start}"

    def write(self, path: str, content: bytes) -> None:
        """Write a file, replacing what was there; on the disk and read back when this returns. Raises `AgentFault`."""
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "::/" + "/".join(parts[:depth])
            if self._call("mdir", "-b", "-i", self._image, folder).returncode != 0:
                self._must("making a folder", self._call("mmd", "-i", self._image, folder))
        self._must(f"writing {path}", self._call("mcopy", "-o", "-i", self._image, "-", f"::/{path}", stdin=content))
        self._settle()
        if self.read(path) != content:
            raise AgentFault("EfiPartitionFailed", f"{path} reads back wrong from {self._name}")

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is none."""
        done = self._call("mtype", "-i", self._image, f"::/{path}")
        return done.stdout if done.returncode == 0 else None

    def remove(self, path: str) -> bool:
        """Remove a file; False: there was none. Raises `AgentFault`."""
        there = self.read(path) is not None
        if there:
            self._must(f"removing {path}", self._call("mdel", "-i", self._image, f"::/{path}"))
            self._settle()
        return there

    def _settle(self) -> None:
        """All on the disk, nothing of it from memory any more."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def _call(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                env={**os.environ, **_ENVIRONMENT},
                timeout=TOOL_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise AgentFault("ToolMissing", f"{argv[0]} is missing in this system", permanent=True) from error
        except subprocess.TimeoutExpired as error:
            raise AgentFault("ToolHung", f"{argv[0]} did not end within {TOOL_SECONDS:.0f} s") from error

    def _must(self, what: str, done: subprocess.CompletedProcess[bytes]) -> None:
        if done.returncode != 0:
            said = "; ".join(done.stderr.decode(errors="replace").split("\n")).strip("; ") or "nothing was said"
            raise AgentFault("EfiPartitionFailed", f"{what} on {self._name} failed: {said}")


def esp_of(disk: Device) -> Esp:
    """The EFI system partition of a disk. Raises `AgentFault` where it has none."""
    fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = [p for p in partitions(fd, disk.size) if p.type == EFI_SYSTEM]
    finally:
        os.close(fd)
    if not found:
        message = f"disk {disk.serial} ({disk.name}) has no EFI system partition: its image can't boot bare metal"
        raise AgentFault("NoEfiPartition", message, permanent=True)
    return Esp(disk.path, f"disk {disk.serial}", found[0].start)


def marker(disk: Device) -> Written | None:
    """What the disk's marker says was written to it; None where there is none that is whole."""
    with contextlib.suppress(AgentFault, OSError, msgspec.MsgspecError):
        content = esp_of(disk).read(MARKER_PATH)
        said = msgspec.json.decode(content, type=Written) if content else None
        return said if said is not None and said.serial == disk.serial else None
    return None
