"""Of whatever is recorded, the critical path is without gap or overlap, and the records' order is of no matter."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.engine import messages as msg
from bedplate.engine import milestones as m
from bedplate.engine.timeline import Happening, Records, Timeline, Work, of_cluster, timeline
from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, Epoch, Key, MachineUid, OperationId, ServerName, key
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.cluster import Machine
from bedplate.model.report import Waiting
from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DefineDomain,
    Done,
    Failed,
    InstallAddons,
    MakeSecrets,
    PullImage,
    StartDomain,
    Step,
    StepResult,
    Unknown,
)
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

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
MACHINES = [
    MachineEntry(
        uid=MachineUid(f"u{n}"),
        name=f"m{n}",
        namespace="default",
        owner=key("cluster", "default", "shop"),
        cluster=CLUSTER.cluster,
        role="control-plane" if n == 0 else "worker",
        server=ServerName(f"hv{n % 2}"),
        cpu=1,
        memory_mib=1024,
        disk_mib=1000,
        disk_pool="local",
        image=IMAGE,
        nic=Nic(network="lan", bridge="br0", mac="m", address="10.0.0.1", prefix=24),
    )
    for n in range(3)
]
REASONS = (m.GUEST_ANSWERS, m.NETWORK_UP, m.KUBEADM_BEGAN, m.KUBEADM_ENDED, m.NODE_JOINED, m.NODE_READY)
RESULTS: tuple[StepResult | None, ...] = (
    Done(),
    Done(),
    Done(),
    Failed(reason="R", message="m"),
    Unknown(message="m"),
    None,
)
WAITED = ("", Waiting.BOOT, Waiting.JOIN_TURN, Waiting.CONTROL_PLANE, Waiting.SECRETS, Waiting.BACKOFF)
times = st.integers(0, 60).map(float)


@st.composite
def steps(draw: Any) -> Step:
    of = draw(st.sampled_from(MACHINES))
    match draw(st.integers(0, 6)):
        case 0:
            return PullImage(server=of.server, disk_pool="local", image=IMAGE)
        case 1:
            return CreateVolume(machine=of)
        case 2:
            return DefineDomain(machine=of)
        case 3:
            return StartDomain(machine=of)
        case 4:
            return Bootstrap(cluster=CLUSTER, machine=of, mode=draw(st.sampled_from(["init", "join"])))
        case 5:
            return MakeSecrets(cluster=CLUSTER)
        case _:
            return InstallAddons(cluster=CLUSTER)


@st.composite
def records(draw: Any) -> Records:
    """Anything, also what no controller would have done."""
    operations: list[OperationRecord] = []
    for n in range(draw(st.integers(0, 14))):
        started, result = draw(times), draw(st.sampled_from(RESULTS))
        finished = started + draw(st.integers(0, 12)) if result is not None else None
        operations.append(
            OperationRecord(
                id=OperationId(f"1-{n}"),
                step=draw(steps()),
                epoch=Epoch(1),
                started=started,
                finished=finished,
                result=result,
                waited=draw(st.sampled_from(WAITED)),
            )
        )
    happening = st.builds(
        Happening, st.sampled_from([x.key for x in MACHINES]), st.sampled_from(REASONS), times, st.booleans()
    )
    begin = draw(st.integers(0, 10).map(float))
    end = draw(st.none() | st.integers(10, 70).map(float))
    subject = draw(st.none() | st.just(frozenset({MACHINES[1].key})))
    return Records(begin, end, operations, draw(st.lists(happening, max_size=20)), subject)


def check(t: Timeline) -> None:
    """The path is from the beginning to the end, its spans one after another; so is what was done to one thing."""
    at = t.begin
    for span in t.path:
        assert span.start == at
        assert span.end > span.start
        at = span.end
    assert at == t.end or not t.path
    assert sum(t.by_work().values()) == pytest.approx(t.end - t.begin)
    assert 0 <= t.neither <= t.end - t.begin + 1e-6
    assert all(span in t.spans or span.work is Work.OWN for span in t.path)
    for target in {span.target for span in t.spans}:
        mine = [span for span in t.spans if span.target == target]
        assert all(a.end <= b.start for a, b in itertools.pairwise(mine))
    assert all(t.begin <= span.start < span.end <= t.end for span in t.spans)


@given(records(), st.integers(0, 9))
def test_the_path_is_whole_and_the_order_of_the_records_is_of_no_matter(found: Records, seed: int) -> None:
    t = timeline(found, now=60.0)
    check(t)
    mixed = random.Random(seed)
    shuffled = found._replace(
        operations=mixed.sample(list(found.operations), len(found.operations)),
        happenings=mixed.sample(list(found.happenings), len(found.happenings)),
    )
    assert timeline(shuffled, now=60.0) == t


@given(records(), st.floats(1.0, 1e6))
def test_when_it_was_is_of_no_matter(found: Records, later: float) -> None:
    by = round(later)
    moved = Records(
        found.begin + by,
        None if found.end is None else found.end + by,
        [
            msgspec.structs.replace(o, started=o.started + by, finished=None if o.finished is None else o.finished + by)
            for o in found.operations
        ],
        [h._replace(at=h.at + by) for h in found.happenings],
        found.subject,
    )
    was, now = timeline(found, now=60.0), timeline(moved, now=60.0 + by)
    assert [(s.of, s.what, s.seconds) for s in now.path] == [(s.of, s.what, s.seconds) for s in was.path]


@given(st.integers(0, 999), st.sampled_from([1, 3]), st.integers(1, 3))
def test_the_making_of_any_simulated_cluster_is_told_to_its_end(seed: int, planes: int, workers: int) -> None:
    world = fleet.world(3, memory_mib=262_144, cpus=64)
    sim = Simulator(world, seed=seed)
    kept: list[OperationRecord] = []
    finish = sim.store.finish

    def journalled(operation: OperationId, result: StepResult, finished: float) -> None:
        record = sim.store.operations.get(operation)
        if record is not None:
            kept.append(msgspec.structs.replace(record, finished=finished, result=result))
        finish(operation, result, finished)

    sim.store.finish = journalled  # type: ignore[method-assign]
    sim.apply(*fleet.infrastructure(world))
    sim.start_controller()
    sim.run(lambda: False, seconds=60)
    declared = sim.now
    sim.apply(fleet.cluster(replicas=planes), fleet.pool(replicas=workers))
    told = Story(sim)
    told.until_ready()
    events = sim.store.events
    cluster = next(o for k, o in sim.store.objects.items() if k.startswith("cluster/"))
    k: Key = key("cluster", cluster.metadata.namespace, cluster.metadata.name)
    end = next(e.at for e in events if e.about == k and e.reason == m.READY)
    happenings = [
        Happening(key("machine", o.metadata.uid), e.reason, e.at, " failed " in e.message)
        for e in events
        if e.reason in REASONS and isinstance(o := sim.store.objects.get(e.about), Machine)
    ]
    mine = of_cluster(kept, ClusterKey(k.partition("/")[2]))
    t = timeline(Records(declared, end, mine, happenings), now=sim.now)
    check(t)
    machines = {o.metadata.name for o in sim.store.objects.values() if isinstance(o, Machine)}
    assert len(machines) == planes + workers
    for name in machines:
        works = {s.work for s in t.spans if s.of == name}
        assert {Work.BOOT, Work.KUBEADM, Work.DISK, Work.HYPERVISOR, Work.OWN} <= works
    by = t.by_work()
    assert by[Work.BOOT] > 0
    assert by[Work.KUBEADM] > 0
    assert all(isinstance(e, msg.Record) for e in events)
