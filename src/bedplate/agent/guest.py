"""Into guests, over the guest agent's channel: files, commands, and what the bootstrap unit says.

Every call is bounded in time. Content never touches the server's disks and is never logged.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import libvirt
import libvirt_qemu

from bedplate.agent.bootstrap_word import STATUS_BYTES, STATUS_FILE, TIMES_FILE, BootstrapStatus, dated, read_status
from bedplate.agent.faults import HypervisorDown
from bedplate.agent.redact import tail
from bedplate.agent.worker import WorkerPool
from bedplate.model.ids import MachineUid
from bedplate.ports import GuestOutput

WRITE_BYTES = 32 * 1024
"""Per call: with base64 well below the 4 MiB of a libvirt message, and short for other users of the connection."""
OUTPUT_BYTES = 3 * 1024 * 1024
PING_SECONDS = 5
FIRST_LOOK = 0.05
LAST_LOOK = 0.5
"""Seconds between looks at a running command: soon at first, most are short; rarer later."""

_PREPARE = (
    'set -e; d=$(dirname -- "$1"); '
    'case "$d" in /run/*) u=077;; *) u=022;; esac; [ -d "$d" ] || (umask $u; mkdir -p -- "$d"); '
    'rm -f -- "$1"; (umask 077; : > "$1"); chmod -- "$2" "$1"'
)
"""The guest agent makes files readable by all; this one is there before, with its mode."""


class GuestUnreachable(Exception):
    """The guest or its agent did not answer; the text says how."""


class GuestChannel:
    """The guest agents of this server's domains."""

    def __init__(self, workers: WorkerPool) -> None:
        self._workers = workers

    async def ping(self, uid: MachineUid) -> bool:
        """True where the guest agent answers."""
        try:
            await self._ask(uid, {"execute": "guest-ping"}, PING_SECONDS)
        except GuestUnreachable:
            return False
        return True

    async def write(
        self, uid: MachineUid, path: str, content: bytes, mode: int, *, first: bool, timeout: float
    ) -> None:
        """Write a file, or append a further piece of it. Raises `GuestUnreachable`."""
        end = time.monotonic() + timeout
        if first:
            argv = ["/bin/sh", "-c", _PREPARE, "sh", path, f"{mode:04o}"]
            made = await self.execute(uid, argv, b"", timeout)
            if made.exit_code != 0:
                raise GuestUnreachable(
                    f"{path} can't be made in the guest: {tail(made.stderr.decode(errors='replace'))}"
                )
        handle = await self._ask(
            uid, {"execute": "guest-file-open", "arguments": {"path": path, "mode": "ab"}}, _left(end)
        )
        try:
            for start in range(0, len(content), WRITE_BYTES):
                piece = base64.b64encode(content[start : start + WRITE_BYTES]).decode()
                arguments = {"handle": handle, "buf-b64": piece}
                written = await self._ask(uid, {"execute": "guest-file-write", "arguments": arguments}, _left(end))
                if written["count"] != len(content[start : start + WRITE_BYTES]):
                    raise GuestUnreachable(f"{path} could not be written whole in the guest")
        finally:
            await self._ask(uid, {"execute": "guest-file-close", "arguments": {"handle": handle}}, PING_SECONDS)

    async def execute(self, uid: MachineUid, argv: Sequence[str], stdin: bytes, timeout: float) -> GuestOutput:
        """Run a command and wait for its end. Raises `GuestUnreachable`, also where it does not end in time."""
        end = time.monotonic() + timeout
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        started = await self._ask(uid, {"execute": "guest-exec", "arguments": arguments}, _left(end))
        pause = FIRST_LOOK
        while True:
            look = {"execute": "guest-exec-status", "arguments": {"pid": started["pid"]}}
            status = await self._ask(uid, look, _left(end))
            if status["exited"]:
                break
            if time.monotonic() + pause > end:
                raise GuestUnreachable(f"{argv[0]} did not end within {timeout:.0f} s in the guest")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_LOOK)
        return GuestOutput(
            exit_code=status.get("exitcode", 128 + status.get("signal", 0)),
            stdout=base64.b64decode(status.get("out-data", ""))[-OUTPUT_BYTES:],
            stderr=base64.b64decode(status.get("err-data", ""))[-OUTPUT_BYTES:],
        )

    async def bootstrap(self, uid: MachineUid) -> BootstrapStatus:
        """What the bootstrap unit says; empty where it never ran. Raises `GuestUnreachable`."""
        status = read_status(await self._read(uid, STATUS_FILE))
        if status.state not in {"done", "failed"}:
            return status
        try:
            times = await self._read(uid, TIMES_FILE)
            now = await self._ask(uid, {"execute": "guest-get-time"}, PING_SECONDS) / 1e9
        except GuestUnreachable:
            return status  # when it was is only good to know
        return dated(status, times, now - time.time())

    async def _read(self, uid: MachineUid, path: str) -> bytes:
        """A small file's content; empty where there is none. Raises `GuestUnreachable`."""
        arguments: dict[str, Any] = {"path": path, "mode": "r"}
        try:
            handle = await self._ask(uid, {"execute": "guest-file-open", "arguments": arguments}, PING_SECONDS)
        except GuestUnreachable as error:
            if "No such file" in str(error) or "failed to open file" in str(error):
                return b""
            raise
        try:
            arguments = {"handle": handle, "count": STATUS_BYTES}
            read = await self._ask(uid, {"execute": "guest-file-read", "arguments": arguments}, PING_SECONDS)
        finally:
            await self._ask(uid, {"execute": "guest-file-close", "arguments": {"handle": handle}}, PING_SECONDS)
        return base64.b64decode(read.get("buf-b64", ""))

    async def _ask(self, uid: MachineUid, command: dict[str, Any], timeout: float) -> Any:
        text = json.dumps(command)
        seconds = max(1, int(timeout))

        def work(connection: Any) -> str:
            domain = connection.lookupByUUIDString(uid)
            return libvirt_qemu.qemuAgentCommand(domain, text, seconds, 0)

        try:
            answer = await self._workers.call(work, seconds + 2)
        except HypervisorDown as error:
            raise GuestUnreachable(str(error)) from error
        except libvirt.libvirtError as error:
            raise GuestUnreachable(f"the guest agent did not do {command['execute']}: {error}") from error
        return json.loads(answer)["return"]


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise GuestUnreachable("the guest did not answer in time")
    return left
