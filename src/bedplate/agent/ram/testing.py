"""Tests a bare server: its processors, a part of its memory, its disks, its way to the controller.

A disk that holds something is only read; in the burn-in one that is blank is written here and there and made blank
again. What is judged here is whether a part works at all; whether it is slower than its like in the fleet is for the
controller, which sees them all, to say (`ServerTest.value` is what it compares). Blocking.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from bedplate.agent.enrol import split_address
from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import Device, devices, signatures, writable
from bedplate.agent.ram.raw_disk import RawDisk, aligned
from bedplate.agent.ram.reach import RoundTrips, round_trips
from bedplate.agent.ram.writing import Stopped
from bedplate.model.metal import NetworkCard, ServerTest, Suite

MIB = 1 << 20
PATTERNS = (0x00, 0xFF, 0x55, 0xAA)
"""Each cell of memory holds either value, and its neighbours the other one."""
LATE_SECONDS = 1.0
"""A single read of a disk that takes longer is a fault: a tenth of it is long for a rotating one."""


class Effort(msgspec.Struct, frozen=True):
    """How much a suite does."""

    cpu_seconds: float
    memory_share: float
    """Of the memory that is free."""
    memory_limit: int
    """Bytes at most."""
    disk_bytes: int
    """Read in one piece from each disk; 0: all of it."""
    disk_reads: int
    """Single reads at chance places."""
    disk_writes: int
    """Places of a blank disk that are written."""
    round_trips: int


EFFORTS: dict[Suite, Effort] = {
    "quick": Effort(3.0, 0.25, 2048 * MIB, 256 * MIB, 200, 0, 10),
    "burn-in": Effort(600.0, 0.8, sys.maxsize, 0, 20000, 256, 300),
}


class Tester:
    """Runs a suite.

    Args:
        controller: Its address, for the network.
        card: The interface by which it is reached, if that is known.
        progress: Is told how far it is, 0 to 1.
        stop: Set from outside to have it end soon.
        look: Gives the server's disks.
    """

    def __init__(
        self,
        controller: str,
        card: NetworkCard | None,
        progress: Callable[[float], None],
        stop: threading.Event,
        look: Callable[[], list[Device]] = devices,
    ) -> None:
        self._controller = controller
        self._card = card
        self._progress = progress
        self._stop = stop
        self._look = look

    def run(self, effort: Effort) -> tuple[ServerTest, ...]:
        """All tests; one that can't be run has failed.

        Raises:
            AgentFault: the disks can't be listed.
            Stopped: told to end.
        """
        found = self._look()
        parts = 3 + len(found)
        tests = [self._cpu(effort)]
        self._progress(1 / parts)
        tests.append(self._memory(effort))
        self._progress(2 / parts)
        for number, disk in enumerate(found):
            tests.append(self._disk(disk, found, effort))
            self._progress((3 + number) / parts)
        tests.append(self._network(effort))
        self._progress(1.0)
        return tuple(tests)

    # --- processors -----------------------------------------------------------------------------------------------

    def _cpu(self, effort: Effort) -> ServerTest:
        """All threads count digests at once; each that comes to another result than the others is at fault."""
        count = os.cpu_count() or 1
        argv = [sys.executable, "-c", _CPU_LOOP, str(effort.cpu_seconds)]
        children = [subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) for _ in range(count)]
        try:
            said = [self._ended(child, effort.cpu_seconds) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
        rounds = [int(s.split()[0]) for s in said if s]
        wrong = sum(1 for s in said if not s or s.split()[1] != "right")
        detail = f"{wrong} of {count} threads counted wrong or ended" if wrong else ""
        return ServerTest(
            name="cpu",
            verdict="failed" if wrong else "passed",
            value=round(sum(rounds) * _CPU_ROUND / MIB / effort.cpu_seconds, 1),
            unit="MiB/s of SHA-256",
            detail=detail,
        )

    def _ended(self, child: subprocess.Popen[bytes], seconds: float) -> str:
        end = time.monotonic() + 4 * seconds + 60
        while time.monotonic() < end:
            self._check()
            try:
                out, _ = child.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            return out.decode() if child.returncode == 0 else ""
        return ""

    # --- memory ---------------------------------------------------------------------------------------------------

    def _memory(self, effort: Effort) -> ServerTest:
        """Fill a part of the memory with patterns and its own addresses, and read it back."""
        size = min(effort.memory_limit, int(_available() * effort.memory_share)) // (16 * MIB) * (16 * MIB)
        if size <= 0:
            return ServerTest(name="memory", verdict="failed", detail="no memory is free to be tested")
        began = time.monotonic()
        with mmap.mmap(-1, size) as memory:
            for pattern in (*PATTERNS, None):
                wrong = self._pattern(memory, size, pattern)
                if wrong >= 0:
                    what = "its address" if pattern is None else f"0x{pattern:02x}"
                    detail = f"{what} was read back otherwise, {wrong} bytes into {size // MIB} MiB"
                    return ServerTest(name="memory", verdict="failed", detail=detail)
        rate = 2 * (len(PATTERNS) + 1) * size / MIB / (time.monotonic() - began)
        return ServerTest(
            name="memory", verdict="passed", value=round(rate, 1), unit="MiB/s", detail=f"{size // MIB} MiB were tested"
        )

    def _pattern(self, memory: mmap.mmap, size: int, pattern: int | None) -> int:
        """Where it is wrong; -1: nowhere."""
        for offset in range(0, size, MIB):
            self._check()
            memory[offset : offset + MIB] = _block(pattern, offset)
        for offset in range(0, size, MIB):
            self._check()
            if memory[offset : offset + MIB] != _block(pattern, offset):
                return offset
        return -1

    # --- disks ----------------------------------------------------------------------------------------------------

    def _disk(self, disk: Device, found: Sequence[Device], effort: Effort) -> ServerTest:
        name = f"disk {disk.serial or disk.name}"
        if disk.used:
            return ServerTest(name=name, verdict="passed", detail=f"not tested: {disk.used}")
        try:
            if effort.disk_writes and self._blank(disk, found):
                self._write_here_and_there(disk, effort.disk_writes)
            raw = RawDisk(disk, write=False)
            try:
                rate = self._read_through(raw, effort.disk_bytes)
                times = self._single_reads(raw, effort.disk_reads)
            finally:
                raw.close()
        except (OSError, AgentFault) as error:
            return ServerTest(name=name, verdict="failed", detail=str(error))
        worst, middle = times[-1], times[len(times) // 2]
        late = f"one read took {worst:.1f} s; " if worst > LATE_SECONDS else ""
        return ServerTest(
            name=name,
            verdict="failed" if late else "passed",
            value=round(rate, 1),
            unit="MiB/s",
            detail=f"{late}single reads: {middle * 1000:.2f} ms in the middle, {worst * 1000:.1f} ms at worst",
        )

    def _read_through(self, raw: RawDisk, size: int) -> float:
        """MiB a second of reading in one piece."""
        memory = memoryview(aligned(4 * MIB))
        end = min(size or raw.disk.size, raw.disk.size)
        began, done = time.monotonic(), 0
        while done < end:
            self._check()
            got = raw.read(done, memory[: min(4 * MIB, end - done)])
            if not got:
                raise AgentFault("ReadFailed", f"it ends at byte {done}, before its size of {raw.disk.size}")
            done += got
        return done / MIB / max(1e-9, time.monotonic() - began)

    def _single_reads(self, raw: RawDisk, count: int) -> list[float]:
        """Seconds of each read of 4 KiB, sorted."""
        memory = memoryview(aligned(4096))
        times: list[float] = []
        for _ in range(count):
            self._check()
            offset = random.randrange(max(1, raw.disk.size // 4096)) * 4096
            began = time.monotonic()
            raw.read(offset, memory[: min(4096, raw.disk.size - offset)])
            times.append(time.monotonic() - began)
        return sorted(times)

    def _blank(self, disk: Device, found: Sequence[Device]) -> bool:
        try:
            writable(disk.serial, found)
        except AgentFault:
            return False
        return not signatures(disk)

    def _write_here_and_there(self, disk: Device, count: int) -> None:
        """Write, read back and make zero again, where all that is looked at is zero; else nothing is written."""
        raw = RawDisk(disk)
        memory, zero = memoryview(aligned(MIB)), bytes(MIB)
        places = [random.randrange(disk.size // MIB) * MIB for _ in range(count)] if disk.size >= MIB else []
        try:
            for offset in places:
                self._check()
                if raw.read(offset, memory) != MIB or memory.tobytes() != zero:
                    return  # no signature, and yet something is there
            for offset in places:
                self._check()
                content = os.urandom(MIB)
                memory[:] = content
                try:
                    raw.write(offset, memory)
                    raw.flush()
                    memory[:] = zero
                    raw.read(offset, memory)
                    if memory.tobytes() != content:
                        raise AgentFault("ReadBackFailed", f"byte {offset} gives back something else than was written")
                finally:
                    raw.zero(offset, offset + MIB, lambda: None)
            raw.flush()
        finally:
            raw.close()

    # --- network --------------------------------------------------------------------------------------------------

    def _network(self, effort: Effort) -> ServerTest:
        """Connect to the controller again and again."""
        name = f"network {self._card.mac}" if self._card is not None else "network"
        if self._controller.startswith("unix:"):
            return ServerTest(name=name, verdict="passed", detail="the controller is on this machine")
        times = round_trips(*split_address(self._controller), effort.round_trips, self._check)
        return judged(name, times)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def judged(name: str, times: RoundTrips) -> ServerTest:
    """A connection that fails once in ten times is no way to run a node over."""
    tries = times.failed + len(times.seconds)
    middle = times.seconds[len(times.seconds) // 2] if times.seconds else 0.0
    return ServerTest(
        name=name,
        verdict="failed" if 10 * times.failed >= tries else "passed",
        value=round(middle * 1000, 3),
        unit="ms to connect",
        detail=f"{times.failed} of {tries} connections to the controller failed" if times.failed else "",
    )


_CPU_ROUND = 64 * 1024
"""Bytes of one digest."""
_CPU_BLOCK = bytes(range(256)) * (_CPU_ROUND // 256)
_CPU_LOOP = f"""
import hashlib, sys, time
block, end, rounds, same = bytes(range(256)) * {_CPU_ROUND // 256}, time.monotonic() + float(sys.argv[1]), 0, True
while time.monotonic() < end:
    same = same and hashlib.sha256(block).hexdigest() == "{hashlib.sha256(_CPU_BLOCK).hexdigest()}"
    rounds += 1
print(rounds, "right" if same else "wrong")
"""


def _block(pattern: int | None, offset: int) -> bytes:
    """What a MiB at this place is to hold: one value, or what only this place has."""
    if pattern is not None:
        return bytes([pattern]) * MIB
    return hashlib.sha256(offset.to_bytes(8, "big")).digest() * (MIB // 32)


def _available() -> int:
    """Bytes of memory that are free to be used."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
