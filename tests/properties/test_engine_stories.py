"""Single stories of the whole loop, each told to its end in the simulated world."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bedplate.model.blueprint import MachineEntry, RetainedDiskEntry
from bedplate.model.ids import ClusterKey, ServerName
from bedplate.model.kinds.base import MachineShape
from bedplate.model.policy import ALLOW_MANY
from bedplate.sim import fleet
from bedplate.sim.durations import Durations
from bedplate.sim.guests import boot
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

SHOP = ClusterKey("default/shop")


def story(*objects: Any, servers: int = 3, seed: int = 6, **more: Any) -> Story:
    world = fleet.world(servers)
    sim = Simulator(world, seed=seed, **more)
    sim.apply(*fleet.infrastructure(world), *objects)
    sim.start_controller()
    return Story(sim)


def shop(replicas: int = 1, workers: int = 2, **more: Any) -> Story:
    told = story(fleet.cluster(replicas=replicas), fleet.pool(replicas=workers), **more)
    told.until_ready()
    return told


def machines(told: Story, role: str) -> list[MachineEntry]:
    return [m for m in told.sim.store.blueprint.machines() if m.role == role]


def test_a_cluster_declared_again_under_its_old_name_starts_from_nothing() -> None:
    told = shop()
    before = {m.uid for m in told.sim.store.blueprint.machines()}
    told.delete_all()
    told.check_nothing_left()
    told.declare(fleet.cluster(), fleet.pool(replicas=2))
    assert not before & {m.uid for m in told.sim.store.blueprint.machines()}
    assert sum(1 for s in told.sim.steps if s.operation.step.name == "MakeSecrets") == 2


def test_a_pool_of_ten_is_scaled_to_none_and_back() -> None:
    told = shop(workers=10)
    told.declare(fleet.pool(replicas=0))
    assert len(told.sim.world.cluster(SHOP).nodes) == 1
    told.declare(fleet.pool(replicas=10))
    assert len(told.sim.world.cluster(SHOP).nodes) == 11


def test_a_worker_that_leaves_is_drained_before_it_is_removed() -> None:
    told = shop()
    begin = len(told.sim.steps)
    told.declare(fleet.pool(replicas=1))
    steps = [s.operation.step.name for s in told.sim.steps[begin:]]
    assert steps == ["DrainNode", "DeleteNode", "RemoveDomain", "DeleteVolume"]


def test_one_of_three_control_planes_that_loses_its_disk_is_replaced_with_quorum_kept() -> None:
    told = shop(replicas=3)
    victim = machines(told, "control-plane")[1]
    told.sim.end_domain(victim.uid, lose_disk=True, undefine=True)
    told.sim.run(seconds=10)
    told.until_ready()
    members = set(told.sim.world.cluster(SHOP).members.values())
    assert len(members) == 3
    assert victim.uid not in members
    told.check_no_orphans()


def test_a_control_plane_of_one_that_loses_its_disk_is_never_replaced() -> None:
    """Rule 9: nothing may stand in for the only copy, and the user is told."""
    told = shop()
    [victim] = machines(told, "control-plane")
    told.sim.end_domain(victim.uid, lose_disk=True, undefine=True)
    told.sim.run(seconds=20_000)
    assert [m.uid for m in machines(told, "control-plane")] == [victim.uid]
    assert told.sim.world.domain(victim) is None
    assert any("only copy" in w.sentence for w in told.sim.engine.waiting.values())
    assert not told.sim.world.violations


def test_a_worker_that_dies_again_and_again_is_replaced_and_its_disk_kept() -> None:
    told = shop()
    victim = machines(told, "worker")[0]
    for _ in range(6):
        told.sim.end_domain(victim.uid)
        told.sim.run(seconds=90)
    told.until_ready()
    assert victim.uid not in {m.uid for m in machines(told, "worker")}
    kept = [e for e in told.sim.store.blueprint.entries.values() if isinstance(e, RetainedDiskEntry)]
    assert [e.uid for e in kept] == [victim.uid]
    assert told.sim.world.servers[victim.server].retained
    [listed] = [k for k in told.sim.store.objects if k.startswith("retaineddisk/")]
    told.sim.delete(listed)
    told.sim.run(seconds=60)
    assert not told.sim.world.servers[victim.server].retained
    assert listed not in told.sim.store.objects


def test_a_retained_disk_goes_when_its_time_is_over() -> None:
    told = shop()
    victim = machines(told, "worker")[0]
    for _ in range(6):
        told.sim.end_domain(victim.uid)
        told.sim.run(seconds=90)
    told.until_ready()
    told.sim.run(seconds=80 * 3600, quiet=float("inf"))
    assert not any(s.retained for s in told.sim.world.servers.values())
    assert not any(isinstance(e, RetainedDiskEntry) for e in told.sim.store.blueprint.entries.values())


def test_a_machine_that_a_user_deletes_is_replaced_under_a_new_identity() -> None:
    told = shop()
    victim = machines(told, "worker")[0]
    told.sim.delete(f"machine/default/{victim.name}")  # type: ignore[arg-type]
    told.sim.run(seconds=5)
    told.until_ready()
    assert victim.uid not in {m.uid for m in machines(told, "worker")}
    told.check_no_orphans()


def test_an_image_that_never_boots_does_not_burn_through_machines() -> None:
    """Bounded in time, few at once, the console's last words shown; the old machines stay."""
    told = shop()
    bad = fleet.image("node-bad", fleet.VERSION)
    told.sim.world.dead_images.add(bad.spec.disk.digest)  # type: ignore[arg-type]
    pool = fleet.pool(replicas=2)
    shape = msgspec.structs.replace(pool.spec.machine, image="node-bad")
    told.sim.apply(bad, msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, machine=shape)))
    told.sim.run(seconds=4_000)
    assert sum(1 for n in told.sim.world.cluster(SHOP).nodes.values() if n.ready) == 3
    made = sum(1 for s in told.sim.steps if s.operation.step.name == "CreateVolume")
    assert made < 3 + 20
    assert any("panic" in e.message for e in told.sim.store.events)
    told.declare(fleet.pool(replicas=2))
    told.check_no_orphans()


