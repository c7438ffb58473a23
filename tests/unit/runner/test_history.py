"""A timeline's records in a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bedplate.engine import messages as msg
from bedplate.engine import milestones as m
from bedplate.engine.timeline import timeline
from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, Epoch, MachineUid, OperationId, ServerName, key
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, Machine, MachineSpec, NodePool, NodePoolSpec
from bedplate.model.kinds.core import Event
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.meta import ObjectMeta
from bedplate.model.steps import Bootstrap, Done, StartDomain
from bedplate.runner import history
from bedplate.runner.persistence import StorePersistence
from bedplate.store.errors import NotFound
from bedplate.store.store import Store

CLUSTER = ClusterEntry(
    cluster=ClusterKey("default/shop"),
    uid="shop",
    version="1.35.3",
    network="lan",
    endpoint="10.0.0.100",
    pod_cidr="10.1.0.0/16",
    service_cidr="10.2.0.0/16",
)
MACHINE = MachineEntry(
    uid=MachineUid("u1"),
    name="shop-web-1",
    namespace="default",
    owner=key("nodepool", "default", "web"),
    cluster=CLUSTER.cluster,
    role="worker",
    server=ServerName("hv1"),
    cpu=1,
    memory_mib=1024,
    disk_mib=1000,
    disk_pool="local",
    image=ImageRef(name="node", disk=Digest("sha256:aa")),
    nic=Nic(network="lan", bridge="br0", mac="m", address="10.0.0.1", prefix=24),
    created=1000.5,
)
BEGIN = 1_800_000_000.0


class Kept:
    """A store with a clock of its own, written to as a controller does."""

    def __init__(self, folder: Path) -> None:
        self.now = BEGIN
        self.store = Store.open(folder, clock=lambda: self.now)
        self.persistence = StorePersistence(self.store, "test")
        epoch = self.persistence.acquire()
        assert epoch is not None
        self.epoch = Epoch(epoch)
        self.number = 0

    def declare(self, *objects: Object) -> None:
        for obj in objects:
            self.store.create(obj)

    def publish(self, obj: Machine) -> None:
        k = key("machine", obj.metadata.namespace, obj.metadata.name)
        self.persistence.carry_out([msg.Publish(key=k, object=obj)])

    def step(self, step: Any, started: float, finished: float) -> None:
        self.number += 1
        operation = OperationRecord(
            id=OperationId(f"1-{self.number}"), step=step, epoch=self.epoch, started=BEGIN + started
        )
        ends = msg.Finish(operation=operation.id, finished=BEGIN + finished, result=Done())
        self.persistence.carry_out([msg.Begin(operation=operation), ends])

    def tell(self, about: str, kind: str, reason: str, at: float, message: str = "m") -> None:
        record = msg.Record(
            about=key(kind.lower(), "default", about),
            kind=kind,
            type="Normal",
            reason=reason,
            message=message,
            at=BEGIN + at,
        )
        self.persistence.carry_out([record])


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    found = Kept(tmp_path)
    yield found
    found.store.close()


def made(kept: Kept) -> None:
    kept.declare(
        Cluster(metadata=ObjectMeta(name="shop", namespace="default")),
        NodePool(metadata=ObjectMeta(name="web", namespace="default"), spec=NodePoolSpec(cluster="shop")),
    )
    kept.now += 0.75
    machine = Machine(
        metadata=ObjectMeta(name=MACHINE.name, namespace="default", uid=MACHINE.uid), spec=MachineSpec(cluster="shop")
    )
    kept.publish(machine)
    kept.step(StartDomain(machine=MACHINE), 1, 2)
    kept.now += 30
    kept.tell(MACHINE.name, "Machine", m.GUEST_ANSWERS, 20.125)
    kept.step(Bootstrap(cluster=CLUSTER, machine=MACHINE, mode="join"), 20.5, 21)
    kept.tell(MACHINE.name, "Machine", m.KUBEADM_BEGAN, 22)
    kept.tell(MACHINE.name, "Machine", m.KUBEADM_ENDED, 50, "kubeadm ended well in it (try 1)")
    kept.tell(MACHINE.name, "Machine", m.NODE_READY, 51.5)
    kept.tell("web", "NodePool", m.READY, 51.625)
    kept.tell("shop", "Cluster", m.READY, 51.75)


def test_a_timeline_is_made_of_what_the_store_keeps(kept: Kept) -> None:
    made(kept)
    t = timeline(history.gather(kept.store, "Cluster", "default", "shop"), now=kept.now)
    assert t.complete
    assert t.end - t.begin == pytest.approx(51.75)
    shown = history.shown("cluster/shop", t)
    assert [(s["what"], s["start"], s["seconds"]) for s in shown["criticalPath"]] == [
        ("from the declaration, before StartDomain", 0.0, 1.0),
        ("StartDomain", 1.0, 1.0),
        ("guest boots", 2.0, 18.125),
        ("after guest boots, before Bootstrap", 20.125, 0.375),
        ("Bootstrap", 20.5, 0.5),
        ("after Bootstrap, before kubeadm join", 21.0, 1.0),
        ("kubeadm join", 22.0, 28.0),
        ("node becomes Ready", 50.0, 1.5),
        ("after node becomes Ready, until it is shown", 51.5, 0.25),
    ]
    assert shown["byWork"] == {
        "guest boot": 18.125,
        "kubeadm": 29.5,
        "image and disk": 0.0,
        "hypervisor": 1.0,
        "Bedplate": 3.125,
    }
    assert shown["neither"] == 4.125


def test_pools_and_machines_have_their_own(kept: Kept) -> None:
    made(kept)
    pool = history.gather(kept.store, "NodePool", "default", "web")
    assert pool.subject == {MACHINE.key}
    assert pool.end == pytest.approx(BEGIN + 51.625)
    machine = history.gather(kept.store, "Machine", "default", MACHINE.name)
    assert machine.subject == {MACHINE.key}
    assert (machine.begin, machine.end) == (MACHINE.created, pytest.approx(BEGIN + 51.5))


def test_a_cluster_made_again_has_nothing_of_the_first(kept: Kept) -> None:
    made(kept)
    kept.now += 600
    for kind, name in (("NodePool", "web"), ("Cluster", "shop"), ("Machine", MACHINE.name)):
        with kept.store.transaction() as tx:
            tx.remove(kind, "default", name)
    kept.now += 1
    kept.declare(Cluster(metadata=ObjectMeta(name="shop", namespace="default")))
    with pytest.raises(history.NoTimeline, match="nothing is recorded"):
        history.gather(kept.store, "Cluster", "default", "shop")
    kept.tell("shop", "Cluster", m.READY, 700)
    ready = [e for e in kept.store.all("Event", "default") if isinstance(e, Event) and e.reason == m.READY]
    assert sorted(e.count for e in ready) == [1, 1, 1]


def test_of_what_is_of_no_cluster_there_is_none(kept: Kept) -> None:
    kept.declare(VirtualMachine(metadata=ObjectMeta(name="db", namespace="default")))
    with pytest.raises(history.NoTimeline, match="clusters, node pools and machines"):
        history.gather(kept.store, "VirtualMachine", "default", "db")
    with pytest.raises(NotFound):
        history.gather(kept.store, "Cluster", "default", "none")


def test_the_declaration_s_time_outlives_the_change_log(kept: Kept) -> None:
    made(kept)
    kept.now += 7200
    kept.store.maintain()
    assert kept.store.added("Cluster", "default", "shop") is None
    assert history.gather(kept.store, "Cluster", "default", "shop").begin == BEGIN  # in whole seconds
