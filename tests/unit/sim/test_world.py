"""The simulated world refuses, half does and forgets what the real one does, and sees when a rule is broken."""

from __future__ import annotations

from collections.abc import Generator

import msgspec
import pytest

from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, Epoch, Generation, MachineUid, OperationId, ServerName, key
from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DefineDomain,
    DeleteVolume,
    Done,
    Failed,
    MakeSecrets,
    PullImage,
    Refused,
    RemoveDomain,
    RemoveEtcdMember,
    RetainVolume,
    StartDomain,
    Step,
    StepResult,
    StopDomain,
    Ticket,
)
from bedplate.sim import fleet, truth, views
from bedplate.sim.drivers import perform
from bedplate.sim.durations import Durations
from bedplate.sim.world import Process, World

IMAGE = ImageRef(name="node", disk=Digest("sha256:aa"))
SHOP = ClusterEntry(
    cluster=ClusterKey("default/shop"),
    uid="shop",
    version="1.35.3",
    network="lan",
    endpoint="10.0.0.100",
    pod_cidr="10.1.0.0/16",
    service_cidr="10.2.0.0/16",
)


def node(number: int, server: str = "hv1", role: str = "worker", **changes: object) -> MachineEntry:
    entry = MachineEntry(
        uid=MachineUid(f"u{number}"),
        name=f"m{number}",
        namespace="default",
        owner=key("cluster", "default/shop"),
        cluster=SHOP.cluster,
        role=role,  # type: ignore[arg-type]
        server=ServerName(server),
        cpu=1,
        memory_mib=1024,
        disk_mib=1000,
        disk_pool="local",
        image=IMAGE,
        nic=Nic(network="lan", bridge="br0", mac=f"m{number}", address=f"10.0.0.{number}", prefix=24),
    )
    return msgspec.structs.replace(entry, **changes)


class Hand:
    """Runs steps and whatever they set going, one after the other, at once."""

    def __init__(self) -> None:
        self.world: World = fleet.world(2)
        self.world.spawn = self.processes = []  # type: ignore[assignment]
        self.world.spawn = self.processes.append
        self.durations = Durations(1)

    def run(self, step: Step, epoch: int = 1) -> StepResult:
        ticket = Ticket(operation=OperationId("1-1"), store=self.world.store, epoch=Epoch(epoch), deadline=60)
        return self._finish(perform(self.world, self.durations, step, ticket))

    def _finish(self, running: Generator[float, None, StepResult]) -> StepResult:
        while True:
            try:
                self.world.now += next(running)
            except StopIteration as end:
                return end.value

    def settle(self) -> None:
        while self.processes:
            process: Process = self.processes.pop(0)
            for seconds in process:
                self.world.now += seconds

    def up(self, m: MachineEntry) -> None:
        for step in (
            PullImage(server=m.server, disk_pool="local", image=IMAGE),
            CreateVolume(machine=m),
            DefineDomain(machine=m),
            StartDomain(machine=m),
        ):
            assert isinstance(self.run(step), Done)
        self.settle()

    def plane(self, count: int) -> list[MachineEntry]:
        self.run(MakeSecrets(cluster=SHOP))
        machines = [node(n, f"hv{n % 2 + 1}", "control-plane") for n in range(1, count + 1)]
        for m in machines:
            self.up(m)
            mode = "init" if m is machines[0] else "join"
            assert isinstance(self.run(Bootstrap(cluster=SHOP, machine=m, mode=mode)), Done)  # type: ignore[arg-type]
            self.settle()
        return machines


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_a_machine_from_nothing_to_a_running_guest(hand: Hand) -> None:
    m = node(1)
    hand.up(m)
    view = views.domain_view(hand.world, hand.world.servers[m.server], m.uid)
    assert (view.state, view.boot, view.guest_agent, view.volume) == ("running", 1, True, True)
    assert truth.check(hand.world) == []


def test_each_boot_number_is_started_once(hand: Hand) -> None:
    m = node(1)
    hand.up(m)
    assert isinstance(hand.run(StopDomain(machine=m)), Done)
    assert isinstance(hand.run(StartDomain(machine=m)), Done)
    assert hand.world.domain(m).state == "shutoff"  # type: ignore[union-attr]
    again = msgspec.structs.replace(m, boot=2, generation=Generation(2))
    assert isinstance(hand.run(StartDomain(machine=again)), Failed)  # out of date: define first
    hand.run(DefineDomain(machine=again))
    hand.run(StartDomain(machine=again))
    assert hand.world.domain(m).state == "running"  # type: ignore[union-attr]


def test_lower_epochs_and_generations_are_refused(hand: Hand) -> None:
    m = node(1, generation=Generation(3))
    hand.up(m)
    assert isinstance(hand.run(RemoveDomain(machine=node(1, generation=Generation(2)))), Refused)
    assert isinstance(hand.run(StopDomain(machine=m), epoch=2), Done)
    assert isinstance(hand.run(RemoveDomain(machine=m), epoch=1), Refused)