def test_a_full_disk_pool_is_waited_for_and_said() -> None:
    told = story(fleet.cluster(), servers=1)
    told.sim.run(seconds=0.3)
    pool = told.sim.world.servers[ServerName("hv1")].pools["local"]
    pool.full = True
    told.sim.run(seconds=120)
    machine = next(o for k, o in told.sim.store.objects.items() if k.startswith("machine/"))
    assert "no room" in machine.status.conditions[0].message  # type: ignore[attr-defined]
    pool.full = False
    told.until_ready()


def test_a_server_that_stays_away_is_named_and_nothing_is_doubled() -> None:
    told = shop()
    worker = machines(told, "worker")[0]
    told.sim.cut(worker.server)
    told.sim.run(seconds=3_000)
    assert [m.uid for m in machines(told, "worker")].count(worker.uid) == 1
    assert len(machines(told, "worker")) == 2
    told.sim.heal(worker.server)
    told.until_ready()


def test_deleting_a_cluster_whose_server_is_away_waits_for_the_server() -> None:
    told = shop()
    worker = machines(told, "worker")[0]
    told.sim.cut(worker.server)
    for obj in told.workload():
        told.sim.delete(f"{type(obj).__name__.lower()}/default/{obj.metadata.name}")  # type: ignore[arg-type]
    told.sim.run(seconds=2_000)
    assert told.workload()
    assert any(worker.server in w.sentence for w in told.sim.engine.waiting.values())
    told.sim.heal(worker.server)
    told.delete_all()
    told.check_nothing_left()


@pytest.mark.parametrize("strategy", ["Always", "Halted", "Manual", "RerunOnFailure"])
def test_a_users_vm_follows_its_run_strategy(strategy: Any) -> None:
    told = story(fleet.machine("db"))
    told.until_ready()
    told.declare(fleet.machine("db", strategy=strategy))
    assert len(list(told.sim.world.running())) == (0 if strategy == "Halted" else 1)
    told.declare(fleet.machine("db", strategy="Always"))
    assert len(list(told.sim.world.running())) == 1
    told.delete_all()
    told.check_nothing_left()


def test_the_power_of_a_manual_vm_is_left_to_people() -> None:
    told = story(fleet.machine("db", strategy="Manual"))
    told.until_ready()
    [m] = told.sim.store.blueprint.machines()
    server = told.sim.world.servers[m.server]
    assert server.domains[m.uid].state == "shutoff"
    told.sim.world.set_state(server, server.domains[m.uid], "running")
    told.sim.world.spawn(boot(told.sim.world, Durations(1), server.domains[m.uid]))
    told.sim.run(seconds=5_000)
    assert (told.unready(), server.domains[m.uid].state) == ([], "running")
    told.sim.world.set_state(server, server.domains[m.uid], "shutoff")
    told.sim.run(seconds=5_000)
    assert (told.unready(), server.domains[m.uid].state) == ([], "shutoff")
    steps = [s.operation.step.name for s in told.sim.steps if s.operation.step.target == m.key]
    assert steps == ["CreateVolume", "DefineDomain"]
    told.declare(fleet.machine("db", strategy="Always"))
    assert server.domains[m.uid].state == "running"


@pytest.mark.parametrize("before", ["Always", "Halted"])
def test_a_vm_that_becomes_manual_stays_as_it_is_until_people_change_it(before: Any) -> None:
    told = story(fleet.machine("db", strategy=before))
    told.until_ready()
    told.declare(fleet.machine("db", strategy="Manual"))
    assert len(list(told.sim.world.running())) == (1 if before == "Always" else 0)
    told.sim.end_domain(next(iter(told.sim.store.blueprint.machines())).uid)
    told.sim.run(seconds=5_000)
    assert not list(told.sim.world.running())
    assert told.unready() == []


