"""The agent's connection against the real listener: certificates in time, and an end to it."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from enrolling import DAY, HV1, connecting, listening, until

from bedplate.agent import connection, main
from bedplate.agent.state import AgentState


async def test_a_certificate_is_renewed_while_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RENEWAL_SECONDS", 0.05)
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        identity = await controller.enrol(state)
        first = state.certificate_file.read_text()
        async with connecting(state, identity) as observer:
            await until(lambda: observer.connected)
            assert state.certificate_file.read_text() == first
            state.keep_identity(msgspec.structs.replace(identity, renew_at=time.time()))
            await until(lambda: state.certificate_file.read_text() != first)
            await until(lambda: (kept := state.identity()) and kept.renew_at > time.time() + 200 * DAY)
            assert observer.connected


async def test_who_is_forgotten_is_cut_off_and_stays_out(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        identity = await controller.enrol(state)
        unused = await controller.file()
        async with connecting(state, identity) as observer:
            await until(lambda: controller.server.connected() == [HV1] and observer.connected)
            await controller.server.forget_all_but([HV1])
            assert controller.server.connected() == [HV1]
            await controller.server.forget_all_but([])
            await until(lambda: not observer.connected)
            assert controller.server.connected() == []
        assert not controller.secrets.list_secrets("agents/server/")
        assert not controller.secrets.list_secrets("agents/token/"), f"{unused.server} could come back"


def test_the_agent_tells_what_it_does_however_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: asked.append(options["level"]))
    assert main.run(str(tmp_path / "none"), state=tmp_path / "state") == 1
    assert asked == [logging.INFO]
