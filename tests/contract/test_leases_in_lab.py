"""Leases on a real shared pool: what ends where one is lost, what a watchdog is given, who starts nothing by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from moving_rig import HV1, HV2, POOL, Two, two

from bedplate.lab.hypervisor import SHARED_POOL
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Generation, ServerName, key
from bedplate.model.inventory import LoadView, MachineLoad
from bedplate.model.leases import EXPIRY, RENEW
from bedplate.model.steps import (
    CreateVolume,
    DefineDomain,
    Failed,
    ForgetDomain,
    PullImage,
    ReceiveDomain,
    Refused,
    StartDomain,
)

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

LEASES = f"{SHARED_POOL}/leases"


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


def newer(m: MachineEntry, **changes: object) -> MachineEntry:
    return msgspec.structs.replace(m, generation=Generation(m.generation + 1), **changes)


def held(rig: Two, holder: ServerName, witness: ServerName) -> bool | None:
    view = rig.news.lease(holder, witness)
    return view.held if view is not None else None


async def lose(rig: Two, server: ServerName) -> None:
    """The server's lease can't be written any more, with an empty read-only folder in its place."""
    await asyncio.to_thread(rig.inside, server, "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", LEASES)


async def regain(rig: Two, server: ServerName) -> None:
    await asyncio.to_thread(rig.inside, server, "umount", LEASES)
    await rig.news.until(lambda: held(rig, server, server) and rig.news.server(server).connected)


async def test_both_see_that_both_renew_and_are_guarded(rig: Two, running: MachineEntry) -> None:
    await rig.news.until(lambda: held(rig, HV1, HV2) and held(rig, HV2, HV1))
    await rig.news.until(lambda: (seen := rig.news.lease(HV1, HV2)) and seen.guarded)
    seen = rig.news.lease(HV1, HV2)
    assert seen is not None
    assert seen.boot_id == rig.news.server(HV1).boot_id
    rig.fed(HV1)
    await asyncio.sleep(2 * RENEW + 0.5)  # the watchdog is fed by the clock
    assert rig.fed(HV1) in {b"1" * n for n in (1, 2, 3)}


async def test_the_load_of_server_and_machine_is_told(rig: Two, running: MachineEntry) -> None:
    def told() -> MachineLoad | None:
        seen = rig.news.latest.get(key("load", HV1))
        machines = seen.value.machines if seen is not None and isinstance(seen.value, LoadView) else ()
        return next((m for m in machines if m.uid == running.uid), None)

    await rig.guest(running, "(while :; do :; done) >/dev/null 2>&1 &")
    await rig.news.until(lambda: (m := told()) and m.cpu > 0.1)
    view = rig.news.latest[key("load", HV1)].value
    assert isinstance(view, LoadView)
    assert 0 < view.cpu <= (os.cpu_count() or 1) + 0.5


async def test_a_lost_lease_ends_the_guests_of_its_pool_and_nothing_starts_until_it_is_back(
    rig: Two, running: MachineEntry
) -> None:
    await rig.news.until(lambda: held(rig, HV1, HV2))
    await lose(rig, HV1)
    begun = time.monotonic()
    try:
        await rig.news.until(lambda: held(rig, HV1, HV1) is False, 60)
        assert time.monotonic() - begun < EXPIRY + RENEW
        assert not rig.runs(running, HV1)
        await rig.news.until(lambda: held(rig, HV1, HV2) is False)
        assert rig.news.lease(HV2, HV1) is None  # it is the blind one
        await rig.news.until(lambda: rig.news.server(HV1).connected and rig.seen(running).state == "crashed")
        assert "lease was lost" in rig.news.server(HV1).error
        again = newer(running, boot=2)
        await rig.done(DefineDomain(machine=again))
        refused = await rig.run(StartDomain(machine=again))
        assert isinstance(refused, Failed)
        assert (refused.reason, "lease was lost" in refused.message) == ("LeaseNotHeld", True)
        coming = rig.machine(HV1, source=HV2)
        await rig.done(PullImage(server=HV2, disk_pool=POOL, image=coming.image))
        await rig.done(CreateVolume(machine=msgspec.structs.replace(coming, server=HV2)))
        refused = await rig.run(ReceiveDomain(machine=coming))
        assert isinstance(refused, Failed)
        assert refused.reason == "LeaseNotHeld"
        rig.fed(HV1)
        await asyncio.sleep(RENEW + 0.5)
        assert rig.fed(HV1)  # its duty is done, so the server need not be reset
    finally:
        await regain(rig, HV1)
    await rig.done(StartDomain(machine=again))
    await rig.news.until(lambda: held(rig, HV1, HV2))
    assert (rig.seen(again).state, rig.seen(again).boot) == ("running", 2)
    await rig.clear(coming)


async def test_guests_are_ended_also_where_libvirt_hangs(rig: Two, running: MachineEntry) -> None:
    hypervisor = next(h for h in rig.lab.status().hypervisors if h.name == HV1)
    libvirtd = await asyncio.to_thread(_pid_inside, rig, "libvirtd")
    os.kill(libvirtd, signal.SIGSTOP)
    try:
        await lose(rig, HV1)
        async with asyncio.timeout(EXPIRY):
            while _qemu(rig, running):  # noqa: ASYNC110 - libvirt, which would tell, hangs
                await asyncio.sleep(0.1)
    finally:
        os.kill(libvirtd, signal.SIGCONT)
        await regain(rig, HV1)
    assert hypervisor.power == "on"
    await rig.news.until(lambda: rig.seen(running).state == "crashed")


def _processes(rig: Two) -> list[Path]:
    """Folders in /proc of all processes in hv1."""
    first = rig.lab.exec(HV1, ["readlink", "/proc/1/ns/pid"]).stdout.strip()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/pid") == first:
                found.append(entry)
        except OSError:
            continue
    return found


def _pid_inside(rig: Two, command: str) -> int:
    return next(int(p.name) for p in _processes(rig) if (p / "comm").read_text().strip() == command)


def _qemu(rig: Two, m: MachineEntry) -> bool:
    return any(m.uid.encode() in (p / "cmdline").read_bytes() for p in _processes(rig) if p.exists())


async def test_a_killed_agents_successor_feeds_on_and_the_guest_does_not_notice(
    rig: Two, running: MachineEntry
) -> None:
    rig.kill_agent(HV1)
    await rig.news.until(lambda: not rig.news.server(HV1).connected)
    rig.fed(HV1)
    await rig.news.until(lambda: rig.news.server(HV1).connected and rig.seen(running).guest_agent)
    assert b"V" not in rig.fed(HV1)
    assert await rig.guest(running, "echo here") == "here"
    assert held(rig, HV1, HV2)


async def test_an_agent_that_is_told_to_end_lets_go_of_the_watchdog(rig: Two, running: MachineEntry) -> None:
    await rig.news.until(lambda: (seen := rig.news.lease(HV1, HV2)) and seen.guarded)
    rig.fed(HV1)
    rig.kill_agent(HV1, signal.SIGTERM)
    await rig.news.until(lambda: not rig.news.server(HV1).connected)
    async with asyncio.timeout(20):
        while b"V" not in (fed := rig.fed(HV1)):  # noqa: ASYNC110 - a FIFO sets no event
            await asyncio.sleep(0.05)
    assert fed
    await rig.news.until(lambda: rig.news.server(HV1).connected and rig.seen(running).guest_agent)
    await rig.news.until(lambda: (seen := rig.news.lease(HV1, HV2)) and seen.held and seen.guarded)
    assert await rig.guest(running, "echo here") == "here"


async def test_a_machine_of_a_dead_server_goes_on_elsewhere_with_its_disk(rig: Two, running: MachineEntry) -> None:
    await asyncio.to_thread(rig.lab.power, HV1, "off")
    await rig.news.until(lambda: not rig.news.server(HV1).connected, 12)
    carried = newer(running, server=HV2, boot=2, carried=True)
    inode = (rig.lab.folder / "shared" / "machines" / running.uid / "disk.qcow2").stat().st_ino
    await rig.done(CreateVolume(machine=carried))  # it is never made anew
    await rig.done(DefineDomain(machine=carried))
    assert (rig.seen(carried).state, rig.seen(carried).volume) == ("defined", True)
    await rig.done(StartDomain(machine=carried))
    await rig.news.until(lambda: rig.seen(carried).guest_agent)
    assert (rig.lab.folder / "shared" / "machines" / running.uid / "disk.qcow2").stat().st_ino == inode
    await rig.news.until(lambda: held(rig, HV1, HV2) is False)

    await rig.power_on(HV1)
    old = rig.seen(carried, HV1)
    assert (old.state, old.generation, old.volume) == ("shutoff", 1, False)
    assert not rig.runs(running, HV1)  # it starts nothing by itself
    in_use = await rig.run(StartDomain(machine=msgspec.structs.replace(running, boot=3)))
    assert isinstance(in_use, Failed), in_use  # not even where it is told to
    await rig.done(ForgetDomain(server=HV1, machine=carried))
    assert (rig.seen(carried, HV1).state, rig.seen(carried, HV1).volume) == ("absent", False)
    assert isinstance(await rig.run(StartDomain(machine=running)), Refused)
    assert rig.runs(carried, HV2)
    assert (rig.lab.folder / "shared" / "machines" / running.uid / "disk.qcow2").stat().st_ino == inode


async def test_a_disk_that_is_not_there_is_not_made_for_a_machine_that_had_one(rig: Two) -> None:
    lost = rig.machine(carried=True)
    for step in (CreateVolume(machine=lost), DefineDomain(machine=lost)):
        result = await rig.run(step)
        assert isinstance(result, Failed)
        assert result.reason == "VolumeMissing"
    assert not (rig.lab.folder / "shared" / "machines" / lost.uid).exists()
