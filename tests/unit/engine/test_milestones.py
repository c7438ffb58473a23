"""What is told of a machine on its way, once and with its time."""

from __future__ import annotations

from typing import Any

import msgspec

from bedplate.engine import messages as msg
from bedplate.engine import milestones as m
from bedplate.engine.milestones import milestones
from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import Blueprint, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, MachineUid, ServerName, key
from bedplate.model.inventory import AnyView, DomainView, NodeView, Observation
from bedplate.model.journal import OperationRecord
from bedplate.model.report import Waiting

Loop = Any
CLUSTER = ClusterKey("default/shop")
MACHINE = MachineEntry(
    uid=MachineUid("u1"),
    name="m1",
    namespace="default",
    owner=key("cluster", "default", "shop"),
    cluster=CLUSTER,
    role="worker",
    server=ServerName("hv1"),
    cpu=1,
    memory_mib=1024,
    disk_mib=1000,
    disk_pool="local",
    image=ImageRef(name="node", disk=Digest("sha256:aa")),
    nic=Nic(network="lan", bridge="br0", mac="m", address="10.0.0.1", prefix=24),
)
RUNNING = DomainView(server=MACHINE.server, uid=MACHINE.uid, state="running", boot=1)
NODE = NodeView(cluster=CLUSTER, name="m1", machine=MACHINE.uid)


def told(old: AnyView | None, new: AnyView, at: float = 50.0, *, joined: bool = False, failures: int = 0) -> list[Any]:
    entry = msgspec.structs.replace(MACHINE, joined=joined)
    blueprint = Blueprint(entries={entry.key: entry})
    seen = Observation(value=new, time=at, source="x")
    found = list(milestones(old, seen, blueprint, lambda _k, _s: Attempt(count=failures)))
    assert all(x.about == entry.key for x in found)
    return [(x.reason, x.message, x.at) for x in found]


def changed(view: DomainView, **fields: Any) -> DomainView:
    return msgspec.structs.replace(view, **fields)


def test_a_guest_answers_once_in_a_boot() -> None:
    up = changed(RUNNING, guest_agent=True)
    assert told(RUNNING, up) == [(m.GUEST_ANSWERS, "its guest answers (boot 1)", 50.0)]
    assert told(up, up) == []
    assert told(None, up) == []  # as after a restart of the controller: nobody knows when it was


def test_kubeadm_s_times_are_the_guest_s_own() -> None:
    busy = changed(RUNNING, guest_agent=True, bootstrap="running")
    done = changed(busy, bootstrap="done", bootstrap_up=20.0, bootstrap_began=21.5, bootstrap_ended=48.25)
    assert told(busy, done) == [
        (m.NETWORK_UP, "its network was up (try 1)", 20.0),
        (m.KUBEADM_BEGAN, "kubeadm began in it (try 1)", 21.5),
        (m.KUBEADM_ENDED, "kubeadm ended well in it (try 1)", 48.25),
    ]
    assert told(busy, changed(busy, bootstrap="failed"), failures=1) == [
        (m.KUBEADM_ENDED, "kubeadm failed in it (try 2)", 50.0)
    ]
    assert told(done, changed(done, detail="x")) == []


def test_a_node_joins_and_becomes_ready() -> None:
    ready = msgspec.structs.replace(NODE, ready=True)
    joins = (m.NODE_JOINED, "its node has joined the cluster", 50.0)
    becomes = (m.NODE_READY, "its node is Ready", 50.0)
    assert told(None, NODE) == [joins]
    assert told(NODE, ready, joined=True) == [becomes]
    assert told(None, ready) == [joins, becomes]
    assert told(None, ready, joined=True) == []
    assert told(ready, ready, joined=True) == []
    assert told(None, msgspec.structs.replace(NODE, machine=MachineUid("other"))) == []
    assert told(ready, msgspec.structs.replace(NODE, present=False)) == []


def test_the_engine_tells_them_as_events_with_their_times(loop: Loop) -> None:
    vm = loop_vm()
    loop.want(vm)
    loop.start()
    loop.connect()
    loop.domain(vm, state="running", boot=1)
    loop.take(msg.Record)
    loop.domain(vm, state="running", boot=1, guest_agent=True)
    [event] = loop.take(msg.Record)
    assert (event.reason, event.type, event.at) == (m.GUEST_ANSWERS, "Normal", loop.now)
    assert event.kind == "VirtualMachine"


def test_an_operation_tells_what_was_waited_on_before(loop: Loop) -> None:
    vm = loop_vm()
    loop.want(vm)
    loop.start()
    loop.see("agent/hv1", full=True)
    loop.pass_time(1)
    loop.connect()
    [begin] = loop.take(msg.Begin)
    operation: OperationRecord = begin.operation
    assert (operation.step.name, operation.waited) == ("CreateVolume", Waiting.SERVER)


def loop_vm() -> MachineEntry:
    owner = key("virtualmachine", "default", "vm1")
    return msgspec.structs.replace(MACHINE, role="vm", cluster=ClusterKey(""), owner=owner, name="vm1")
