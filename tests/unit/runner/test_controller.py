"""The controller's own duty: what it tells the engine of a store that fails and heals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from bedplate.engine import messages as msg
from bedplate.model.blueprint import Blueprint
from bedplate.model.ids import Epoch, StoreId
from bedplate.model.spec import Spec
from bedplate.runner import controller as runner
from bedplate.runner.controller import Controller, StoreCommand, StoreUnavailableError


class Disk:
    """A store that can be full."""

    def __init__(self) -> None:
        self.full = False
        self.written: list[StoreCommand] = []

    def acquire(self) -> Epoch:
        return Epoch(1)

    def renew(self, _epoch: Epoch) -> bool:
        self._need_room()
        return True

    def release(self, _epoch: Epoch) -> None:
        self._need_room()

    def load(self, epoch: Epoch) -> msg.Started:
        return msg.Started(store=StoreId("s"), epoch=epoch, spec=Spec(), blueprint=Blueprint())

    def carry_out(self, commands: Sequence[StoreCommand]) -> list[msg.Event]:
        self._need_room()
        self.written.extend(commands)
        return []

    def _need_room(self) -> None:
        if self.full:
            raise StoreUnavailableError("database or disk is full")


class Listener:
    """In the engine's place: keeps what it is told, and wants done what the test wants done."""

    def __init__(self) -> None:
        self.heard: list[msg.Event] = []
        self.wants: list[msg.Command] = []

    def handle(self, event: msg.Event, _now: float) -> list[msg.Command]:
        self.heard.append(event)
        wants, self.wants = self.wants, []
        return wants

    def store_events(self) -> list[str]:
        return [type(e).__name__ for e in self.heard if isinstance(e, msg.StoreFailed | msg.StoreHealed)]


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Disk, Listener, Controller]]:
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(runner, "LEASE_SECONDS", 0.03)
    monkeypatch.setattr(runner, "HEAL_SECONDS", 0.01)
    disk, listener, nobody = Disk(), Listener(), Any
    controller = Controller(listener, disk, nobody, nobody, nobody, nobody)  # type: ignore[arg-type]
    await controller.lead()
    task = asyncio.create_task(controller.run())
    yield disk, listener, controller
    disk.full = False
    controller.stop()
    await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_store_that_fails_while_nothing_is_written_heals_too(
    running: tuple[Disk, Listener, Controller],
) -> None:
    disk, listener, _ = running
    disk.full = True
    await until(lambda: listener.store_events() == ["StoreFailed"])
    disk.full = False
    await until(lambda: listener.store_events() == ["StoreFailed", "StoreHealed"])
    disk.full = True
    await until(lambda: listener.store_events()[2:] == ["StoreFailed"])


async def test_what_a_full_store_refused_is_written_once_it_heals(running: tuple[Disk, Listener, Controller]) -> None:
    disk, listener, controller = running
    commands = [msg.Unpublish(key=f"machine/default/m{n}", kind="Machine") for n in range(2)]  # type: ignore[arg-type]
    disk.full = True
    for command in commands:
        listener.wants = [command]
        controller.tell(msg.Ticked())
        await until(lambda: not listener.wants)
    await until(lambda: listener.store_events() == ["StoreFailed"])
    disk.full = False
    await until(lambda: listener.store_events() == ["StoreFailed", "StoreHealed"])
    assert disk.written == commands
