"""Enrolment against the real listener: which files are used, and what an agent keeps."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).parent))

from enrolling import DAY, HV1, NEW_BOARD, OLD_BOARD, connecting, listening, until

from bedplate.agent.enrol import EnrolmentFailed, enrol, tls_context
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import CONTROLLER_NAME, WEBSOCKET_PATH


async def test_a_file_that_replaces_is_used_by_an_agent_that_is_known(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        before = await controller.enrol(state)
        file = await controller.file(replace=True)
        after = await asyncio.to_thread(enrol, state, file, NEW_BOARD)
        assert (before.host_uuid, after.host_uuid) == (OLD_BOARD, NEW_BOARD)
        assert state.identity() == after
        again = await asyncio.to_thread(enrol, state, file, NEW_BOARD)
        assert again == after


async def test_a_new_board_without_leave_keeps_the_identity_it_had(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        before = await controller.enrol(state)
        assert await controller.enrol(state, NEW_BOARD) == before
        with pytest.raises(EnrolmentFailed, match="comes back with another identity"):
            await controller.enrol(AgentState(tmp_path / "empty"), NEW_BOARD)


async def test_a_server_that_was_forgotten_comes_back_with_a_new_file(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        await controller.enrol(state)
        await controller.server.forget(HV1)
        after = await controller.enrol(state)
        assert controller.secrets.list_secrets(f"agents/server/{HV1}")
        assert state.identity() == after


async def test_a_spent_file_asks_nobody(tmp_path: Path) -> None:
    state = AgentState(tmp_path / "state")
    async with listening(tmp_path) as controller:
        file = await controller.file()
        before = await asyncio.to_thread(enrol, state, file, OLD_BOARD)
    assert await asyncio.to_thread(enrol, state, file, OLD_BOARD) == before


async def test_a_file_of_long_ago_does_not_end_an_agent(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        old = await controller.file()
        before = await controller.enrol(state)
        controller.now = 2 * DAY
        assert await asyncio.to_thread(enrol, state, old, OLD_BOARD) == before


async def test_what_visits_a_server_leaves_the_key_of_what_lies_on_its_disk_in_force(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        disk, visitor, again = (AgentState(tmp_path / name) for name in ("disk", "visitor", "again"))
        identity = await controller.enrol(disk)
        for state in (visitor, again):  # a boot is tried twice
            await controller.enrol(state, replace=True, beside=True)
        async with connecting(disk, identity) as agent:
            await until(lambda: agent.connected)
        await controller.enrol(AgentState(tmp_path / "next"), replace=True)
        async with unix_connect(
            f"{tmp_path}/agents",
            f"wss://{CONTROLLER_NAME}{WEBSOCKET_PATH}",
            ssl=tls_context((await controller.file()).ca, disk),
            server_hostname=CONTROLLER_NAME,
        ) as refused:
            with pytest.raises(ConnectionClosed) as ended:
                await refused.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 4401
