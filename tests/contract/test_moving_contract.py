"""Live moves and disks that change hands: two real agents with libvirt, and the simulated two, are asked the same.

What only real ones can show (that the guest has not noticed, encryption, a killed agent) is in `test_migration_in_lab`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from moving_rig import HV1, HV2, POOL, Two, two
from sim_moving_rig import SimulatedTwo

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Generation, ServerName
from bedplate.model.steps import (
    DefineDomain,
    DeleteVolume,
    Failed,
    ForgetDomain,
    HypervisorStep,
    MigrateDomain,
    ReceiveDomain,
    Refused,
    RemoveDomain,
    StartDomain,
    StopDomain,
    Unknown,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

Rig = Two | SimulatedTwo


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["simulated", pytest.param("agents", marks=pytest.mark.lab)]
)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "simulated":
        yield SimulatedTwo()
        return
    async for real in two():
        yield real


@pytest_asyncio.fixture(loop_scope="module")
async def running(rig: Rig) -> AsyncIterator[MachineEntry]:
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


def order(rig: Rig, m: MachineEntry) -> MigrateDomain:
    return MigrateDomain(machine=m, address=rig.news.server(m.server).address)


async def move(rig: Rig, m: MachineEntry) -> None:
    await rig.done(ReceiveDomain(machine=m))
    await rig.done(order(rig, m))
    await rig.news.until(lambda: rig.seen(m).state == "running")


async def failed(rig: Rig, step: HypervisorStep, reason: str) -> None:
    result = await rig.run(step)
    assert isinstance(result, Failed), result
    assert (result.reason, bool(result.message)) == (reason, True)


def slow(rig: Rig, m: MachineEntry) -> None:
    """Its move does not end in the time of a test."""
    if isinstance(rig, SimulatedTwo):
        rig.slow()
    else:
        rig.connection(m.server).lookupByUUIDString(m.uid).migrateSetMaxSpeed(1)


async def power(rig: Rig, server: ServerName, state: str) -> None:
    """Cut a server's power, or have it back with its agent."""
    if isinstance(rig, SimulatedTwo):
        await rig.power(server, state)
    elif state == "off":
        await asyncio.to_thread(rig.lab.power, server, "off")
    else:
        await rig.power_on(server)
    await rig.news.until(lambda: rig.news.server(server).connected == (state == "on"))


async def test_a_machine_moves_with_its_boot_number_and_its_disk(rig: Rig, running: MachineEntry) -> None:
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    awaited = rig.seen(there)
    assert (awaited.state, awaited.generation, awaited.boot) == ("absent", there.generation, 1)
    await rig.done(order(rig, there))
    await rig.news.until(lambda: rig.seen(there).state == "running" and rig.seen(there).guest_agent)
    seen = rig.seen(there)
    assert (seen.generation, seen.boot, seen.volume, seen.disk_pool) == (there.generation, 1, True, POOL)
    assert (rig.seen(there, HV1).state, rig.seen(there, HV1).volume) == ("absent", False)
    assert (rig.runs(there, HV1), rig.runs(there, HV2)) == (False, True)


async def test_it_moves_there_and_back_and_each_boot_is_started_once(rig: Rig, running: MachineEntry) -> None:
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    await move(rig, there)
    await rig.done(order(rig, there))  # asked again, it has moved
    assert isinstance(await rig.run(StopDomain(machine=running)), Refused)
    back = moving(settled(there), HV1)
    await move(rig, back)
    assert (rig.runs(back, HV1), rig.runs(back, HV2)) == (True, False)
    last = settled(back)
    await rig.done(DefineDomain(machine=last))
    await rig.done(StopDomain(machine=last, grace=0))
    await rig.done(StartDomain(machine=last))
    assert rig.seen(last).state == "shutoff"
    again = msgspec.structs.replace(settled(last), boot=2)
    await rig.done(DefineDomain(machine=again))
    await rig.done(StartDomain(machine=again))
    assert (rig.seen(again).state, rig.seen(again).boot, rig.seen(again).volume) == ("running", 2, True)


async def test_nothing_moves_to_a_server_that_does_not_await_it(rig: Rig, running: MachineEntry) -> None:
    there = moving(running)
    await failed(rig, order(rig, there), "MigrationFailed")
    assert (rig.seen(running).state, rig.runs(running, HV1)) == ("running", True)
    await failed(rig, ReceiveDomain(machine=rig.machine(HV2, source=HV1)), "VolumeMissing")
    await failed(rig, ReceiveDomain(machine=rig.machine(HV2)), "NotMoving")
    await rig.done(ForgetDomain(server=HV2, machine=msgspec.structs.replace(there, server=HV1)))


async def test_what_a_server_does_not_know_it_calls_unknown_and_what_is_off_does_not_move(
    rig: Rig, running: MachineEntry
) -> None:
    assert isinstance(await rig.run(order(rig, moving(rig.machine()))), Unknown)
    await rig.done(StopDomain(machine=running, grace=0))
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    await failed(rig, order(rig, there), "NotRunning")


async def test_a_move_that_does_not_end_is_called_off_and_the_guest_runs_on(rig: Rig, running: MachineEntry) -> None:
    slow(rig, running)
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    result = await rig.run(order(rig, there), deadline=22)
    assert isinstance(result, Failed)
    assert result.reason == "MigrationTimeout"
    assert (rig.runs(running, HV1), rig.runs(running, HV2)) == (True, False)
    stays = settled(msgspec.structs.replace(there, server=HV1))
    await rig.done(ForgetDomain(server=HV2, machine=stays))
    assert (rig.seen(stays, HV2).state, rig.seen(stays, HV2).volume) == ("absent", False)
    assert isinstance(await rig.run(ReceiveDomain(machine=there)), Refused)
    assert isinstance(await rig.run(ForgetDomain(server=HV1, machine=stays)), Refused)  # it is its own


async def test_a_dead_servers_machine_starts_elsewhere_on_its_disk_and_not_again_where_it_was(
    rig: Rig, running: MachineEntry
) -> None:
    await power(rig, HV1, "off")
    there = msgspec.structs.replace(settled(running), server=HV2, boot=2, carried=True)
    await rig.done(DefineDomain(machine=there))
    assert (rig.seen(there).state, rig.seen(there).volume) == ("defined", True)
    await rig.done(StartDomain(machine=there))
    assert (rig.seen(there).state, rig.seen(there).boot) == ("running", 2)
    await power(rig, HV1, "on")
    assert not rig.runs(there, HV1)
    assert not rig.seen(there, HV1).volume
    assert rig.seen(there, HV1).state != "running"
    await rig.done(ForgetDomain(server=HV1, machine=there))
    assert rig.seen(there, HV1).state == "absent"
    assert rig.runs(there, HV2)
    late = msgspec.structs.replace(running, generation=Generation(1))
    for step in (StartDomain(machine=late), RemoveDomain(machine=late), DeleteVolume(machine=late)):
        assert isinstance(await rig.run(step), Refused), step.name


async def test_a_disk_is_taken_over_only_where_there_is_one(rig: Rig) -> None:
    m = rig.machine(carried=True)
    await failed(rig, DefineDomain(machine=m), "VolumeMissing")
