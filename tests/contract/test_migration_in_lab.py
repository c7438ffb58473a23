"""Live migration between two real hypervisors, and what must be so before, during and after it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from moving_rig import HV1, HV2, Two, two

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Generation, ServerName
from bedplate.model.steps import (
    DefineDomain,
    Failed,
    ForgetDomain,
    MigrateDomain,
    ReceiveDomain,
    Refused,
    StartDomain,
    StopDomain,
    Unknown,
)

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Two]:
    async for real in two():
        yield real


@pytest_asyncio.fixture(loop_scope="module")
async def running(rig: Two) -> AsyncIterator[MachineEntry]:
    """A machine on hv1 whose guest agent has answered."""
    m = rig.machine()
    await rig.start(m)
    yield m
    await rig.clear(m)


def moving(m: MachineEntry, target: ServerName = HV2) -> MachineEntry:
    """The machine's next generation, by which it is to move."""
    return msgspec.structs.replace(m, server=target, source=m.server, generation=Generation(m.generation + 1))


def settled(m: MachineEntry) -> MachineEntry:
    """The generation after a move has ended."""
    return msgspec.structs.replace(m, source=ServerName(""), generation=Generation(m.generation + 1))


def order(rig: Two, m: MachineEntry) -> MigrateDomain:
    return MigrateDomain(machine=m, address=rig.news.server(m.server).address)


async def test_a_machine_moves_and_its_guest_has_not_noticed(rig: Two, running: MachineEntry) -> None:
    await rig.guest(running, "echo precious > /tmp/kept")
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    awaited = rig.seen(there)
    assert (awaited.state, awaited.generation, awaited.boot) == ("absent", there.generation, 1)
    result = await rig.done(order(rig, there))
    print(result.message)
    assert "standing still for" in result.message
    await rig.news.until(lambda: rig.seen(there).state == "running" and rig.seen(there).guest_agent)
    seen = rig.seen(there)
    assert (seen.generation, seen.boot, seen.volume, seen.disk_pool) == (there.generation, 1, True, "shared")
    left = rig.seen(there, HV1)
    assert (left.state, left.volume) == ("absent", False)
    assert (rig.runs(there, HV1), rig.runs(there, HV2)) == (False, True)
    assert await rig.guest(there, "cat /tmp/kept") == "precious"
