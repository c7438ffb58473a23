"""Nodes and pods: NotReady, given up and freed in Kubernetes' own times; budgets, drains; what runs twice is seen."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import pytest
from scene import SHOP, Scene, newer

from bedplate.model.blueprint import MachineEntry
from bedplate.model.steps import (
    ClearOutOfService,
    DefineDomain,
    DeleteNode,
    Done,
    DrainNode,
    Failed,
    MarkOutOfService,
    StartDomain,
)
from bedplate.sim.things import SimNode
from bedplate.sim.workload import App, SimPod

KEY = SHOP.cluster


class Shop:
    """A cluster with a stateful app that has volumes and one that has none."""

    def __init__(self, workers: int = 3, *, shared: bool = True) -> None:
        self.scene = Scene(workers + 1, shared=shared)
        self.plane, self.workers = self.scene.cluster(workers)
        self.sim = self.scene.sim
        self.sim.deploy(
            KEY,
            App(name="web", replicas=workers, stateful=True, volume=True, min_available=workers - 1),
            App(name="front", replicas=workers, min_available=1),
        )
        self.scene.wait(60)

    def pod(self, name: str) -> SimPod:
        return self.sim.pod(KEY, name)

    def node(self, m: MachineEntry) -> SimNode:
        return self.scene.world.cluster(KEY).nodes[m.name]

    def on(self, m: MachineEntry, app: str) -> SimPod:
        [found] = [p for p in self.scene.world.cluster(KEY).pods.values() if p.node == m.name and p.app.name == app]
        return found

    def answered(self, name: str, since: float) -> float:
        """Seconds from `since` until it answered again."""
        return next(t for t, yes, _ in self.pod(name).history if yes and t > since) - since


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_pods_are_spread_and_answer(shop: Shop) -> None:
    pods = shop.scene.world.cluster(KEY).pods.values()
    assert all(p.answers for p in pods)
    assert len({p.node for p in pods if p.app.name == "web"}) == 3


def test_left_alone_kubernetes_takes_its_own_time(shop: Shop) -> None:
    """40-50 s to NotReady, 300 s more for those without state; the stateful one waits for its node."""
    worker = shop.workers[0]
    web, front = shop.on(worker, "web").name, shop.on(worker, "front").name
    begun = shop.sim.now
    shop.sim.power_off(worker.server)
    shop.scene.wait(39)
    assert shop.node(worker).ready
    assert not shop.pod(web).answers
    shop.scene.wait(12)
    assert not shop.node(worker).ready
    shop.scene.wait(400)
    assert 340 < shop.answered(front, begun) < 365
    shop.scene.wait(86_400)
    assert shop.pod(web).phase == "terminating"


def test_marked_out_of_service_its_pods_are_free_at_once(shop: Shop) -> None:
    worker = shop.workers[0]
    web = shop.on(worker, "web").name
    shop.sim.power_off(worker.server)
    shop.scene.wait(15)
    begun = shop.sim.now
    shop.scene.done(MarkOutOfService(cluster=SHOP, machine=worker))
    shop.scene.wait(30)
    assert shop.answered(web, begun) < 15
    assert shop.node(worker).out_of_service
    assert not shop.node(worker).ready
    assert shop.scene.world.violations == []


def test_a_machine_started_elsewhere_is_ready_again_and_its_mark_is_taken_off(shop: Shop) -> None:
    worker = shop.workers[0]
    shop.sim.power_off(worker.server)
    shop.scene.wait(15)
    shop.scene.done(MarkOutOfService(cluster=SHOP, machine=worker))
    there = newer(worker, server=shop.plane.server, boot=2, carried=True)
    shop.scene.done(DefineDomain(machine=there), StartDomain(machine=there))
    shop.scene.wait(90)
    assert shop.node(worker).ready
    shop.scene.done(ClearOutOfService(cluster=SHOP, machine=there))
    assert not shop.node(worker).out_of_service
    assert shop.scene.world.violations == []


def test_marking_a_node_whose_machine_runs_is_seen_and_so_is_a_pod_that_runs_twice(shop: Shop) -> None:
    worker = shop.workers[0]
    shop.sim.cut_network("guests", [worker.server])
    shop.scene.wait(60)
    assert not shop.node(worker).ready
    shop.scene.do(MarkOutOfService(cluster=SHOP, machine=worker))
    shop.scene.wait(30)
    assert any("out of service while its machine runs" in v for v in shop.scene.world.violations)
    assert any("and still in" in v for v in shop.scene.world.violations)


def test_a_node_that_answers_after_it_was_marked_is_left_alone(shop: Shop) -> None:
    worker = shop.workers[0]
    shop.scene.do(MarkOutOfService(cluster=SHOP, machine=worker))
    shop.scene.wait(15)
    assert shop.node(worker).ready
    result = shop.scene.do(MarkOutOfService(cluster=SHOP, machine=worker))
    assert isinstance(result, Failed)
    assert result.reason == "NodeAnswers"


def test_a_cut_that_heals_in_time_changes_nothing(shop: Shop) -> None:
    worker = shop.workers[0]
    web = shop.on(worker, "web")
    shop.sim.cut_network("guests", [worker.server], 20.0)
    shop.scene.wait(120)
    assert shop.node(worker).ready
    assert (web.answers, web.node) == (True, worker.name)


def test_pods_of_a_machine_that_reboots_answer_again_on_it(shop: Shop) -> None:
    worker = shop.workers[0]
    web = shop.on(worker, "web")
    shop.sim.end_domain(worker.uid)
    again = newer(worker, boot=2)
    shop.scene.done(DefineDomain(machine=again), StartDomain(machine=again))
    shop.scene.wait(90)
    assert (web.answers, web.node) == (True, worker.name)


def test_a_drain_keeps_to_budgets_and_to_its_time(shop: Shop) -> None:
    worker = shop.workers[0]
    begun = shop.sim.now
    result = shop.scene.do(DrainNode(cluster=SHOP, machine=msgspec.structs.replace(worker, drain_timeout=120.0)))
    assert isinstance(result, Done)
    assert shop.sim.now - begun < 130
    shop.scene.wait(60)
    pods = shop.scene.world.cluster(KEY).pods.values()
    assert all(p.answers and p.node != worker.name for p in pods)


def test_a_drain_that_a_budget_holds_up_ends_all_the_same_and_says_on_what(shop: Shop) -> None:
    worker = shop.workers[0]
    web = shop.on(worker, "web")
    shop.scene.world.cluster(KEY).pods["web-0"].app = web.app
    for pod in shop.scene.world.cluster(KEY).pods.values():
        if pod.app.name == "web":
            pod.app = msgspec.structs.replace(pod.app, min_available=3)
    begun = shop.sim.now
    result = shop.scene.do(DrainNode(cluster=SHOP, machine=msgspec.structs.replace(worker, drain_timeout=60.0)))
    assert isinstance(result, Done)
    assert 60 <= shop.sim.now - begun < 70
    assert web.name in result.message
    assert web.node == worker.name


def test_a_drain_without_an_end_is_seen(shop: Shop) -> None:
    worker = shop.workers[0]
    shop.scene.do(DrainNode(cluster=SHOP, machine=msgspec.structs.replace(worker, drain_timeout=1e9)), deadline=1e9)
    assert any("rule 7" in v for v in shop.scene.world.violations)


def test_pods_of_a_deleted_node_are_collected_and_their_volumes_waited_for(shop: Shop) -> None:
    worker = shop.workers[0]
    web = shop.on(worker, "web").name
    shop.sim.power_off(worker.server)
    shop.scene.wait(60)
    begun = shop.sim.now
    shop.scene.done(DeleteNode(cluster=SHOP, machine=worker))
    shop.scene.wait(600)
    assert 360 < shop.answered(web, begun) < 420


def test_while_the_api_is_down_nobody_is_declared_lost_and_all_is_caught_up_with_after(shop: Shop) -> None:
    worker = shop.workers[0]
    shop.sim.stop_api(KEY, 600.0)
    shop.sim.power_off(worker.server)
    shop.scene.wait(590)
    assert shop.node(worker).ready
    shop.scene.wait(70)
    assert not shop.node(worker).ready


def test_a_guest_whose_kernel_hangs_and_one_whose_kubelet_fails_are_silent(shop: Shop) -> None:
    first, second = shop.workers[:2]
    shop.sim.hang_guest(first.uid)
    shop.sim.stop_kubelet(second.uid)
    shop.scene.wait(60)
    assert not shop.node(first).ready
    assert not shop.node(second).ready
    assert shop.scene.domain(first).state == shop.scene.domain(second).state == "running"
