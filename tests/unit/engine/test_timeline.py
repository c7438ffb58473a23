"""Timelines of clusters whose making is told moment by moment: whose time was it?"""

from __future__ import annotations

from typing import Any

import pytest

from bedplate.engine import milestones as m
from bedplate.engine.timeline import Happening, Records, Timeline, Work, of_cluster, timeline
from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, Epoch, MachineUid, OperationId, ServerName, key
from bedplate.model.journal import OperationRecord
from bedplate.model.report import Waiting
from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DefineDomain,
    Done,
    Failed,
    MakeSecrets,
    PullImage,
    StartDomain,
    Step,
    StepResult,
    Unknown,
)

IMAGE = ImageRef(name="node", disk=Digest("sha256:aa"))
CLUSTER = ClusterEntry(
    cluster=ClusterKey("default/shop"),
    uid="shop",
    version="1.35.3",
    network="lan",
    endpoint="10.0.0.100",
    pod_cidr="10.1.0.0/16",
    service_cidr="10.2.0.0/16",
)


def machine(number: int, role: Any = "worker") -> MachineEntry:
    return MachineEntry(
        uid=MachineUid(f"u{number}"),
        name=f"m{number}",
        namespace="default",
        owner=key("cluster", "default", "shop"),
        cluster=CLUSTER.cluster,
        role=role,
        server=ServerName(f"hv{number}"),
        cpu=1,
        memory_mib=1024,
        disk_mib=1000,
        disk_pool="local",
        image=IMAGE,
        nic=Nic(network="lan", bridge="br0", mac="m", address="10.0.0.1", prefix=24),
    )


CP, W1, W2 = machine(1, "control-plane"), machine(2), machine(3)


class Told:
    """A story of operations and happenings."""

    def __init__(self) -> None:
        self.operations: list[OperationRecord] = []
        self.happenings: list[Happening] = []

    def step(
        self, step: Step, started: float, finished: float | None, result: StepResult | None = None, waited: str = ""
    ) -> None:
        ended = result or (Done() if finished is not None else None)
        self.operations.append(
            OperationRecord(
                id=OperationId(f"1-{len(self.operations)}"),
                step=step,
                epoch=Epoch(1),
                started=started,
                finished=finished,
                result=ended,
                waited=waited,
            )
        )

    def made(self, of: MachineEntry, at: float, boots: float) -> float:
        """Pulled, cloned, defined, started: 1 s each without a pause; gives when its guest answers."""
        self.step(PullImage(server=of.server, disk_pool="local", image=IMAGE), at, at + 1)
        self.step(CreateVolume(machine=of), at + 1, at + 2)
        self.step(DefineDomain(machine=of), at + 2, at + 3)
        self.step(StartDomain(machine=of), at + 3, at + 4)
        self.happens(of, m.GUEST_ANSWERS, at + 4 + boots)
        return at + 4 + boots

    def joins(self, of: MachineEntry, at: float, seconds: float, waited: str = "", mode: Any = "join") -> float:
        """Handed over in 1 s, 1 s until the network is up, 1 s of preparing, kubeadm, Ready 5 s later; gives that."""
        self.step(Bootstrap(cluster=CLUSTER, machine=of, mode=mode), at, at + 1, waited=waited)
        self.happens(of, m.NETWORK_UP, at + 2)
        self.happens(of, m.KUBEADM_BEGAN, at + 3)
        self.happens(of, m.KUBEADM_ENDED, at + 3 + seconds)
        self.happens(of, m.NODE_JOINED, at + 3 + seconds - 2)
        self.happens(of, m.NODE_READY, at + 3 + seconds + 5)
        return at + 3 + seconds + 5

    def happens(self, of: MachineEntry, reason: str, at: float, failed: bool = False) -> None:
        self.happenings.append(Happening(of.key, reason, at, failed))

    def timeline(self, begin: float, end: float | None, now: float = 0.0, **more: Any) -> Timeline:
        return timeline(Records(begin, end, self.operations, self.happenings, **more), now)


