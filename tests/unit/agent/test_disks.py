"""Disk pools as the agent tells of them: a pool that hangs holds up nothing, and what was known of it stays known."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import disk_world
from disk_world import HV1, HV2, STORE

from bedplate.agent import pool_io
from bedplate.agent.disks import Disks
from bedplate.agent.faults import AgentFault, OutOfDate
from bedplate.agent.pool_io import MOST_HUNG, PoolIo, StorageHung
from bedplate.agent.state import AgentState, MachineRecord
from bedplate.agent.volumes import SIDECAR, DiskPool, Volume
from bedplate.model.agent_protocol import Pool
from bedplate.model.blueprint import ImageRef, MachineEntry
from bedplate.model.ids import Digest, Generation, MachineUid, ServerName, StoreId

UID = MachineUid("11111111-2222-4333-8444-555555555555")


def machine(generation: int = 2) -> MachineEntry:
    image = ImageRef(name="i", disk=Digest("sha256:" + "a" * 64))
    return disk_world.machine(image, generation=Generation(generation), uid=UID, server=HV2)


def put(folder: Path, server: ServerName, generation: int = 1, store: StoreId = STORE) -> None:
    """A disk as another server would have made it."""
    place = folder / "machines" / UID
    place.mkdir(parents=True, exist_ok=True)
    (place / "disk.qcow2").write_text("precious")
    mark = Volume(store=store, uid=UID, generation=Generation(generation), server=server, name="default/m1")
    (place / SIDECAR).write_bytes(msgspec.json.encode(mark))


def pool(folder: Path, server: ServerName = HV2, kind: Any = "shared") -> DiskPool:
    return disk_world.pool(folder, server=server, kind=kind)


# --- taking over ------------------------------------------------------------------------------------------------------


def test_a_disk_of_another_server_is_taken_over_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, HV1)
    before, after = pool(tmp_path, HV1), pool(tmp_path)
    assert (before.volume(UID) is not None, after.volume(UID)) == (True, None)
    after.take_over(machine())
    after.take_over(machine())
    assert before.volume(UID) is None
    assert (found := after.volume(UID)) is not None
    assert (found.server, found.generation) == (HV2, 2)
    assert after.disk(UID).read_text() == "precious"
    with pytest.raises(OutOfDate):
        before.take_over(machine(1))


def test_what_is_not_there_or_not_ours_is_not_taken_over(tmp_path: Path) -> None:
    shared = pool(tmp_path)
    with pytest.raises(AgentFault) as caught:
        shared.take_over(machine())
    assert caught.value.reason == "VolumeMissing"
    put(tmp_path, HV1, store=StoreId("another"))
    with pytest.raises(AgentFault) as caught:
        shared.take_over(machine())
    assert caught.value.reason == "VolumeMissing"
    put(tmp_path, HV1)
    with pytest.raises(AgentFault) as caught:
        pool(tmp_path, kind="local").take_over(machine())
    assert caught.value.reason == "PoolNotShared"


def test_a_machine_that_has_come_has_its_disk_claimed(tmp_path: Path) -> None:
    put(tmp_path, HV1)
    shared = pool(tmp_path)
    shared.claim(UID, Generation(5))
    assert (found := shared.volume(UID)) is not None
    assert (found.generation, found.name) == (5, "default/m1")
    with pytest.raises(OutOfDate):
        pool(tmp_path, HV1).claim(UID, Generation(4))


# --- what is told -----------------------------------------------------------------------------------------------------


async def test_a_shared_pools_disk_is_told_only_while_the_machine_is_known(tmp_path: Path) -> None:
    put(tmp_path / "pool", HV1)
    state = AgentState(tmp_path / "state")
    disks = Disks(state, STORE, HV1)
    await disks.configure([Pool(name="p", path=str(tmp_path / "pool"), type="shared")])
    assert await disks.volumes() == {}
    record = MachineRecord(uid=UID, generation=Generation(1), disk_pool="p")
    state.keep(record)
    assert (await disks.volumes(), await disks.volume_of(UID)) == ({UID: "p"}, {UID: "p"})
    state.keep(msgspec.structs.replace(record, ended=1.0))
    assert (await disks.volumes(), await disks.volume_of(UID)) == ({}, {})


async def test_a_local_pools_disk_is_told_also_by_an_agent_that_lost_its_memory(tmp_path: Path) -> None:
    put(tmp_path / "pool", HV1)
    disks = Disks(AgentState(tmp_path / "state"), STORE, HV1)
    await disks.configure([Pool(name="p", path=str(tmp_path / "pool"))])
    assert await disks.volumes() == {UID: "p"}


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Pools hang until it is set."""
    monkeypatch.setattr(pool_io, "POOL_SECONDS", 0.1)
    monkeypatch.setattr(pool_io, "GLANCE_SECONDS", 0.05)
    released = threading.Event()
    yield released
    released.set()


async def test_what_was_known_of_a_pool_that_hangs_stays_known(
    tmp_path: Path, hang: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "pool", HV1)
    state = AgentState(tmp_path / "state")
    state.keep(MachineRecord(uid=UID, disk_pool="p"))
    shared = Pool(name="p", path=str(tmp_path / "pool"), type="shared")
    disks = Disks(state, STORE, HV1)
    await disks.configure([shared])
    assert await disks.volumes() == {UID: "p"}

    def stuck(*_: object) -> None:
        hang.wait(60)

    for name in ("volumes", "volume", "view", "retained", "prepare"):
        monkeypatch.setattr(DiskPool, name, stuck)
    assert (await disks.volumes(), await disks.volume_of(UID)) == ({UID: "p"}, {UID: "p"})
    views, wrong = await disks.views()
    assert (views, "does not answer" in wrong) == ([], True)
    late = Disks(state, STORE, HV1)  # an agent that begins while it hangs
    await late.configure([shared])
    assert (late.pools, await late.volumes()) == ({}, {UID: "p"})
    assert "does not answer" in (await late.views())[1]
    monkeypatch.undo()
    hang.set()
    async with asyncio.timeout(60):
        while "p" not in late.pools:
            await late.retry()
            await asyncio.sleep(0.01)
    assert (await late.views())[1] == ""


async def test_a_pool_that_hangs_costs_few_threads_and_answers_again(hang: threading.Event) -> None:
    io = PoolIo("p")
    before = threading.active_count()
    for _ in range(MOST_HUNG + 5):
        with pytest.raises(StorageHung) as caught:
            await io.call(hang.wait, 60)
    assert not caught.value.begun
    assert threading.active_count() - before <= MOST_HUNG
    with pytest.raises(StorageHung):
        await io.glance(lambda: 1)
    hang.set()
    async with asyncio.timeout(60):
        while io.hung:  # noqa: ASYNC110 - a thread ends
            await asyncio.sleep(0.01)
    assert await io.call(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        await io.call(Path("/absent/file").read_bytes)
