"""The rules bite: each act that breaks one is written down, and its lawful neighbour is not."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import pytest
from scene import SHOP, Scene

from bedplate.model.ids import MachineUid
from bedplate.model.steps import CreateVolume, MakeSecrets, PullImage
from bedplate.sim import truth


@pytest.fixture
def scene() -> Scene:
    return Scene(4)


def stand_ins(scene: Scene, count: int, workers: int) -> None:
    _, found = scene.cluster(workers)
    for n, old in enumerate(found[:count], 50):
        m = scene.machine(n, "hv1", replaces=old.uid)
        scene.done(PullImage(server=m.server, disk_pool=m.disk_pool, image=m.image), CreateVolume(machine=m))


def test_one_machine_that_is_well_may_be_replaced_and_not_many_at_once(scene: Scene) -> None:
    stand_ins(scene, 1, 3)
    assert scene.world.violations == []
    again = Scene(4)
    stand_ins(again, 3, 3)
    assert any("rule 6" in v for v in again.world.violations)


def test_a_person_may_allow_that_many_are_replaced(scene: Scene) -> None:
    scene.world.cluster(SHOP.cluster).allow_many = True
    stand_ins(scene, 3, 3)
    assert scene.world.violations == []


def test_machines_that_ended_are_replaced_as_many_as_there_are(scene: Scene) -> None:
    _, workers = scene.cluster(3)
    for m in workers:
        scene.sim.power_off(m.server)
    scene.wait(5)
    for n, old in enumerate(workers, 50):
        m = scene.machine(n, "hv1", replaces=old.uid)
        scene.done(PullImage(server=m.server, disk_pool=m.disk_pool, image=m.image), CreateVolume(machine=m))
    assert scene.world.violations == []


def test_a_fence_that_takes_a_quorum_is_seen(scene: Scene) -> None:
    scene.done(MakeSecrets(cluster=SHOP))
    scene.node(scene.up(scene.machine(1, "hv1", role="control-plane")), "init")
    scene.node(scene.up(scene.machine(2, "hv2", role="control-plane")))
    scene.fence("hv2")
    assert any("rule 2" in v and "powering hv2 off" in v for v in scene.world.violations)


def test_a_fence_of_what_is_dead_already_takes_nothing(scene: Scene) -> None:
    scene.done(MakeSecrets(cluster=SHOP))
    scene.node(scene.up(scene.machine(1, "hv1", role="control-plane")), "init")
    scene.sim.hang("hv1")
    scene.wait(1)
    scene.fence("hv1")
    assert scene.world.violations == []


def test_a_step_that_is_not_in_the_journal_is_seen(scene: Scene) -> None:
    truth.journalled(scene.world, True, "StartDomain machine/u1")
    assert scene.world.violations == []
    truth.journalled(scene.world, False, "StartDomain machine/u1")
    assert any("rule 4" in v for v in scene.world.violations)


def test_an_address_that_is_given_out_while_its_last_holder_still_runs_is_seen(scene: Scene) -> None:
    first = scene.up(scene.machine(1))
    scene.sim.cut("hv1")
    scene.up(scene.machine(2, "hv2", nic=first.nic))
    assert any("the same address" in v for v in scene.world.violations)


def test_memory_counts_as_it_was_started_and_arriving_guests_count_too(scene: Scene) -> None:
    scene.server("hv2").memory_mib = 4096
    scene.up(scene.machine(1, "hv2", memory_mib=3072))
    assert scene.world.violations == []
    scene.world.take(scene.server("hv2"), MachineUid("u9"), 2048)
    scene.wait(0)
    scene.sim.touched()
    scene.wait(1)
    assert any("hv2 has 4096 MiB" in v for v in scene.world.violations)


def test_a_running_machine_keeps_its_hardware_until_it_next_starts(scene: Scene) -> None:
    m = scene.up(scene.machine(1, memory_mib=1024))
    scene.domain(m).entry = msgspec.structs.replace(m, memory_mib=10**9)
    scene.sim.touched()
    scene.world.touch(scene.server("hv1"), m.uid)
    scene.wait(1)
    assert scene.world.violations == []
    assert truth.check(scene.world) == []
