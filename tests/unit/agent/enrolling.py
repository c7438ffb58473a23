"""A controller's listener for agents, with the least behind it, and what agents tell it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from bedplate.agent.connection import ControllerLink
from bedplate.agent.enrol import enrol
from bedplate.agent.state import AgentState, Identity
from bedplate.drivers.agents.server import AgentServer
from bedplate.model.agent_protocol import EnrolFile, Pool
from bedplate.model.ids import Epoch, ServerName, StoreId
from bedplate.model.inventory import ServerView

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))

from memory_store import FileImages, MemorySecrets

STORE = StoreId("5f0a2b9e-3f3c-4c55-9e0a-000000000001")
HV1 = ServerName("hv1")
OLD_BOARD, NEW_BOARD = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
DAY = 24 * 3600


class Listening:
    """The agents' server; `seen` is what reached its sink, `now` what its clock adds to the time."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = 0.0
        self.seen: list[tuple[str, Any, bool]] = []
        self.secrets = MemorySecrets()
        self.server = AgentServer(
            listen=[f"unix:{folder}/agents"],
            store=STORE,
            epoch=lambda: Epoch(1),
            secrets=self.secrets,
            sink=self._sink,
            images=FileImages({}),
            pools_for=lambda _: (),
            clock=lambda: time.time() + self.now,
            **options,
        )

    def _sink(self, source: str, observations: Sequence[Any], *, full: bool = False) -> None:
        self.seen.append((source, [o.value for o in observations], full))

    async def file(self, **options: Any) -> EnrolFile:
        return msgspec.json.decode(await self.server.enrolment(HV1, **options), type=EnrolFile)

    async def enrol(self, state: AgentState, board: str = OLD_BOARD, **options: Any) -> Identity:
        return await asyncio.to_thread(enrol, state, await self.file(**options), board)


@asynccontextmanager
async def listening(folder: Path, **options: Any) -> AsyncIterator[Listening]:
    made = Listening(folder, **options)
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()


async def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for it; fail where it does not come."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Observer:
    """What a connection asks of the agent's role; keeps the pools that it was told."""

    def __init__(self, board: str = OLD_BOARD) -> None:
        self.board = board
        self.pools: list[Sequence[Pool]] = []
        self.connected = False
        self.link: Any = None

    async def server_view(self) -> ServerView:
        return ServerView(server=HV1, connected=True, host_uuid=self.board)

    async def configure(self, pools: Sequence[Pool]) -> None:
        self.pools.append(pools)

    async def attach(self, _: object) -> None:
        self.connected = True

    def detach(self) -> None:
        self.connected = False

    async def resync(self) -> None:
        pass

    def reached_from(self, address: str) -> None:
        pass

    def spoken(self) -> None:
        """The controller was spoken with."""


@asynccontextmanager
async def connecting(
    state: AgentState, identity: Identity, *, keepalive: float = 2, silence: float = 6
) -> AsyncIterator[Observer]:
    """The agent's end of the connection, running, without machines behind it."""
    observer: Any = Observer(identity.host_uuid)
    link = ControllerLink(
        state,
        identity,
        observer,
        keepalive=keepalive,
        silence=silence,
        dial_own_addresses=False,
    )
    observer.link = link
    task = asyncio.create_task(link.run())
    try:
        yield observer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
