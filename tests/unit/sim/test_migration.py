"""Live moves: as long as memory takes, with every way in which they fail; a shared disk is one disk."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import Scene, newer

from bedplate.model.ids import Epoch, OperationId
from bedplate.model.steps import (
    DefineDomain,
    DeleteVolume,
    Done,
    Failed,
    ForgetDomain,
    MigrateDomain,
    ReceiveDomain,
    Refused,
    StartDomain,
    StopDomain,
    Ticket,
    Unknown,
)
from bedplate.sim import truth, views
from bedplate.sim.drivers import perform
from bedplate.sim.world import LINK


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_move_takes_the_running_machine_its_disk_and_its_cluster_along(scene: Scene) -> None:
    _, [worker, *_] = scene.cluster()
    run = scene.domain(worker).run
    result = scene.move(worker, "hv1")
    assert isinstance(result, Done)
    moved = scene.domain(worker)
    assert (moved.server, moved.run, moved.state, moved.guest_agent) == ("hv1", run, "running", True)
    here = views.domain_view(scene.world, scene.server("hv1"), worker.uid)
    there = views.domain_view(scene.world, scene.server("hv2"), worker.uid)
    assert (here.state, here.volume, here.boot, here.generation) == ("running", True, 1, 2)
    assert (there.state, there.volume) == ("absent", False)
    scene.wait(600)
    assert scene.world.cluster(worker.cluster).nodes[worker.name].ready
    assert scene.world.violations == []
    assert truth.check(scene.world) == []


def test_the_target_is_made_ready_first(scene: Scene) -> None:
    m = scene.up(scene.machine())
    result = scene.do(MigrateDomain(machine=scene.moving(m, "hv2")))
    assert isinstance(result, Failed)
    assert result.reason == "MigrationFailed"


def test_the_source_refuses_what_is_of_the_past_after_the_move(scene: Scene) -> None:
    m = scene.up(scene.machine())
    scene.move(m, "hv2")
    for late in (StartDomain(machine=m), StopDomain(machine=m), DeleteVolume(machine=m)):
        assert isinstance(scene.do(late), Refused)
    assert scene.domain(m).server == "hv2"


def test_a_repeated_move_is_done_and_forgetting_leaves_the_machine_where_it_is(scene: Scene) -> None:
    m = scene.up(scene.machine())
    scene.move(m, "hv2")
    moving = scene.moving(m, "hv2")
    assert isinstance(scene.do(MigrateDomain(machine=moving)), Done)
    scene.done(ForgetDomain(server=scene.server("hv1").name, machine=moving))
    assert scene.domain(m).server == "hv2"


def test_the_time_follows_from_memory_link_and_what_is_rewritten(scene: Scene) -> None:
    times: list[float] = []
    for number, (mib, dirty) in enumerate(((2048, 10.0), (16_384, 10.0), (16_384, 600.0)), 1):
        m = scene.up(scene.machine(number, memory_mib=mib))
        scene.sim.dirty(m.uid, dirty)
        entry = scene.moving(m, "hv2")
        scene.done(ReceiveDomain(machine=entry))
        begun = scene.sim.now
        scene.done(MigrateDomain(machine=entry))
        times.append(scene.sim.now - begun)
    assert times[0] < times[1] < times[2]
    assert times[1] > 16_384 / LINK


def test_what_is_rewritten_faster_than_it_is_copied_stays(scene: Scene) -> None:
    m = scene.up(scene.machine(memory_mib=8192))
    scene.sim.dirty(m.uid, 2 * LINK)
    begun = scene.sim.now
    result = scene.move(m, "hv2", deadline=60.0)
    assert isinstance(result, Failed)
    assert result.reason == "MigrationTimeout"
    assert scene.sim.now - begun < 65.0
    assert scene.domain(m).server == "hv1"
    assert scene.world.memory["hv2"] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("fault", "kind", "server", "state"),
    [
        ("fails", Failed, "hv1", "running"),
        ("stays unknown", Unknown, "hv1", "running"),
        ("arrives unknown", Unknown, "hv2", "running"),
        ("paused", Unknown, "hv1", "paused"),
    ],
)
def test_each_way_in_which_a_move_goes_wrong(scene: Scene, fault: str, kind: type, server: str, state: str) -> None:
    m = scene.up(scene.machine())
    scene.sim.next_move(fault)
    assert isinstance(scene.move(m, "hv2"), kind)
    assert (scene.domain(m).server, scene.domain(m).state) == (server, state)
    assert truth.check(scene.world) == []


@pytest.mark.parametrize("victim", ["hv1", "hv2"])
@settings(deadline=None, max_examples=40)
@given(st.floats(0.0, 15.0))
def test_a_server_that_dies_while_it_sends_or_takes_leaves_one_machine_or_none(victim: str, after: float) -> None:
    scene = Scene()
    m = scene.up(scene.machine(memory_mib=8192))
    scene.done(ReceiveDomain(machine=scene.moving(m, "hv2")))
    scene.sim.after(after, lambda: scene.sim.power_off(victim))
    result = scene.do(MigrateDomain(machine=scene.moving(m, "hv2")))
    scene.wait(60)
    where = [d.server for d in scene.world.live.get(m.uid, ())]
    if isinstance(result, Done):
        assert where == (["hv2"] if victim == "hv1" else [])
    else:
        assert where == (["hv1"] if victim == "hv2" else [])
    assert not scene.world.moves
    assert set(scene.world.memory.values()) <= {0, 8192}
    assert truth.check(scene.world) == []


def test_while_it_moves_both_ends_are_seen_and_both_need_the_memory(scene: Scene) -> None:
    m = scene.up(scene.machine(memory_mib=8192))
    scene.done(ReceiveDomain(machine=scene.moving(m, "hv2")))
    scene.sim.after(3.0, lambda: seen.append(_both(scene, m.uid)))
    seen: list[object] = []
    scene.done(MigrateDomain(machine=scene.moving(m, "hv2")))
    assert seen == [("running", "paused", 8192, 8192)]


def _both(scene: Scene, uid: str) -> object:
    states = [views.domain_view(scene.world, scene.server(n), uid).state for n in ("hv1", "hv2")]  # type: ignore[arg-type]
    return (*states, scene.world.memory["hv1"], scene.world.memory["hv2"])  # type: ignore[index]


def test_an_agent_that_dies_does_not_stop_the_move_and_asking_again_attaches_to_it(scene: Scene) -> None:
    m = scene.up(scene.machine(memory_mib=16_384))
    entry = scene.moving(m, "hv2")
    scene.done(ReceiveDomain(machine=entry))
    ticket = Ticket(operation=OperationId("1-1"), store=scene.world.store, epoch=Epoch(1), deadline=120)
    nobody_hears = perform(scene.world, scene.world.durations, MigrateDomain(machine=entry), ticket)
    next(nobody_hears)
    next(nobody_hears)
    nobody_hears.close()
    scene.sim.kill_agent("hv1")
    scene.wait(5)
    assert m.uid in scene.world.moves
    scene.done(MigrateDomain(machine=entry))
    assert scene.domain(m).server == "hv2"
    assert sum("moves from" in line for line in scene.sim.trace) == 1


def test_a_local_disk_does_not_move(scene: Scene) -> None:
    m = scene.up(scene.machine(disk_pool="local"))
    result = scene.do(ReceiveDomain(machine=scene.moving(m, "hv2")))
    assert isinstance(result, Failed)
    assert (result.reason, result.permanent) == ("PoolNotShared", True)


# --- a shared disk ----------------------------------------------------------------------------------------------------


def test_a_carried_machine_takes_over_the_disk_that_is_there(scene: Scene) -> None:
    m = scene.up(scene.machine())
    disk = scene.world.disks[m.uid]
    scene.sim.power_off("hv1")
    there = newer(m, server="hv2", boot=2, carried=True)
    scene.done(DefineDomain(machine=there), StartDomain(machine=there))
    assert scene.world.disks[m.uid] is disk
    assert scene.domain(m).server == "hv2"
    assert scene.world.violations == []
    scene.sim.power_on("hv1")
    scene.wait(1500)
    old = views.domain_view(scene.world, scene.server("hv1"), m.uid)
    assert (old.state, old.volume) == ("shutoff", False)
    scene.done(ForgetDomain(server=scene.server("hv1").name, machine=there))
    assert views.domain_view(scene.world, scene.server("hv1"), m.uid).state == "absent"
    assert scene.domain(m).state == "running"


def test_a_carried_machine_without_a_disk_fails(scene: Scene) -> None:
    m = scene.machine(carried=True)
    result = scene.do(DefineDomain(machine=m))
    assert isinstance(result, Failed)
    assert result.reason == "VolumeMissing"


@pytest.mark.parametrize("locks", [True, False])
def test_a_start_while_the_machine_runs_elsewhere_breaks_rule_1_lock_or_not(scene: Scene, locks: bool) -> None:
    m = scene.up(scene.machine())
    scene.server("hv1").pools["shared"].locks = locks
    scene.sim.cut("hv1")
    there = newer(m, server="hv2", boot=2, carried=True)
    scene.done(DefineDomain(machine=there))
    result = scene.do(StartDomain(machine=there))
    assert isinstance(result, Failed) is locks
    assert any("rule 1" in v for v in scene.world.violations)
    assert len(scene.world.live[m.uid]) == (1 if locks else 2)


def test_a_disk_that_was_taken_over_is_not_touched_with_a_lower_generation(scene: Scene) -> None:
    m = scene.up(scene.machine())
    scene.sim.power_off("hv1")
    there = newer(m, server="hv2", boot=2, carried=True)
    scene.done(DefineDomain(machine=there))
    late = msgspec.structs.replace(m, server="hv3")
    assert isinstance(scene.do(DeleteVolume(machine=late)), Refused)


def test_moves_that_follow_each_other_too_soon_are_seen_unless_the_server_is_to_be_emptied(scene: Scene) -> None:
    m = scene.up(scene.machine())
    scene.move(m, "hv2")
    second = newer(m, server="hv2")
    scene.move(second, "hv1")
    assert any("ping-pong" in v for v in scene.world.violations)
    scene.world.violations.clear()
    scene.server("hv1").maintenance = True
    third = newer(second, server="hv1")
    scene.move(third, "hv3")
    assert scene.world.violations == []
