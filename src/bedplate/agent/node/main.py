"""The beginning and the end of the agent in its node role: enrols by the disk's credential once, then by its state."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path

from bedplate.agent.board import host_uuid
from bedplate.agent.connection import ControllerLink
from bedplate.agent.drift_watch import DriftWatch
from bedplate.agent.enrol import EnrolmentFailed, images_from
from bedplate.agent.measuring import Measurer
from bedplate.agent.node.credentials import Credentials, drop_enrolment
from bedplate.agent.node.machine import LocalMachine
from bedplate.agent.node.role import NodeRole
from bedplate.agent.signing import SigningFailed
from bedplate.agent.starting import LOG_FORMAT, STATE_FOLDER, StartFailed, alone, enrolled, until_told
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import PING_SECONDS, SILENCE_SECONDS

log = logging.getLogger("bedplate.agent")

SCRATCH_FOLDER = Path("/var/tmp")
"""Where the node's disk is measured: on its own root disk."""


def run(
    *, state: Path = STATE_FOLDER, board: str = "", dial_own_addresses: bool = False, root: Path = Path("/")
) -> int:
    """Run the agent until SIGTERM or SIGINT, with its log on standard error; gives the exit code.

    Args:
        state: Folder of the agent's key and memory; kept across reboots.
        board: The hardware's identity; empty: as the firmware has it.
        dial_own_addresses: Let streams go to the server's own loopback (for tests).
        root: Where the machine's file system begins (for tests).
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        with alone(state):
            asyncio.run(until_told(_work(AgentState(state), board or host_uuid(), dial_own_addresses, root)))
    except (StartFailed, EnrolmentFailed, SigningFailed) as error:
        sys.stderr.write(f"bedplate agent: {error}\n")
        return 1
    return 0


async def _work(state: AgentState, board: str, dial_own_addresses: bool, root: Path) -> None:
    credentials = Credentials()
    node, file = credentials.node(state), credentials.enrolment()
    identity = await enrolled(state, file, board)
    if file is not None:
        await asyncio.to_thread(drop_enrolment)
    log.info("server %s is machine %s (%s)", identity.server, node.name, node.uid)
    measurer = Measurer(
        state.folder / "measure", partial(images_from, state, identity), lambda: {"": SCRATCH_FOLDER}, None, ""
    )
    role = NodeRole(state, identity, node, LocalMachine(root), measurer)
    link = ControllerLink(
        state,
        identity,
        role,
        keepalive=PING_SECONDS,
        silence=SILENCE_SECONDS,
        dial_own_addresses=dial_own_addresses,
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(role.watch())
            group.create_task(DriftWatch(role.drifted, root=root).run())
            group.create_task(link.run())
    finally:
        measurer.close()
