"""The beginning and the end of the agent in its RAM role: by the settings of the medium, in memory only."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path

import msgspec

from bedplate.agent.board import host_uuid
from bedplate.agent.connection import ControllerLink
from bedplate.agent.enrol import EnrolmentFailed, images_from
from bedplate.agent.ram.inspect import LLDP_SECONDS
from bedplate.agent.ram.role import RamRole, written_before
from bedplate.agent.ram.tasks import Surroundings
from bedplate.agent.signing import SigningFailed
from bedplate.agent.starting import LOG_FORMAT, StartFailed, alone, enrolled, until_told
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import PING_SECONDS, SILENCE_SECONDS
from bedplate.model.metal_protocol import RamSettings

log = logging.getLogger("bedplate.agent")

STATE_FOLDER = Path("/run/bedplate/agent")
"""In memory: the RAM system keeps nothing."""


def run(settings_file: str, *, state: Path = STATE_FOLDER, board: str = "", lldp_seconds: float = LLDP_SECONDS) -> int:
    """Run the agent until SIGTERM or SIGINT, with its log on standard error; gives the exit code.

    Args:
        settings_file: Path of the medium's settings, JSON.
        state: Folder in memory for the agent's key and what a restarted one goes on with.
        board: The hardware's identity; empty: as the firmware has it.
        lldp_seconds: How long an inspection listens for what switches say of themselves.
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        with alone(state):
            settings = _settings(settings_file)
            asyncio.run(until_told(_work(AgentState(state), settings, board or host_uuid(), lldp_seconds)))
    except (StartFailed, EnrolmentFailed, SigningFailed) as error:
        sys.stderr.write(f"bedplate agent: {error}\n")
        return 1
    return 0


def _settings(path: str) -> RamSettings:
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=RamSettings)
    except OSError as error:
        raise StartFailed(f"the settings can't be read: {error}") from error
    except msgspec.MsgspecError as error:
        raise StartFailed(f"{path} holds no settings of a RAM system: {error}") from error


async def _work(state: AgentState, settings: RamSettings, board: str, lldp_seconds: float) -> None:
    identity = await enrolled(state, settings.enrol, board)
    log.info("server %s, host uuid %s, boot %d of the RAM system", identity.server, board, settings.run)
    around = Surroundings(
        folder=state.folder,
        controller=identity.controller,
        connect=partial(images_from, state, identity),
        address="",
        lldp_seconds=lldp_seconds,
    )
    role = RamRole(state, identity, settings.run, around)
    role.remember(await asyncio.to_thread(written_before))
    link = ControllerLink(
        state, identity, role, keepalive=PING_SECONDS, silence=SILENCE_SECONDS, dial_own_addresses=False
    )
    try:
        await link.run()
    finally:
        await role.stop()