def whole(t: Timeline) -> list[tuple[str, str, float]]:
    """The path as `(of, what, seconds)`, after seeing that it is without gaps."""
    at = t.begin
    for span in t.path:
        assert span.start == pytest.approx(at)
        at = span.end
    assert at == pytest.approx(t.end)
    return [(s.of, s.what, round(s.seconds, 3)) for s in t.path]


def test_one_machine_from_its_declaration_to_ready() -> None:
    told = Told()
    up = told.made(CP, 100.5, boots=20)
    ready = told.joins(CP, up + 0.25, 100, mode="init", waited=Waiting.BOOT)
    t = told.timeline(100, ready + 0.5)
    assert whole(t) == [
        ("hv1", "from the declaration, before PullImage", 0.5),
        ("hv1", "PullImage", 1),
        ("m1", "CreateVolume", 1),
        ("m1", "DefineDomain", 1),
        ("m1", "StartDomain", 1),
        ("m1", "guest boots", 20),
        ("m1", "after guest boots, before Bootstrap", 0.25),
        ("m1", "Bootstrap", 1),
        ("m1", "guest boots on", 1),
        ("m1", "prepares", 1),
        ("m1", "kubeadm init", 98),
        ("m1", "kubeadm init", 2),
        ("m1", "node becomes Ready", 5),
        ("", "after node becomes Ready, until it is shown", 0.5),
    ]
    by = t.by_work()
    assert by == pytest.approx({Work.BOOT: 21, Work.KUBEADM: 105, Work.DISK: 2, Work.HYPERVISOR: 2, Work.OWN: 3.25})
    assert t.neither == pytest.approx(7.25)
    assert t.complete


def test_joins_in_turn_are_kubeadm_s_time_and_the_polls_between_are_bedplate_s() -> None:
    told = Told()
    up = told.made(CP, 0, boots=20)
    ready = told.joins(CP, up, 100, mode="init")  # kubeadm's own end is 5 s earlier
    for w in (W1, W2):
        told.made(w, 0, boots=30)
    told.joins(W1, ready - 5 + 1.5, 50, waited=Waiting.CONTROL_PLANE)  # noticed 1.5 s after its end
    joined = ready - 5 + 1.5 + 3 + 48
    end = told.joins(W2, joined + 0.5, 60, waited=Waiting.JOIN_TURN)
    t = told.timeline(0, end)
    names = [(of, what) for of, what, _ in whole(t)]
    assert ("m1", "kubeadm init") in names
    assert ("m2", "kubeadm join") in names
    assert ("m3", "kubeadm join") in names
    assert ("m2", "guest boots") not in names  # it was up long before its turn
    waits = {what: round(s, 3) for _, what, s in whole(t) if what.startswith("after")}
    assert waits == {"after kubeadm init, before Bootstrap": 1.5, "after kubeadm join, before Bootstrap": 0.5}
    assert t.neither == pytest.approx(2 + 2 + 1.5 + 0.5 + 3 * 2)  # disks, domains, polls, three times handing over


def test_what_a_machine_did_not_wait_on_does_not_hide_that_bedplate_dawdled() -> None:
    told = Told()
    up = told.made(CP, 0, boots=20)
    ready = told.joins(CP, up, 100, mode="init")
    last = told.made(W1, ready, boots=30)
    told.made(W2, ready, boots=10)
    told.joins(W1, last, 50, waited=Waiting.BOOT)
    end = told.joins(W2, last + 60, 50, waited=Waiting.BOOT)  # it was up 80 s before; others' joins are no excuse
    t = told.timeline(ready, end)
    assert ("m3", "after guest boots, before Bootstrap", 80) in whole(t)


