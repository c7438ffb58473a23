"""Into this machine as the hypervisor's agent reaches into a guest: files, commands, the bootstrap unit's word."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from pathlib import Path

from bedplate.agent.bootstrap_word import STATUS_BYTES, STATUS_FILE, TIMES_FILE, BootstrapStatus, dated, read_status
from bedplate.model.agent_protocol import GuestExecute, GuestReply, GuestWrite

OUTPUT_BYTES = 3 * 1024 * 1024
"""The last of what a command says, of each of its two streams: both fit into one frame."""


class CallFailed(Exception):
    """It could not be done; the text says why."""


class LocalMachine:
    """This machine. `root`: where its file system begins (for tests)."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def bootstrap(self) -> BootstrapStatus:
        """What the bootstrap unit says; empty where it never ran. Blocking."""
        status = read_status(self._read(STATUS_FILE))
        if status.state not in {"done", "failed"}:
            return status
        return dated(status, self._read(TIMES_FILE), 0.0)

    def write(self, call: GuestWrite) -> None:
        """Write a file, or append a further piece of it. Blocking. Raises `OSError`."""
        path = self._root / call.path.lstrip("/")
        if call.first:
            # What lies in memory may be secret: nobody but root looks into its folders.
            _make_folders(path.parent, 0o700 if call.path.startswith("/run/") else 0o755)
            path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if call.first else 0)
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(call.content)
            if call.first:
                os.fchmod(file.fileno(), stat.S_IMODE(call.mode))

    async def execute(self, call: GuestExecute) -> GuestReply:
        """Run a command to its end. Raises `CallFailed`; `TimeoutError` ends the command too."""
        try:
            process = await asyncio.create_subprocess_exec(
                *call.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise CallFailed(f"{call.argv[0]} can't be run: {error}") from error
        try:
            async with asyncio.timeout(call.deadline):
                stdout, stderr = await process.communicate(call.stdin)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                await process.wait()
        code = process.returncode or 0
        return GuestReply(
            call=call.call,
            exit_code=code if code >= 0 else 128 - code,
            stdout=stdout[-OUTPUT_BYTES:],
            stderr=stderr[-OUTPUT_BYTES:],
        )

    def _read(self, path: str) -> bytes:
        try:
            with open(self._root / path.lstrip("/"), "rb") as file:
                return file.read(STATUS_BYTES)
        except OSError:
            return b""


def _make_folders(folder: Path, mode: int) -> None:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for one in reversed(missing):
        one.mkdir(mode=mode, exist_ok=True)
