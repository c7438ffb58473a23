"""Starts one long-lived process of the lab in new namespaces, detached from its starter.

Run as a script, by path, with the standard library alone, so that it starts in a few milliseconds:
`python -S -E -P launch.py SPEC_JSON`. It joins a cgroup, makes the namespaces, forks the process into them, waits until
that process has written one line to its file descriptor 3 ("ready", or what went wrong), prints the process id and
ends. The process is then a child of the host's init, which reaps it. It decides nothing and keeps no state.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

READY_FD = 3
NAMESPACES = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


def unshare(names: list[str]) -> None:
    """Put this process (for `pid`: its next child) into new namespaces."""
    flags = 0
    for name in names:
        flags |= NAMESPACES[name]
    libc = ctypes.CDLL(None, use_errno=True)
    if flags and libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot make namespaces ({', '.join(names)}): {os.strerror(error)}")


def become(argv: list[str], log: str, ready: int) -> None:
    """In the child: detach, send all output to the log, and run the program with `ready` as descriptor 3."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(ready, READY_FD)
    os.set_inheritable(READY_FD, True)
    os.closerange(READY_FD + 1, 256)
    os.chdir("/")
    os.execvp(argv[0], argv)


def start(spec: dict[str, Any]) -> dict[str, Any]:
    """Start the process; give `{"pid", "message"}`, where the message is "ready" or the reason of a failure."""
    for procs in spec["cgroups"]:
        with open(procs, "w") as file:
            file.write("0")
    unshare(spec["namespaces"])
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            become(spec["argv"], spec["log"], writer)
        except BaseException as error:
            os.write(writer, f"{error}\n".encode())
        finally:
            os._exit(127)
    os.close(writer)
    heard = b""
    while not heard.endswith(b"\n"):
        piece = os.read(reader, 4096)
        if not piece:
            break
        heard += piece
    return {"pid": pid, "message": heard.decode(errors="replace").strip() or "it ended before it was ready"}


def main() -> int:
    """Read the specification from the first argument; print the answer as JSON."""
    try:
        answer = start(json.loads(sys.argv[1]))
    except OSError as error:
        answer = {"pid": 0, "message": str(error)}
    sys.stdout.write(json.dumps(answer))
    return 0 if answer["message"] == "ready" else 1


if __name__ == "__main__":
    raise SystemExit(main())
