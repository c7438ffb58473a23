"""Benchmarks over the connection between controller and agent, and the protocol that both sides say they speak."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from enrolling import HV1, STORE, Listening, Observer, connecting, listening, until

from bedplate.agent import connection
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import PROTOCOL_VERSION, Hello, Measure, MeasureReply, Welcome
from bedplate.model.ids import Digest, Epoch, OperationId
from bedplate.model.inventory import ServerView
from bedplate.model.steps import Ticket
from bedplate.ports import BenchmarkFailed, BenchmarkRun

RUN = BenchmarkRun(server=HV1, kit=Digest("sha256:" + "a" * 64), benchmark="cpu-one", seconds=3, scratch_mib=8)
TICKET = Ticket(operation=OperationId("m"), store=STORE, epoch=Epoch(1), deadline=60)


class Agent:
    """A connected agent, and what it was asked."""

    def __init__(self, server: Listening, observer: Observer) -> None:
        self.server = server.server
        self.observer: Any = observer
        self.asked: list[Measure] = []
        self.reply = MeasureReply(call=0, command="sysbench", output=b"fast", cpus=4, load_before=0.5)
        self.hold = asyncio.Event()
        self.hold.set()
        self.observer.measure = self._measure

    async def _measure(self, call: Measure) -> MeasureReply:
        self.asked.append(call)
        await self.hold.wait()
        return msgspec.structs.replace(self.reply, call=call.call)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    state = AgentState(tmp_path / "state")
    async with listening(tmp_path) as server:
        identity = await server.enrol(state)
        async with connecting(state, identity) as observer:
            await until(lambda: observer.connected)
            yield Agent(server, observer)


async def test_a_run_goes_to_its_server_and_what_the_tool_said_comes_back(agent: Agent) -> None:
    out = await agent.server.benchmark(RUN, TICKET)
    assert (out.command, out.output, out.cpus, out.load_before) == ("sysbench", b"fast", 4, 0.5)
    (asked,) = agent.asked
    assert (asked.benchmark, asked.seconds, asked.scratch_mib, asked.kit) == ("cpu-one", 3, 8, RUN.kit)
    assert (asked.store, asked.epoch, asked.machine) == (STORE, Epoch(1), None)


async def test_why_there_are_no_figures_is_the_agents_own_sentence(agent: Agent) -> None:
    agent.reply = MeasureReply(call=0, error="bridge br0 has no address: give it one")
    with pytest.raises(BenchmarkFailed, match="bridge br0 has no address: give it one"):
        await agent.server.benchmark(RUN, TICKET)


async def test_a_connection_that_is_lost_meanwhile_ends_the_run_at_once(agent: Agent) -> None:
    agent.hold.clear()
    waiting = asyncio.create_task(agent.server.benchmark(RUN, TICKET))
    await until(lambda: agent.asked)
    agent.observer.link.reconnect()
    with pytest.raises(BenchmarkFailed, match="the connection to hv1 was lost"):
        await waiting
    agent.hold.set()


async def test_a_server_that_is_not_connected_is_named_with_what_tells_why(tmp_path: Path) -> None:
    async with listening(tmp_path) as server:
        with pytest.raises(BenchmarkFailed, match=r"the agent of hv1 is not connected; see `bedplate why server/hv1`"):
            await server.server.benchmark(RUN, TICKET)


# --- versions -------------------------------------------------------------------------------------------------------


async def test_an_agent_of_another_protocol_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PROTOCOL_VERSION", PROTOCOL_VERSION - 1)
    state = AgentState(tmp_path / "state")
    async with listening(tmp_path) as server:
        identity = await server.enrol(state)
        async with connecting(state, identity):
            said = f"its agent speaks protocol {PROTOCOL_VERSION - 1}, this controller {PROTOCOL_VERSION}"
            await until(lambda: any(said in getattr(v, "error", "") for _, views, _ in server.seen for v in views))


def test_a_side_that_does_not_say_its_protocol_is_not_taken_for_one_of_ours() -> None:
    """Frames leave defaults out: a default of the reader's own version would be read into what an older side said."""
    view = ServerView(server=HV1, connected=True)
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(Hello(protocol=PROTOCOL_VERSION, server=view)))
    assert told["protocol"] == PROTOCOL_VERSION
    silent = msgspec.msgpack.decode(msgspec.msgpack.encode(Hello(server=view)), type=Hello)
    assert silent.protocol != PROTOCOL_VERSION
    welcome = Welcome(protocol=PROTOCOL_VERSION, store=STORE, epoch=Epoch(1))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(welcome))["protocol"] == PROTOCOL_VERSION