def test_a_pool_s_timeline_begins_with_its_own_and_ends_with_its_own() -> None:
    told = Told()
    told.joins(CP, told.made(CP, 0, boots=20), 100, mode="init")
    up = told.made(W1, 500.2, boots=30)
    end = told.joins(W1, up, 50)
    told.made(W2, 590, boots=30)
    t = told.timeline(500, end, subject=frozenset({W1.key}))
    assert {of for of, _, _ in whole(t)} == {"hv2", "m2"}


def test_failed_tries_and_backoff_are_bedplate_s_and_a_failed_kubeadm_is_kubeadm_s() -> None:
    told = Told()
    told.step(CreateVolume(machine=CP), 0, 1, Failed(reason="NoSpace", message="full"))
    told.step(CreateVolume(machine=CP), 6, 7)
    told.step(StartDomain(machine=CP), 7, 8)
    told.happens(CP, m.GUEST_ANSWERS, 20)
    told.step(Bootstrap(cluster=CLUSTER, machine=CP, mode="init"), 20, 21)
    told.happens(CP, m.NETWORK_UP, 21)
    told.happens(CP, m.KUBEADM_BEGAN, 21)
    told.happens(CP, m.KUBEADM_ENDED, 50, failed=True)
    end = told.joins(CP, 60, 100, mode="init")
    t = told.timeline(0, end)
    assert [x for x in whole(t) if x[1].startswith("after")] == [
        ("m1", "after CreateVolume, before CreateVolume", 5),
        ("m1", "after kubeadm init, before Bootstrap", 10),
    ]
    assert t.by_work()[Work.KUBEADM] == pytest.approx(29 + 105)


def test_what_was_not_recorded_is_charged_to_bedplate() -> None:
    told = Told()
    told.step(StartDomain(machine=CP), 0, 1)
    told.step(Bootstrap(cluster=CLUSTER, machine=CP, mode="init"), 30, 31)
    told.happens(CP, m.NODE_READY, 100)
    t = told.timeline(0, 101)
    assert [x for x in whole(t) if x[1].startswith("after")] == [
        ("m1", "after StartDomain, before Bootstrap", 29),
        ("", "after kubeadm init, until it is shown", 1),
    ]
    nothing = timeline(Records(5, 9, [], []), 10)
    assert whole(nothing) == [("", "from the declaration, until it is shown", 4)]
    assert nothing.neither == 4


def test_what_goes_on_still_is_shown_as_far_as_it_is() -> None:
    told = Told()
    told.step(StartDomain(machine=CP), 0, 1)
    t = told.timeline(0, None, now=21)
    assert not t.complete
    assert whole(t) == [("m1", "StartDomain", 1), ("m1", "guest boots", 20)]
    told.happens(CP, m.GUEST_ANSWERS, 25)
    told.step(Bootstrap(cluster=CLUSTER, machine=CP, mode="init"), 25, None)
    assert whole(told.timeline(0, None, now=26))[-1] == ("m1", "Bootstrap", 1)


def test_a_step_of_unknown_end_is_judged_by_what_happened_next() -> None:
    told = Told()
    told.step(StartDomain(machine=CP), 0, 5, Unknown(message="the controller stopped before the answer came"))
    told.happens(CP, m.GUEST_ANSWERS, 20)
    end = told.joins(CP, 21, 100, mode="init")
    t = told.timeline(0, end)
    assert t.by_work()[Work.BOOT] == pytest.approx(15 + 1)


def test_a_cluster_s_records_are_its_own_and_the_images_of_its_servers() -> None:
    told = Told()
    told.made(CP, 0, boots=1)
    told.step(MakeSecrets(cluster=CLUSTER), 0, 1)
    other = ClusterKey("default/other")
    told.step(MakeSecrets(cluster=ClusterEntry(**{**_fields(CLUSTER), "cluster": other})), 0, 1)
    told.step(PullImage(server=ServerName("elsewhere"), disk_pool="local", image=IMAGE), 0, 1)
    assert of_cluster(told.operations, CLUSTER.cluster) == [*told.operations[1:5], told.operations[0]]


def _fields(entry: ClusterEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}