@pytest.mark.parametrize(("end", "runs"), [("shutoff", 0), ("crashed", 1)])
def test_a_vm_that_reruns_on_failure_stays_off_after_its_guest_powered_off(end: Any, runs: int) -> None:
    told = story(fleet.machine("db", strategy="RerunOnFailure"))
    told.until_ready()
    [m] = told.sim.store.blueprint.machines()
    server = told.sim.world.servers[m.server]
    told.sim.world.set_state(server, server.domains[m.uid], end)
    told.sim.run(seconds=5_000)
    assert len(list(told.sim.world.running())) == runs
    assert told.unready() == []


def test_a_vm_that_is_deleted_is_asked_to_power_off_though_its_guest_agent_is_silent() -> None:
    told = story(fleet.machine("db"))
    told.until_ready()
    [m] = told.sim.store.blueprint.machines()
    server = told.sim.world.servers[m.server]
    server.domains[m.uid].guest_agent = False
    told.sim.world.touch(server, m.uid)
    told.sim.run(seconds=60)
    begin = len(told.sim.steps)
    told.delete_all()
    assert [s.operation.step.name for s in told.sim.steps[begin:]] == ["StopDomain", "RemoveDomain", "DeleteVolume"]


def test_many_machines_that_never_came_up_are_replaced_only_once_a_person_allows_it() -> None:
    """Rule 6: that many failures may be the watcher's; the annotation is a person's word."""
    told = shop(workers=1)
    bad = fleet.image("node-bad", fleet.VERSION)
    told.sim.world.dead_images.add(bad.spec.disk.digest)  # type: ignore[arg-type]
    told.sim.apply(bad, fleet.pool(replicas=6, shape=MachineShape(cpu=2, memory="4Gi", image=bad.metadata.name)))
    told.sim.run(seconds=5_000)
    said = told.sim.engine.waiting["cluster/default/shop"]  # type: ignore[index]
    assert (said.reason.value, ALLOW_MANY in said.sentence) == ("WaitingForAcceptance", True)
    before = {m.uid for m in machines(told, "worker")}
    told.sim.run(seconds=5_000)
    assert {m.uid for m in machines(told, "worker")} == before
    cluster = fleet.cluster()
    told.sim.apply(
        msgspec.structs.replace(
            cluster, metadata=msgspec.structs.replace(cluster.metadata, annotations={ALLOW_MANY: "true"})
        )
    )
    told.sim.run(seconds=5_000)
    assert {m.uid for m in machines(told, "worker")} != before


def test_more_than_fits_waits_with_the_servers_reasons_and_the_rest_runs() -> None:
    told = shop()
    big = MachineShape(cpu=2, memory="100Gi")
    told.sim.apply(fleet.pool("shop-big", replicas=1, shape=big))
    told.sim.run(seconds=60)
    waiting = told.sim.engine.waiting["nodepool/default/shop-big"]  # type: ignore[index]
    assert sum(waiting.rejections.values()) == 3
    told.sim.delete("nodepool/default/shop-big")  # type: ignore[arg-type]
    told.sim.run(seconds=5)
    told.until_ready()


def test_addresses_that_run_out_are_waited_for_and_used_again() -> None:
    world = fleet.world(3)
    sim = Simulator(world, seed=1)
    sim.apply(*fleet.infrastructure(world, addresses=4), fleet.cluster(), fleet.pool(replicas=5))
    sim.start_controller()
    told = Story(sim)
    sim.run(seconds=1_000)
    assert sim.engine.waiting["nodepool/default/shop-web"].reason.value == "NoFreeAddress"  # type: ignore[index]
    told.declare(fleet.pool(replicas=3))
    told.delete_all()
    told.declare(fleet.cluster(), fleet.pool(replicas=3))


def test_a_restored_controller_only_looks() -> None:
    told = shop()
    told.sim.kill_controller()
    told.sim.store.restored = True
    told.sim.start_controller()
    commits, steps = len(told.sim.commits), len(told.sim.steps)
    told.sim.apply(fleet.pool(replicas=5))
    told.sim.run(seconds=1_000)
    assert (len(told.sim.commits), len(told.sim.steps)) == (commits, steps)


def test_planning_rests_when_nothing_happens() -> None:
    told = shop(replicas=3)
    told.sim.run(seconds=100)
    commands = told.sim.commands
    told.sim.run(seconds=50_000, quiet=float("inf"))
    assert told.sim.commands - commands < 50


def test_a_server_that_comes_back_as_another_is_refused_and_left_alone() -> None:
    told = shop()
    worker = machines(told, "worker")[0]
    server = told.sim.world.servers[worker.server]
    told.sim.cut(worker.server)
    server.host_uuid = "host-replaced-board"
    told.sim.after(30.0, lambda: told.sim.heal(worker.server))
    told.sim.run(seconds=600)
    begun = len(told.sim.steps)
    told.sim.apply(fleet.pool(replicas=4))
    told.sim.run(seconds=600)
    assert worker.server not in {s.operation.step.server for s in told.sim.steps[begun:]}
    shown = told.sim.store.objects[f"server/{worker.server}"]  # type: ignore[index]
    assert "another identity" in shown.status.conditions[0].message  # type: ignore[attr-defined]
    server.enrolled = server.host_uuid
    told.sim.heal(worker.server)
    told.until_ready()
