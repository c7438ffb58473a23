"""Processes of a lab: told apart for certain, found again after a crash, ended and waited for.

A process id alone may have been given to another process since; so each is remembered with its start time, and each
process that belongs to a lab carries the lab's folder in its environment (inside a hypervisor they do not need it:
they end with its first process).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bedplate.lab.config import ProcessId
from bedplate.lab.errors import LabError

MARK = "BEDPLATE_LAB"
PART = "BEDPLATE_LAB_PART"
START_LIMIT = 60.0
"""Seconds for a part to be ready: it takes 0.2, but a busy two-core machine was seen to need several."""
END_LIMIT = 20.0


_EXEC_LOOKS, _EXEC_LOOK_SECONDS = 5, 0.005
"""How often, and how long between, a process is looked at that seems to have no environment."""


def boot_id() -> str:
    """Identity of the running kernel's boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time (clock ticks since boot) of a process; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """Remember a running process; None when it is gone."""
    seen = _stat(pid)
    return None if seen is None else ProcessId(pid, seen[1], boot_id())


def alive(process: ProcessId | None) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    if process is None or process.boot != boot_id():
        return False
    seen = _stat(process.pid)
    return seen is not None and seen[0] not in "ZX" and seen[1] == process.started


def stopped(process: ProcessId) -> bool:
    """Whether it is halted by SIGSTOP, with all its threads."""
    try:
        threads = [int(entry) for entry in os.listdir(f"/proc/{process.pid}/task")]
    except FileNotFoundError:
        return False
    states = [seen[0] for thread in threads if (seen := _stat(thread)) is not None]
    return bool(states) and all(state in "TZX" for state in states) and "T" in states


def send(process: ProcessId | None, number: signal.Signals) -> bool:
    """Send a signal to that very process; False when it is gone."""
    if process is None:
        return False
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def kill(process: ProcessId | None, limit: float = END_LIMIT) -> None:
    """SIGKILL and wait, by a process handle, until it and (for a namespace's first process) all inside are gone."""
    if process is None:
        return
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if not alive(process):
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(limit * 1000):
            raise LabError(
                f"process {process.pid} did not end within {limit:.0f} s of SIGKILL: see /proc/{process.pid}/stack,"
                " then call `bedplate lab down` again"
            )
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def wait(process: ProcessId | None, limit: float) -> bool:
    """Wait until that very process has ended; False when it runs on after `limit` seconds."""
    if process is None:
        return True
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return not alive(process) or bool(poll.poll(limit * 1000))
    finally:
        os.close(handle)


def marked(folder: Path, part: str = "") -> list[ProcessId]:
    """All processes that carry this lab's mark (and are that part), except the calling one."""
    needle = f"{MARK}={folder}".encode()
    second = f"{PART}={part}".encode()
    found: list[ProcessId] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        environment = _environment_of(entry)
        if needle in environment and (not part or second in environment):
            process = identify(int(entry))
            if alive(process) and process is not None:
                found.append(process)
    return found


def _environment_of(pid: str) -> list[bytes]:
    """The environment of a process; empty where there is none to be read.

    For a moment within its exec a process has none yet, though its parent goes on already: it is looked at again.
    """
    for _ in range(_EXEC_LOOKS):
        try:
            found = Path("/proc", pid, "environ").read_bytes()
            if found:
                return found.split(b"\0")
            os.readlink(f"/proc/{pid}/exe")  # a thread of the kernel has no program
        except OSError:
            break
        time.sleep(_EXEC_LOOK_SECONDS)
    return []


def kill_marked(
    folder: Path, part: str = "", release: Callable[[], None] | None = None, limit: float = END_LIMIT
) -> int:
    """End all processes with the mark, also those that others of them just started; give how many.

    `release` is called once all have the signal and none was waited for: what holds them from ending is let go there.
    """
    deadline = time.monotonic() + limit
    count = 0
    while found := marked(folder, part):
        if time.monotonic() > deadline:
            raise LabError(f"processes of the lab do not end: {', '.join(str(p.pid) for p in found)}")
        for process in found:
            send(process, signal.SIGKILL)
        if release is not None:
            release()
        for process in found:
            kill(process)
        count += len(found)
    return count


def environment(folder: Path, part: str) -> dict[str, str]:
    """The environment of a lab's own process: the mark and no more than a program needs."""
    return {MARK: str(folder), PART: part, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def script(name: str) -> list[str]:
    """Command line that runs a script of this package with the standard library alone."""
    return [sys.executable, "-S", "-E", "-P", str(Path(__file__).with_name(name))]


def launch(
    folder: Path, part: str, argv: Sequence[str], *, namespaces: Sequence[str], log: Path, cgroups: Sequence[Path] = ()
) -> ProcessId:
    """Start a long-lived part, detached, in new namespaces; return when it says that it is ready."""
    spec: dict[str, Any] = {
        "argv": list(argv),
        "namespaces": list(namespaces),
        "log": str(log),
        "cgroups": [str(path) for path in cgroups],
    }
    try:
        done = subprocess.run(
            [*script("launch.py"), json.dumps(spec)],
            env=environment(folder, part),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        kill_marked(folder, part)
        raise LabError(f"{part} was not ready within {START_LIMIT:.0f} s: see {log}") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"pid": 0, "message": done.stderr.strip()[-500:]}
    process = identify(int(answer["pid"])) if answer["pid"] else None
    if answer["message"] != "ready" or process is None:
        kill_marked(folder, part)
        raise LabError(f"{part} did not start: {answer['message']} (log: {log})")
    return process


def run(folder: Path, argv: Sequence[str], text: str = "", limit: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a short command of the lab, marked as the lab's; the caller looks at the return code."""
    return subprocess.run(
        list(argv),
        env=environment(folder, "command"),
        input=text,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def service_environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """What a program inside a hypervisor finds: a plain root environment, and what the caller adds."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **(extra or {})}
