"""The simulator itself: the same seed is the same history, controllers die and others go on, epochs fence."""

from __future__ import annotations

from bedplate.engine import messages as msg
from bedplate.sim import fleet
from bedplate.sim.faults import Fault, Faults
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


def demo(seed: int = 3, **more: object) -> Story:
    world = fleet.world(3)
    sim = Simulator(world, seed=seed, **more)  # type: ignore[arg-type]
    sim.apply(*fleet.infrastructure(world), fleet.cluster(), fleet.pool(replicas=2))
    sim.start_controller()
    return Story(sim)


def test_a_cluster_of_one_and_two_becomes_ready() -> None:
    told = demo()
    told.until_ready()
    shop = told.sim.world.cluster("default/shop")  # type: ignore[arg-type]
    assert len(shop.nodes) == 3
    assert all(n.ready for n in shop.nodes.values())
    assert len(shop.members) == 1


def test_the_same_seed_is_the_same_history() -> None:
    histories: list[list[str]] = []
    for _ in range(2):
        told = demo(faults=Faults(steps={4: Fault.LOST_REPLY, 7: Fault.HALF}), kills={40, 90})
        told.until_ready()
        histories.append(told.sim.trace)
    assert histories[0] == histories[1]


def test_another_seed_is_another_history() -> None:
    first, second = demo(seed=1), demo(seed=2)
    first.until_ready()
    second.until_ready()
    assert first.sim.trace != second.sim.trace
    assert first.shape() == second.shape()


def test_a_killed_controller_is_followed_by_one_with_a_higher_epoch() -> None:
    told = demo(kills={30})
    told.until_ready()
    first, second = told.sim.controllers
    assert not first.alive
    assert second.epoch == first.epoch + 1


def test_of_two_controllers_the_older_stops_acting() -> None:
    told = demo()
    told.sim.after(20.0, told.sim.start_controller)
    told.until_ready()
    told.declare(fleet.pool(replicas=3))
    first, second = told.sim.controllers
    assert first.halted
    assert not second.halted
    told.check_no_orphans()


def test_a_machine_that_ends_is_told_of_and_started_again() -> None:
    told = demo()
    told.until_ready()
    [uid, *_] = [d.entry.uid for _, d in told.sim.world.running() if d.entry.role == "worker"]
    told.sim.end_domain(uid)
    told.sim.run(seconds=5)
    told.until_ready()
    [again] = [d for _, d in told.sim.world.running() if d.entry.uid == uid]
    assert again.entry.boot == 2


def test_events_tell_what_was_planned() -> None:
    told = demo()
    told.until_ready()
    assert any(e.kind == "Cluster" and e.type == "Normal" for e in told.sim.store.events)


def test_a_finalizer_keeps_a_deleted_cluster_until_nothing_is_left() -> None:
    told = demo()
    told.until_ready()
    told.delete_all()
    told.check_nothing_left()
    assert isinstance(told.sim.trace, list)
    assert not [o for o in told.sim.store.objects if o.startswith(("machine/", "cluster/", "nodepool/"))]


def test_every_begun_step_was_journalled_by_a_living_controller() -> None:
    told = demo(kills={25, 60, 61})
    told.until_ready()
    epochs = [b.operation.epoch for b in told.sim.steps]
    assert epochs == sorted(epochs)
    assert isinstance(told.sim.store.lead(), msg.Started)