def test_a_disk_goes_only_after_its_domain(hand: Hand) -> None:
    m = node(1)
    hand.up(m)
    assert isinstance(hand.run(DeleteVolume(machine=m)), Failed)
    hand.run(RemoveDomain(machine=m))
    assert isinstance(hand.run(DeleteVolume(machine=m)), Done)
    assert truth.leftovers(hand.world) == []


def test_a_retained_disk_is_there_and_the_machine_is_not(hand: Hand) -> None:
    m = node(1, retain_disk=True)
    hand.up(m)
    hand.run(RemoveDomain(machine=m))
    assert isinstance(hand.run(RetainVolume(machine=m)), Done)
    assert views.retained_view(hand.world, hand.world.servers[m.server], m.uid).present


def test_a_full_pool_says_so(hand: Hand) -> None:
    hand.world.servers[ServerName("hv1")].pools["local"].full = True
    result = hand.run(PullImage(server=ServerName("hv1"), disk_pool="local", image=IMAGE))
    assert isinstance(result, Failed)
    assert result.reason == "DiskFull"


def test_two_machines_with_one_address_are_seen(hand: Hand) -> None:
    hand.up(node(1))
    hand.up(node(2, "hv2", nic=node(1).nic))
    assert any("address" in sentence for sentence in truth.check(hand.world))


def test_more_memory_than_there_is_is_seen(hand: Hand) -> None:
    hand.up(node(1, memory_mib=60_000))
    hand.up(node(2, memory_mib=60_000))
    assert any("MiB" in sentence for sentence in truth.check(hand.world))


def test_a_control_plane_of_three_keeps_its_quorum_while_one_leaves(hand: Hand) -> None:
    machines = hand.plane(3)
    shop = hand.world.cluster(SHOP.cluster)
    assert len(shop.members) == 3
    assert isinstance(hand.run(RemoveEtcdMember(cluster=SHOP, machine=machines[1], peers=(machines[0],))), Done)
    hand.run(RemoveDomain(machine=machines[1]))
    assert hand.world.violations == []
    assert not shop.tokens


def test_a_lost_quorum_is_seen(hand: Hand) -> None:
    machines = hand.plane(2)
    hand.run(RemoveDomain(machine=machines[1]))
    assert any("quorum" in sentence for sentence in hand.world.violations)


def test_the_last_copy_is_watched(hand: Hand) -> None:
    [m] = hand.plane(1)
    hand.world.drop_domain(hand.world.servers[m.server], m.uid)
    hand.run(DeleteVolume(machine=m))
    assert any("last copy" in sentence for sentence in hand.world.violations)


def test_a_second_init_is_watched(hand: Hand) -> None:
    hand.plane(1)
    other = node(9, "hv2", "control-plane")
    hand.up(other)
    hand.run(Bootstrap(cluster=SHOP, machine=other, mode="init"))
    hand.settle()
    assert any("second time" in sentence for sentence in hand.world.violations)


def test_bootstrapping_twice_is_once(hand: Hand) -> None:
    [m] = hand.plane(1)
    assert isinstance(hand.run(Bootstrap(cluster=SHOP, machine=m, mode="init")), Done)
    hand.settle()
    assert hand.world.violations == []


def test_a_failing_kubeadm_leaves_its_last_words_and_can_be_tried_again(hand: Hand) -> None:
    hand.plane(1)
    worker = node(5, "hv2")
    hand.up(worker)
    hand.world.failing_joins["m5"] = 1
    hand.run(Bootstrap(cluster=SHOP, machine=worker, mode="join"))
    hand.settle()
    domain = hand.world.domain(worker)
    assert domain is not None
    assert domain.bootstrap == "failed"
    assert "kubelet" in domain.detail
    hand.run(Bootstrap(cluster=SHOP, machine=worker, mode="join"))
    hand.settle()
    assert hand.world.cluster(SHOP.cluster).nodes["m5"].ready


def test_an_image_that_never_boots(hand: Hand) -> None:
    hand.world.dead_images.add(IMAGE.disk)
    m = node(1)
    hand.up(m)
    view = views.domain_view(hand.world, hand.world.servers[m.server], m.uid)
    assert not view.guest_agent
    assert "panic" in view.detail


def test_a_machine_that_joined_is_a_node_again_after_its_next_boot(hand: Hand) -> None:
    [m] = hand.plane(1)
    hand.run(StopDomain(machine=m))
    again = msgspec.structs.replace(m, boot=2, generation=Generation(2))
    hand.run(DefineDomain(machine=again))
    hand.run(StartDomain(machine=again))
    assert not hand.world.api(hand.world.cluster(SHOP.cluster))
    hand.settle()
    assert hand.world.api(hand.world.cluster(SHOP.cluster))
