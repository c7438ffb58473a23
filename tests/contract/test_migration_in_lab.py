"""Live migration between two real hypervisors, and what must be so before, during and after it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt_qemu
import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from moving_rig import HV1, HV2, Two, two

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Generation, ServerName
from bedplate.model.steps import (
    DefineDomain,
    Done,
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
    assert "standing still for" in result.message
    await rig.news.until(lambda: rig.seen(there).state == "running" and rig.seen(there).guest_agent)
    seen = rig.seen(there)
    assert (seen.generation, seen.boot, seen.volume, seen.disk_pool) == (there.generation, 1, True, "shared")
    left = rig.seen(there, HV1)
    assert (left.state, left.volume) == ("absent", False)
    assert (rig.runs(there, HV1), rig.runs(there, HV2)) == (False, True)
    assert await rig.guest(there, "cat /tmp/kept") == "precious"


async def test_it_moves_there_and_back_and_each_boot_is_started_once(rig: Two, running: MachineEntry) -> None:
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    await rig.done(ReceiveDomain(machine=there))
    await rig.done(order(rig, there))
    await rig.done(order(rig, there))  # asked again, it says that it has moved
    assert isinstance(await rig.run(StopDomain(machine=running)), Refused)
    home = settled(there)
    assert "runs" in (await rig.done(StartDomain(machine=msgspec.structs.replace(there, source="")))).message
    back = moving(home, HV1)
    await rig.done(ReceiveDomain(machine=back))
    await rig.done(order(rig, back))
    await rig.news.until(lambda: rig.seen(back).state == "running")
    assert (rig.runs(back, HV1), rig.runs(back, HV2)) == (True, False)
    last = settled(back)
    await rig.done(DefineDomain(machine=last))
    await rig.done(StopDomain(machine=last, grace=0))
    assert "started before" in (await rig.done(StartDomain(machine=last))).message
    again = msgspec.structs.replace(settled(last), boot=2)
    await rig.done(DefineDomain(machine=again))
    await rig.done(StartDomain(machine=again))
    assert (rig.seen(again).state, rig.seen(again).boot, rig.seen(again).volume) == ("running", 2, True)


async def test_nothing_moves_to_a_server_that_does_not_await_it(rig: Two, running: MachineEntry) -> None:
    there = moving(running)
    refused = await rig.run(order(rig, there))
    assert isinstance(refused, Failed)
    assert refused.reason == "MigrationFailed"
    assert (rig.seen(running).state, rig.runs(running, HV1)) == ("running", True)
    gone = rig.machine(HV2, source=HV1)
    missing = await rig.run(ReceiveDomain(machine=gone))
    assert isinstance(missing, Failed)
    assert missing.reason == "VolumeMissing"
    await rig.done(ForgetDomain(server=HV2, machine=msgspec.structs.replace(there, server=HV1)))


async def test_what_a_server_does_not_know_it_calls_unknown(rig: Two) -> None:
    assert isinstance(await rig.run(order(rig, moving(rig.machine()))), Unknown)


def slow(rig: Two, m: MachineEntry, speed: int = 1) -> None:
    """The machine's memory goes out at so many MiB/s: at 1, its move does not end in the time of a test."""
    rig.connection(m.server).lookupByUUIDString(m.uid).migrateSetMaxSpeed(speed)


async def under_way(rig: Two, m: MachineEntry) -> None:
    """Wait until memory is on its way, and see that it is encrypted."""
    domain = rig.connection(m.server).lookupByUUIDString(m.uid)
    async with asyncio.timeout(60):
        while not domain.jobStats().get("memory_processed"):  # noqa: ASYNC110 - a job sets no event
            await asyncio.sleep(0.05)
    told = libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-migrate-parameters"}', 0)
    parameters = json.loads(told)["return"]
    assert (parameters["tls-creds"] != "", parameters["tls-hostname"]) == (True, "hv2")


async def test_a_move_that_does_not_end_is_called_off_and_the_guest_runs_on(rig: Two, running: MachineEntry) -> None:
    slow(rig, running)
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    asked = asyncio.ensure_future(rig.run(order(rig, there), deadline=22))
    await under_way(rig, running)
    result = await asked
    assert isinstance(result, Failed)
    assert result.reason == "MigrationTimeout"
    assert await rig.guest(msgspec.structs.replace(there, server=HV1), "echo here") == "here"
    assert not rig.runs(running, HV2)
    stays = settled(msgspec.structs.replace(there, server=HV1))
    await rig.done(ForgetDomain(server=HV2, machine=stays))
    assert (rig.seen(stays, HV2).state, rig.seen(stays, HV2).volume) == ("absent", False)
    assert isinstance(await rig.run(ReceiveDomain(machine=there)), Refused)
    assert isinstance(await rig.run(ForgetDomain(server=HV1, machine=stays)), Refused)  # it is its own


async def test_an_agent_that_is_killed_meanwhile_tells_what_became_of_the_move(rig: Two, running: MachineEntry) -> None:
    slow(rig, running, 8)
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    asked = asyncio.ensure_future(rig.run(order(rig, there), deadline=300))
    await under_way(rig, running)
    rig.kill_agent(HV1)  # the way to the other libvirt goes with it; the order is given again to the next agent
    await rig.news.until(lambda: not rig.news.server(HV1).connected)
    result = await asked
    assert isinstance(result, Done), (result, rig.said())
    assert (rig.runs(there, HV1), rig.runs(there, HV2)) == (False, True)


async def test_a_target_that_dies_leaves_the_guest_where_it_is(rig: Two, running: MachineEntry) -> None:
    slow(rig, running)
    there = moving(running)
    await rig.done(ReceiveDomain(machine=there))
    asked = asyncio.ensure_future(rig.run(order(rig, there), deadline=300))
    await under_way(rig, running)
    await asyncio.to_thread(rig.lab.power, HV2, "off")
    try:
        result = await asked
        assert isinstance(result, Failed), result
        assert await rig.guest(msgspec.structs.replace(there, server=HV1), "echo here") == "here"
    finally:
        await rig.power_on(HV2)
