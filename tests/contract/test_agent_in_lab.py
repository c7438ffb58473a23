"""What only the real agent can show: killed and cut off in the middle of things, it and its guests go on."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from hypervisor_rig import HV1, PATIENCE, POOL, InLab, in_lab, poll

from bedplate.model.blueprint import ImageRef, MachineEntry
from bedplate.model.ids import Digest, Generation, key
from bedplate.model.inventory import DomainView
from bedplate.model.steps import (
    CreateVolume,
    DefineDomain,
    DeleteVolume,
    Done,
    Failed,
    PullImage,
    RemoveDomain,
    StartDomain,
    StepResult,
    StopDomain,
    Unknown,
)

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

LARGE = 256 << 20
"""Bytes of an image that takes a second or more to fetch."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[InLab]:
    async for real in in_lab():
        yield real


@pytest_asyncio.fixture(loop_scope="module")
async def running(rig: InLab) -> AsyncIterator[MachineEntry]:
    """A machine whose guest agent has answered."""
    m = rig.machine()
    await start(rig, m)
    await rig.news.until(lambda: seen(rig, m).guest_agent)
    yield m
    await end(rig, m)


def done(result: StepResult) -> None:
    assert isinstance(result, Done), result


def seen(rig: InLab, m: MachineEntry) -> DomainView:
    found = rig.news.domain(m.uid)
    assert found is not None
    return found


async def start(rig: InLab, m: MachineEntry) -> None:
    done(await rig.run(PullImage(server=HV1, disk_pool=POOL, image=m.image)))
    for step in (CreateVolume, DefineDomain, StartDomain):
        done(await rig.run(step(machine=m)))


async def end(rig: InLab, m: MachineEntry) -> None:
    last = msgspec.structs.replace(m, generation=Generation(1000))
    done(await rig.run(RemoveDomain(machine=last)))
    done(await rig.run(DeleteVolume(machine=last)))


async def hear(rig: InLab, m: MachineEntry, words: bytes, say: bytes = b"") -> bytes:
    """Attach to the console, say something, and read until the words come."""
    console = await rig.server.console(HV1, m.uid)
    heard = b""
    try:
        if say:
            await console.write(say)
        async with asyncio.timeout(PATIENCE):
            while words not in heard:
                got = await console.read()
                assert got, f"the console ended after {heard!r}"
                heard += got
    finally:
        await console.close()
    return heard


async def test_the_console_gives_what_the_guest_says_and_takes_what_it_is_told(
    rig: InLab, running: MachineEntry
) -> None:
    await hear(rig, running, b"you said: hello", b"hello\n")
    await hear(rig, running, b"you said: again", b"again\n")  # a second time, after the first was closed
    with pytest.raises(OSError, match="no domain"):
        await rig.server.console(HV1, rig.machine().uid)


async def test_a_guest_without_a_guest_agent_runs(rig: InLab) -> None:
    silent = msgspec.structs.replace(
        rig.image, command_line=f"{rig.image.command_line} module_blacklist=virtio_console"
    )
    m = rig.machine(image=silent)
    await start(rig, m)
    try:
        log = rig.pool_folder() / "machines" / m.uid / "console.log"
        await poll(lambda: log.exists() and b"is up at" in log.read_bytes())
        await rig.reconnect()
        assert (seen(rig, m).state, seen(rig, m).guest_agent) == ("running", False)
    finally:
        await end(rig, m)


async def test_killed_in_the_middle_of_a_pull_it_goes_on_where_it_was(
    rig: InLab, running: MachineEntry, tmp_path: Path
) -> None:
    before, number, reports = seen(rig, running), rig.qemu(running), len(rig.news.full)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LARGE)
    sha = hashlib.sha256(large.read_bytes()).hexdigest()
    rig.images.files[Digest(f"sha256:{sha}")] = large
    folder = rig.pool_folder() / "images"
    part, whole = folder / f".{sha}.part", folder / sha
    step = PullImage(server=HV1, disk_pool=POOL, image=ImageRef(name="large", disk=Digest(f"sha256:{sha}")))
    pulling = asyncio.ensure_future(rig.run(step, deadline=PATIENCE))
    try:
        await poll(lambda: part.exists() and part.stat().st_size > 0)
        rig.kill_agent()
        assert 0 < part.stat().st_size < LARGE
        assert not whole.exists()
        inode = part.stat().st_ino
        result = await pulling
        if isinstance(result, Unknown):  # it took longer to come back than a command waits for
            result = await rig.run(step, deadline=PATIENCE)
        done(result)
        assert len(rig.news.full) > reports
        assert (whole.stat().st_ino, whole.stat().st_size, part.exists()) == (inode, LARGE, False)
        pool = rig.news.server().pool(POOL)
        assert pool is not None
        assert Digest(f"sha256:{sha}") in pool.images
        await rig.news.until(lambda: seen(rig, running).guest_agent)
        assert (seen(rig, running), rig.qemu(running)) == (before, number)
    finally:
        pulling.cancel()
        whole.unlink(missing_ok=True)


async def test_killed_after_a_start_it_tells_the_same_and_starts_nothing_twice(
    rig: InLab, running: MachineEntry
) -> None:
    before, number, reports = seen(rig, running), rig.qemu(running), len(rig.news.full)
    rig.kill_agent()
    await rig.news.until(lambda: not rig.news.server().connected)
    assert rig.news.latest[before.key].good_until < float("inf")  # known, but no longer for what is
    await rig.news.until(lambda: len(rig.news.full) > reports)
    await rig.news.until(lambda: seen(rig, running).guest_agent)
    assert seen(rig, running) == before
    done(await rig.run(StartDomain(machine=running)))
    assert (rig.qemu(running), seen(rig, running)) == (number, before)
    done(await rig.run(StopDomain(machine=running, grace=0)))
    reports = len(rig.news.full)
    rig.kill_agent()
    await rig.news.until(lambda: len(rig.news.full) > reports)
    done(await rig.run(StartDomain(machine=running)))
    assert (seen(rig, running).state, seen(rig, running).boot) == ("shutoff", 1)
    late = msgspec.structs.replace(running, generation=Generation(0))
    assert not isinstance(await rig.run(RemoveDomain(machine=late)), Done)


async def test_cut_off_and_mended_it_tells_what_happened_meanwhile(rig: InLab, running: MachineEntry) -> None:
    reports = len(rig.news.full)
    await asyncio.to_thread(rig.lab.uplink, HV1, "down")
    try:
        await rig.news.until(lambda: not rig.news.server().connected)
        assert rig.news.server().error
        assert rig.news.latest[key("domain", HV1, running.uid)].good_until < float("inf")
        result = await rig.run(StopDomain(machine=running))
        assert isinstance(result, Failed)
        assert result.reason == "NotConnected"
        assert rig.qemu(running) > 0  # the guest knows nothing of it
        rig.end_guest(running)
    finally:
        await asyncio.to_thread(rig.lab.uplink, HV1, "up")
    await rig.news.until(lambda: len(rig.news.full) > reports)
    assert rig.news.server().connected
    assert (seen(rig, running).state, seen(rig, running).boot) == ("shutoff", 1)
    done(await rig.run(StopDomain(machine=running)))
