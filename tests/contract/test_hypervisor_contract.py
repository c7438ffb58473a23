"""The steps on a hypervisor: the real agent with libvirt and its simulated twin are asked the same.

Each step can be repeated, nothing out of date has an effect, what another store made is left alone, and what is
observed afterwards is what is so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from hypervisor_rig import HV1, OTHER, POOL, Rig, Simulated, in_lab

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, Generation, MachineUid
from bedplate.model.inventory import DomainView, RetainedDiskView, ServerView
from bedplate.model.steps import (
    CreateVolume,
    DefineDomain,
    DeleteRetained,
    DeleteVolume,
    Done,
    DropImage,
    Failed,
    HypervisorStep,
    PullImage,
    Refused,
    RemoveDomain,
    RetainVolume,
    StartDomain,
    StepResult,
    StopDomain,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOST = Digest("sha256:" + "0" * 64)
Make = Callable[..., MachineEntry]


@pytest.fixture(scope="module", params=["simulated", pytest.param("agent", marks=pytest.mark.lab)])
def rig_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(rig_kind: str) -> AsyncIterator[Rig]:
    if rig_kind == "simulated":
        yield Simulated()
        return
    async for real in in_lab():
        yield real


@pytest_asyncio.fixture(loop_scope="module")
async def make(rig: Rig) -> AsyncIterator[Make]:
    """Machines, of which nothing is left afterwards."""
    made: list[MachineEntry] = []

    def one(**changes: Any) -> MachineEntry:
        made.append(rig.machine(**changes))
        return made[-1]

    yield one
    for m in made:
        last = msgspec.structs.replace(m, generation=Generation(1000), disk_pool=POOL)
        done(await rig.run(RemoveDomain(machine=last)))
        done(await rig.run(DeleteVolume(machine=last)))
        done(await rig.run(drop(last)))


def done(result: StepResult) -> Done:
    assert isinstance(result, Done), result
    return result


def failed(result: StepResult, reason: str) -> None:
    assert isinstance(result, Failed), result
    assert (result.reason, bool(result.message)) == (reason, True)


def pull(m: MachineEntry) -> PullImage:
    return PullImage(server=HV1, disk_pool=POOL, image=m.image)


def drop(m: MachineEntry) -> DeleteRetained:
    return DeleteRetained(server=HV1, disk_pool=POOL, uid=m.uid, generation=m.generation)


def drop_image(digest: Digest, pool: str = POOL) -> DropImage:
    return DropImage(server=HV1, disk_pool=pool, digest=digest)


def newer(m: MachineEntry, **changes: Any) -> MachineEntry:
    return msgspec.structs.replace(m, generation=Generation(m.generation + 1), **changes)


async def raise_(rig: Rig, m: MachineEntry, *, start: bool = True) -> None:
    """Bring a machine up from nothing, or all but started."""
    steps: list[HypervisorStep] = [pull(m), CreateVolume(machine=m), DefineDomain(machine=m)]
    for step in [*steps, StartDomain(machine=m)] if start else steps:
        done(await rig.run(step))


def seen(rig: Rig, m: MachineEntry) -> DomainView:
    found = rig.news.domain(m.uid)
    assert found is not None
    return found


def kept_disk(rig: Rig, m: MachineEntry) -> bool:
    found = rig.news.retained(m.uid)
    assert found is not None
    return found.present


def state(rig: Rig, m: MachineEntry) -> tuple[str, int, bool]:
    view = seen(rig, m)
    return view.state, view.boot, view.volume


# --- from nothing and back --------------------------------------------------------------------------------------------


async def test_a_machine_from_nothing_to_nothing_is_seen_at_each_step(rig: Rig, make: Make) -> None:
    m = make()
    done(await rig.run(pull(m)))
    pool = rig.news.server().pool(POOL)
    assert pool is not None
    assert {m.image.disk, m.image.kernel, m.image.initrd} <= set(pool.images)
    stages: list[tuple[HypervisorStep, tuple[str, int, bool]]] = [
        (CreateVolume(machine=m), ("absent", 0, True)),
        (DefineDomain(machine=m), ("defined", 0, True)),
        (StartDomain(machine=m), ("running", 1, True)),
        (StopDomain(machine=m, grace=10), ("shutoff", 1, True)),
        (RemoveDomain(machine=m), ("absent", 1, True)),
        (DeleteVolume(machine=m), ("absent", 1, False)),
    ]
    for step, expected in stages:
        result = done(await rig.run(step))
        assert state(rig, m) == expected, step.name
        for view in result.views:  # what a reply tells was observed before it
            assert isinstance(view, DomainView)
            assert (view.uid, view.state, view.boot) == (m.uid, *expected[:2])
        assert seen(rig, m).disk_pool == (POOL if expected[2] else "")
        assert (seen(rig, m).started > 0) == (step.name in {"StartDomain", "StopDomain"})


async def test_a_guest_agent_that_answers_is_seen_and_goes_with_its_guest(rig: Rig, make: Make) -> None:
    m = make()
    await raise_(rig, m)
    await rig.news.until(lambda: seen(rig, m).guest_agent)
    assert state(rig, m) == ("running", 1, True)
    rig.end_guest(m)
    await rig.news.until(lambda: seen(rig, m).state == "shutoff")
    assert (seen(rig, m).guest_agent, seen(rig, m).boot) == (False, 1)


async def test_each_step_can_be_repeated_and_changes_nothing_the_second_time(rig: Rig, make: Make) -> None:
    m = make()
    for step in (pull(m), CreateVolume(machine=m), DefineDomain(machine=m), StartDomain(machine=m)):
        done(await rig.run(step))
        if isinstance(step, StartDomain):
            await rig.news.until(lambda: seen(rig, m).guest_agent)
        before = rig.news.domain(m.uid)
        done(await rig.run(step))
        assert rig.news.domain(m.uid) == before, step.name
    for step in (StopDomain(machine=m, grace=0), RemoveDomain(machine=m), RetainVolume(machine=m)):
        done(await rig.run(step))
        before = rig.news.domain(m.uid)
        done(await rig.run(step))
        assert rig.news.domain(m.uid) == before, step.name
    for _ in range(2):
        done(await rig.run(drop(m)))
        assert not kept_disk(rig, m)


async def test_one_operation_asked_twice_is_one(rig: Rig, make: Make) -> None:
    m = make()
    await raise_(rig, m, start=False)
    both = [rig.run(StartDomain(machine=m), operation=f"twice-{m.uid}") for _ in range(2)]
    first, second = await asyncio.gather(*both)
    assert first == second
    done(await rig.run(StopDomain(machine=m, grace=0)))
    assert await rig.run(StartDomain(machine=m), operation=f"twice-{m.uid}") == first
    assert seen(rig, m).state == "shutoff"


async def test_what_is_not_there_is_removed_already_and_can_not_be_started_or_kept(rig: Rig, make: Make) -> None:
    m = make()
    for step in (StopDomain(machine=m), RemoveDomain(machine=m), DeleteVolume(machine=m), drop(m)):
        done(await rig.run(step))
    failed(await rig.run(StartDomain(machine=m)), "DomainMissing")
    failed(await rig.run(RetainVolume(machine=m)), "VolumeMissing")


# --- boots ------------------------------------------------------------------------------------------------------------


async def test_a_boot_number_is_started_once(rig: Rig, make: Make) -> None:
    m = make()
    await raise_(rig, m)
    done(await rig.run(StopDomain(machine=m, grace=0)))
    done(await rig.run(StartDomain(machine=m)))
    assert state(rig, m) == ("shutoff", 1, True)
    again = newer(m, boot=2)
    failed(await rig.run(StartDomain(machine=again)), "DomainOutdated")
    done(await rig.run(DefineDomain(machine=again)))
    assert (*state(rig, m), seen(rig, m).generation) == ("defined", 1, True, 2)
    done(await rig.run(StartDomain(machine=again)))
    assert state(rig, m) == ("running", 2, True)


async def test_a_running_machine_defined_anew_runs_on(rig: Rig, make: Make) -> None:
    m = make()
    await raise_(rig, m)
    await rig.news.until(lambda: seen(rig, m).guest_agent)
    before = seen(rig, m)
    done(await rig.run(DefineDomain(machine=newer(m, memory_mib=160))))
    assert seen(rig, m) == msgspec.structs.replace(before, generation=Generation(2))
    done(await rig.run(StartDomain(machine=newer(m, memory_mib=160))))
    assert (seen(rig, m).boot, seen(rig, m).started) == (1, before.started)


async def test_a_start_that_fails_spends_no_boot_number(rig: Rig, make: Make) -> None:
    m = make()
    done(await rig.run(DefineDomain(machine=m)))
    failed(await rig.run(StartDomain(machine=m)), "VolumeMissing")
    assert state(rig, m) == ("defined", 0, False)
    broken = make()
    broken = msgspec.structs.replace(broken, nic=msgspec.structs.replace(broken.nic, bridge="none"))
    await raise_(rig, broken, start=False)
    failed(await rig.run(StartDomain(machine=broken)), "LibvirtError")
    mended = newer(broken, nic=msgspec.structs.replace(broken.nic, bridge="br0"))
    done(await rig.run(DefineDomain(machine=mended)))
    assert state(rig, mended) == ("defined", 0, True)
    done(await rig.run(StartDomain(machine=mended)))
    assert state(rig, mended) == ("running", 1, True)


# --- fences -----------------------------------------------------------------------------------------------------------


def all_steps(m: MachineEntry) -> list[HypervisorStep]:
    return [
        pull(m),
        CreateVolume(machine=m),
        DefineDomain(machine=m),
        StartDomain(machine=m),
        StopDomain(machine=m),
        RemoveDomain(machine=m),
        DeleteVolume(machine=m),
        RetainVolume(machine=m),
        drop(m),
    ]


async def test_a_lower_generation_is_refused_by_every_step_of_a_machine(rig: Rig, make: Make) -> None:
    m = make(generation=Generation(3))
    await raise_(rig, m, start=False)
    before = seen(rig, m)
    late = msgspec.structs.replace(m, generation=Generation(2))
    for step in all_steps(late)[1:-1]:
        assert isinstance(await rig.run(step), Refused), step.name
    assert seen(rig, m) == before


async def test_a_generation_is_remembered_after_the_machine_is_gone(rig: Rig, make: Make) -> None:
    m = make(generation=Generation(3))
    await raise_(rig, m, start=False)
    done(await rig.run(RemoveDomain(machine=m)))
    done(await rig.run(DeleteVolume(machine=m)))
    late = msgspec.structs.replace(m, generation=Generation(2))
    for step in (CreateVolume(machine=late), DefineDomain(machine=late)):
        assert isinstance(await rig.run(step), Refused)


async def test_a_lower_epoch_or_another_store_is_refused_by_every_step(rig: Rig, make: Make) -> None:
    m = make()
    await raise_(rig, m, start=False)
    rig.epoch += 1
    done(await rig.run(pull(m)))
    before = seen(rig, m)
    for step in all_steps(m):
        assert isinstance(await rig.run(step, epoch=rig.epoch - 1), Refused), step.name
        assert isinstance(await rig.run(step, store=OTHER), Refused), step.name
    assert seen(rig, m) == before


# --- whose it is ------------------------------------------------------------------------------------------------------


async def test_what_another_store_made_is_left_alone_and_not_claimed(rig: Rig) -> None:
    m = rig.machine()
    rig.make_foreign(m)
    try:
        report = await rig.reconnect()
        assert not [v for v in report if getattr(v, "uid", "") == m.uid]
        done(await rig.run(pull(m)))
        for step in (CreateVolume, DefineDomain, RemoveDomain, DeleteVolume, RetainVolume):
            failed(await rig.run(step(machine=m)), "NotOurs")
        assert isinstance(await rig.run(StartDomain(machine=m)), Failed)
        done(await rig.run(StopDomain(machine=m)))  # nothing of ours runs
        assert rig.foreign(m) == (True, True)
        report = await rig.reconnect()
        assert not [v for v in report if getattr(v, "uid", "") == m.uid]
    finally:
        rig.drop_foreign(m)


# --- disks ------------------------------------------------------------------------------------------------------------


async def test_an_image_that_can_not_be_had_fails_with_its_reason_and_leaves_nothing(rig: Rig, make: Make) -> None:
    m = make()
    no_disk = msgspec.structs.replace(m, image=msgspec.structs.replace(m.image, disk=LOST))
    no_kernel = msgspec.structs.replace(m, image=msgspec.structs.replace(m.image, kernel=LOST))
    for step in (pull(no_disk), pull(no_kernel), CreateVolume(machine=no_disk), DefineDomain(machine=no_kernel)):
        failed(await rig.run(step), "ImageNotFound")
    pool = rig.news.server().pool(POOL)
    assert pool is not None
    assert LOST not in pool.images
    assert not [v for v in await rig.reconnect() if getattr(v, "uid", "") == m.uid]
    done(await rig.run(CreateVolume(machine=m)))  # fetches what it needs by itself
    assert state(rig, m) == ("absent", 0, True)


async def test_a_pool_that_is_not_served_and_a_disk_that_is_too_small(rig: Rig, make: Make) -> None:
    m = make(disk_pool="none")
    nowhere = PullImage(server=HV1, disk_pool="none", image=m.image)
    gone = DeleteRetained(server=HV1, disk_pool="none", uid=m.uid, generation=m.generation)
    for step in (nowhere, gone, CreateVolume(machine=m), DefineDomain(machine=m), DeleteVolume(machine=m)):
        failed(await rig.run(step), "PoolMissing")
    failed(await rig.run(RetainVolume(machine=m)), "PoolMissing")
    failed(await rig.run(CreateVolume(machine=make(disk_mib=8))), "DiskTooSmall")


async def test_an_image_goes_only_once_no_disk_stands_on_it(rig: Rig, make: Make) -> None:
    m = make(retain_disk=True)
    files = (m.image.disk, m.image.kernel, m.image.initrd)
    await raise_(rig, m, start=False)
    for digest in files:
        failed(await rig.run(drop_image(digest)), "ImageInUse")
    done(await rig.run(RemoveDomain(machine=m)))
    done(await rig.run(RetainVolume(machine=m)))
    failed(await rig.run(drop_image(m.image.disk)), "ImageInUse")
    done(await rig.run(drop(m)))
    done(await rig.run(pull(m)))  # nothing to fetch; the pool is looked at
    pool = rig.news.server().pool(POOL)
    assert pool is not None
    assert set(files) <= set(pool.unused) <= set(pool.images)
    for digest in (*files, *files):  # what is gone is done
        done(await rig.run(drop_image(digest)))
    pool = rig.news.server().pool(POOL)
    assert pool is not None
    assert not set(files) & {*pool.images, *pool.unused}
    other = make()  # a machine whose disk was retained never comes back
    done(await rig.run(CreateVolume(machine=other)))  # fetches what it needs by itself
    assert state(rig, other) == ("absent", 0, True)
    failed(await rig.run(drop_image(m.image.disk)), "ImageInUse")
    failed(await rig.run(drop_image(m.image.disk, "none")), "PoolMissing")
    assert isinstance(await rig.run(drop_image(LOST), store=OTHER), Refused)


async def test_a_disk_stays_as_long_as_its_domain(rig: Rig, make: Make) -> None:
    m = make()
    await raise_(rig, m)
    for step in (DeleteVolume(machine=m), RetainVolume(machine=m)):
        failed(await rig.run(step), "DomainPresent")
    done(await rig.run(StopDomain(machine=m, grace=0)))
    for step in (DeleteVolume(machine=m), RetainVolume(machine=m)):
        failed(await rig.run(step), "DomainPresent")
    assert state(rig, m) == ("shutoff", 1, True)


async def test_a_retained_disk_is_listed_until_it_is_deleted(rig: Rig, make: Make) -> None:
    m = make(retain_disk=True)
    await raise_(rig, m, start=False)
    done(await rig.run(RemoveDomain(machine=m)))
    done(await rig.run(RetainVolume(machine=m)))
    kept = RetainedDiskView(server=HV1, uid=m.uid, present=True, disk_pool=POOL)
    assert (rig.news.retained(m.uid), seen(rig, m).volume) == (kept, False)
    assert kept in await rig.reconnect()
    done(await rig.run(drop(m)))
    assert not kept_disk(rig, m)
    assert not [v for v in await rig.reconnect() if isinstance(v, RetainedDiskView) and v.uid == m.uid]


# --- observations -----------------------------------------------------------------------------------------------------


async def test_who_connects_tells_all_there_is_and_nothing_that_is_gone(rig: Rig, make: Make) -> None:
    there, gone = make(), make()
    for m in (there, gone):
        await raise_(rig, m, start=False)
    done(await rig.run(RemoveDomain(machine=gone)))
    done(await rig.run(DeleteVolume(machine=gone)))
    before = seen(rig, there)
    report = await rig.reconnect()
    server = report[0]
    assert isinstance(server, ServerView)
    assert (server.server, server.connected, server.error) == (HV1, True, "")
    assert "br0" in server.bridges
    assert server.accelerator in {"kvm", "tcg"}
    assert min(server.cpus, server.memory_mib, len(server.host_uuid), len(server.boot_id)) > 0
    domains: dict[MachineUid, DomainView] = {v.uid: v for v in report if isinstance(v, DomainView)}
    assert domains.get(there.uid) == before
    assert gone.uid not in domains


async def test_a_server_without_an_agent_is_told_at_once(rig: Rig) -> None:
    m = rig.machine(server="hv9")
    failed(await rig.run(CreateVolume(machine=m)), "NotConnected")
