"""A side that dies without a word is noticed in time, and one that comes back is found."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from enrolling import HV1, connecting, listening, until

from bedplate.agent import connection
from bedplate.agent.state import AgentState
from bedplate.liveness import LOOKS, Silence
from bedplate.model.agent_protocol import PING_SECONDS, SILENCE_SECONDS
from bedplate.model.leases import EXPIRY


class Cable:
    """A way to the controller that can be cut so that no side is told."""

    def __init__(self, folder: Path) -> None:
        self.path = f"{folder}/cable"
        self._inside = f"{folder}/agents"
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        await self._whole.wait()
        inner, outer = await asyncio.open_unix_connection(self._inside)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                await self._whole.wait()
                sink.write(data)

        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(carry(reader, outer), carry(inner, writer))
        outer.close()
        writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def cable(folder: Path) -> AsyncIterator[Cable]:
    made = Cable(folder)
    server = await asyncio.start_unix_server(made.serve, made.path)
    try:
        yield made
    finally:
        server.close()
        await made.stop()


async def test_both_sides_notice_a_cut_and_find_each_other_again(tmp_path: Path) -> None:
    signs = {"keepalive": 0.2, "silence": 1.2}
    async with listening(tmp_path, **signs) as controller, cable(tmp_path) as way:
        state = AgentState(tmp_path / "state")
        identity = msgspec.structs.replace(await controller.enrol(state), controller=f"unix:{way.path}")
        async with connecting(state, identity, **signs) as observer:
            await until(lambda: controller.server.connected() == [HV1] and observer.connected)
            begun = time.monotonic()
            way.cut()
            await until(lambda: not controller.server.connected())
            assert time.monotonic() - begun < 1.2 + 1.0  # the second is for a busy machine
            await until(lambda: not observer.connected)
            way.mend()
            await until(lambda: controller.server.connected() == [HV1] and observer.connected)


async def test_a_connection_with_nothing_to_say_stays(tmp_path: Path) -> None:
    signs = {"keepalive": 0.1, "silence": 0.6}
    async with listening(tmp_path, **signs) as controller:
        state = AgentState(tmp_path / "state")
        async with connecting(state, await controller.enrol(state), **signs) as observer:
            await until(lambda: observer.connected)
            pools = len(observer.pools)
            seen = len(controller.seen)
            await asyncio.sleep(1.5)  # more than twice the silence that is allowed
            assert (observer.connected, len(observer.pools), len(controller.seen)) == (True, pools, seen)


async def test_an_order_to_reconnect_makes_a_new_connection(tmp_path: Path) -> None:
    async with listening(tmp_path) as controller:
        state = AgentState(tmp_path / "state")
        async with connecting(state, await controller.enrol(state)) as observer:
            await until(lambda: observer.connected)
            observer.link.reconnect()
            await until(lambda: len(observer.pools) == 2 and observer.connected)
    observer.link.reconnect()  # without one, there is nothing to do


def test_the_times_fit_together() -> None:
    assert 2 * PING_SECONDS < SILENCE_SECONDS * (1 - 1 / LOOKS)
    assert SILENCE_SECONDS < EXPIRY
    assert connection.DIAL_SECONDS + connection.LAST_DELAY <= 3


async def test_who_was_held_up_itself_does_not_judge() -> None:
    ended: list[float] = []
    watch = Silence(0.3, lambda: ended.append(time.monotonic()))
    time.sleep(0.5)  # noqa: ASYNC251 - the event loop hangs
    watch_began = time.monotonic()
    await until(lambda: ended)
    assert ended[0] > watch_began
    watch.stop()
