"""What the beginning and the end of the agent have in common in all its roles. Without libvirt."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from bedplate.agent.enrol import enrol
from bedplate.agent.state import AgentState, Identity
from bedplate.model.agent_protocol import EnrolFile

log = logging.getLogger("bedplate.agent")

STATE_FOLDER = Path("/var/lib/bedplate/agent")
RETRY_SECONDS = 3.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class StartFailed(Exception):
    """The agent can't run here; the text says why and what to do."""


def read_enrol_file(path: str) -> EnrolFile | None:
    """The enrolment file; `-`: of standard input; None where none is named. Raises `StartFailed`."""
    if not path:
        return None
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return msgspec.json.decode(content, type=EnrolFile)
    except OSError as error:
        raise StartFailed(f"the enrolment file can't be read: {error}") from error
    except msgspec.MsgspecError as error:
        raise StartFailed(f"{path} is not an enrolment file: {error}; make one with the controller") from error


@contextlib.contextmanager
def alone(folder: Path):
    """Two agents with one memory would answer for each other. Raises `StartFailed`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(f"another agent runs with the state folder {folder}") from None
        yield


async def until_told(work: Coroutine[Any, Any, None]) -> None:
    """Do the work until it ends or the process is told to, by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ending = asyncio.ensure_future(stop.wait())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({ending, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        ending.cancel()
        working.cancel()
        await asyncio.gather(ending, working, return_exceptions=True)


async def enrolled(state: AgentState, file: EnrolFile | None, host_uuid: str) -> Identity:
    """Who this agent is; asks a controller that is not reached again and again.

    Raises:
        StartFailed: it is not enrolled and has no file.
        EnrolmentFailed: the controller refuses.
    """
    if file is None:
        identity = state.identity()
        if identity is None:
            raise StartFailed("this server is not enrolled: give --enrol-file with a file from the controller")
        return identity
    while True:
        try:
            return await asyncio.to_thread(enrol, state, file, host_uuid)
        except OSError as error:
            log.warning("the controller at %s is not reached: %s", file.controller, error)
            await asyncio.sleep(RETRY_SECONDS)
