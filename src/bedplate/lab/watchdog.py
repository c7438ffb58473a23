"""The watchdog of one lab hypervisor: a process outside of it that cuts its power when it is not fed.

Run as `python -m bedplate.lab.watchdog FOLDER NAME PROCESS_JSON`. It reads what is written to the hypervisor's
`/dev/watchdog`, a FIFO there, and ends with that boot of the hypervisor. It is no part of the BMC, so it works when the
BMC is dead. Unlike a server's own it leaves the power off and does not reset.
"""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import msgspec

from bedplate.lab import processes
from bedplate.lab.config import ProcessId
from bedplate.lab.errors import LabError
from bedplate.lab.lab import Lab
from bedplate.model.leases import WATCHDOG

MAGIC = ord("V")
"""As with Linux' watchdogs: closing after this byte disarms; closing without it is a crash, and it stays armed."""
PRIORITY = -10
"""Of scheduling: hardware does not wait for a busy processor. What it does in 15 seconds takes microseconds."""
RETRY_SECONDS = 1.0
"""Between tries to cut the power when the host refused."""


class Timer:
    """When the power is to be cut. Knows no clock: times are given, in seconds."""

    def __init__(self, limit: float = WATCHDOG) -> None:
        self.limit = limit
        self.armed = False
        self._fed = 0.0
        self._magic = False

    def take(self, data: bytes, now: float) -> None:
        """Bytes came. Any but `V` feeds, and the first one arms."""
        if any(byte != MAGIC for byte in data):
            self.armed, self._fed = True, now
        self._magic = data.endswith(b"V")

    def closed(self) -> None:
        """Whoever fed it has closed the device."""
        if self._magic:
            self.armed = False
        self._magic = False

    def left(self, now: float) -> float | None:
        """Seconds until the power is cut (0: now); None: not armed."""
        return max(self._fed + self.limit - now, 0.0) if self.armed else None


class Device:
    """The reading end of the FIFO. It never blocks."""

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes | None:
        """What was written; nothing: no more now; None: the last writer has closed it."""
        try:
            return os.read(self.handle, 4096) or None
        except BlockingIOError:
            return b""

    def renew(self) -> None:
        """Forget that the writer has closed it, or poll would tell so for ever. There is a reader at every moment."""
        fresh = os.open(f"/proc/self/fd/{self.handle}", os.O_RDONLY | os.O_NONBLOCK)
        os.close(self.handle)
        self.handle = fresh


def drain(device: Device, timer: Timer) -> None:
    """Give the timer all that came."""
    while data := device.read():
        timer.take(data, time.monotonic())
    if data is None:
        timer.closed()
        device.renew()


def watch(device: Device, timer: Timer, hypervisor: int) -> bool:
    """Watch until the hypervisor (its process handle) ends, False, or is unfed for too long, True."""
    while True:
        left = timer.left(time.monotonic())
        poll = select.poll()
        poll.register(device.handle, select.POLLIN)
        poll.register(hypervisor, select.POLLIN)
        ready = dict(poll.poll(None if left is None else left * 1000 + 1))
        if hypervisor in ready:
            return False
        drain(device, timer)  # before judging: this process itself may have waited for its turn
        if timer.left(time.monotonic()) == 0:
            return True


def tell(words: str) -> None:
    """A line for the log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {words}\n")
    sys.stderr.flush()


def cut(lab: Lab, name: str, process: ProcessId) -> None:
    """Cut the power of that boot of the hypervisor, and try again while the host refuses."""
    while True:
        try:
            lab.cut_boot(name, process)
            return
        except (LabError, OSError) as error:
            tell(f"the power of {name} could not be cut: {error}")
            if not processes.alive(process):
                return
            time.sleep(RETRY_SECONDS)


def main() -> int:
    """Open the device, say "ready" or what is wrong on descriptor 3, watch."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    process = msgspec.json.decode(sys.argv[3], type=ProcessId)
    try:
        hypervisor = os.pidfd_open(process.pid)
        if not processes.alive(process):
            raise ProcessLookupError(f"{name} has no power")
        device = Device(f"/proc/{process.pid}/root/dev/watchdog")
        os.setpriority(os.PRIO_PROCESS, 0, min(PRIORITY, os.getpriority(os.PRIO_PROCESS, 0)))
    except OSError as error:
        os.write(3, f"{error}\n".encode())
        return 1
    os.write(3, b"ready\n")
    os.close(3)
    timer = Timer()
    if watch(device, timer, hypervisor):
        tell(f"{name} was not fed for {timer.limit:g} s: its power is cut")
        cut(Lab(folder.name, folder.parent), name, process)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
