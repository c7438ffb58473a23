"""What figures are compared with: a fixed loop of plain Python, and what the kernel says of a process.

The loop does what the product does most (dictionary look-ups, small objects, sorting, text), so a slow or busy machine
slows both alike and their ratio stays.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

STEPS_A_SECOND = 4_000_000
"""Steps that make one *reference second*: what the loop does in a second of one core of the machine on which the goals
were set (a 2-core x86-64 virtual machine, CPython 3.11)."""


def spin(steps: int) -> int:
    """The loop itself; gives a number so that nothing of it can be left out."""
    table: dict[str, tuple[int, int]] = {}
    total = 0
    for n in range(steps):
        k = f"machine/{n & 1023}"
        before, seen = table.get(k, (0, 0))
        table[k] = (before + n, seen + 1)
        total += before & 7
    return total + sum(seen for _, seen in sorted(table.values()))


def cpu_loop(reference_seconds: float) -> float:
    """CPU seconds that this process now needs for so many reference seconds."""
    began = time.process_time()
    spin(int(STEPS_A_SECOND * reference_seconds))
    return time.process_time() - began


def wall_loop(reference_seconds: float) -> float:
    """The same by the clock on the wall: with all that others take of the core."""
    began = time.perf_counter()
    spin(int(STEPS_A_SECOND * reference_seconds))
    return time.perf_counter() - began


def machine() -> str:
    """This machine in general words."""
    took = min(cpu_loop(0.2) for _ in range(3))
    speed = STEPS_A_SECOND * 0.2 / took
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {python}, load {os.getloadavg()[0]:.1f}; "
        f"the reference loop does {speed / 1e6:.2f} million steps a CPU second"
    )


def peak_memory() -> int:
    """The most memory (bytes) that this process has had in RAM so far."""
    return _status(os.getpid(), "VmHWM")


def memory(pid: int) -> int:
    """Memory (bytes) that a process has in RAM."""
    return _status(pid, "VmRSS")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
