"""The loop's promises: journal first, bounded, patient, quiet when it may not act."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bedplate.checks.blueprint import Finding
from bedplate.engine import messages as msg
from bedplate.model.blueprint import BASE_ADDON
from bedplate.model.ids import Epoch, OperationId, Revision
from bedplate.model.inventory import ClusterView, DomainView, NodeView
from bedplate.model.journal import OperationRecord
from bedplate.model.policy import Policy
from bedplate.model.steps import CreateVolume, Done, Failed, Refused, Unknown

Loop = Any


def started(loop: Loop, *entries: Any) -> None:
    loop.want(*entries)
    loop.start()
    loop.connect()


def test_a_step_runs_only_after_it_is_journalled(loop: Loop) -> None:
    started(loop, loop.vm(1))
    [begin] = loop.take(msg.Begin)
    assert begin.operation.step.name == "CreateVolume"
    assert not loop.take(msg.Run)
    loop.send(msg.Journalled(operation=begin.operation.id))
    [run] = loop.take(msg.Run)
    assert run.ticket.operation == begin.operation.id
    assert run.ticket.epoch == 1


def test_nothing_is_done_before_the_blueprint_is_committed(loop: Loop) -> None:
    loop.want(loop.cluster())
    out = loop.engine.handle(
        msg.Started(store="s", epoch=Epoch(1), spec=loop.engine.spec.spec, blueprint=loop.blueprint), 1000.0
    )
    assert [type(c) for c in out if isinstance(c, msg.Commit | msg.Begin)] == [msg.Commit]
    out = loop.engine.handle(msg.Committed(number=Revision(1)), 1000.0)
    assert any(isinstance(c, msg.Begin) for c in out)


def test_no_step_on_a_server_that_has_not_told_all_it_knows(loop: Loop) -> None:
    loop.want(loop.vm(1))
    loop.start()
    assert loop.begun() == []
    loop.connect()
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_one_step_at_a_time_on_one_machine(loop: Loop) -> None:
    m = loop.vm(1)
    started(loop, m)
    [run] = loop.running()
    loop.domain(m, volume=True, disk_pool="local")
    assert loop.begun() == []
    loop.end(run)
    assert loop.begun() == ["DefineDomain machine/u1"]


def test_a_dead_nodes_pods_are_freed_beside_its_machines_start_elsewhere(loop: Loop) -> None:
    """A tenant's API that is slow, or down, holds up nobody."""
    cluster = loop.cluster()
    m = loop.vm(1, role="worker", cluster=cluster.cluster, joined=True, boot=2, out_of_service=True, carried=True)
    seen = NodeView(cluster=cluster.cluster, name=m.name, ready=False, machine=m.uid)
    loop.start()
    addons = (BASE_ADDON.mark,)
    loop.see("kubernetes/shop", ClusterView(cluster=cluster.cluster, secrets=True, api=True, addons=addons), seen)
    loop.want(cluster, m)
    loop.connect()
    loop.pass_time(1.0)
    runs = {run.step.name: run for run in loop.running()}
    assert sorted(runs) == ["DefineDomain", "MarkOutOfService"]
    loop.domain(m, volume=True, disk_pool="local", state="shutoff", boot=1)
    loop.end(runs["DefineDomain"])
    assert loop.begun() == ["StartDomain machine/u1"]
    loop.end(runs["MarkOutOfService"], Failed(reason="Timeout", message="no answer"))
    loop.pass_time(60.0)
    assert loop.begun() == ["MarkOutOfService machine/u1"]


def test_machines_share_one_pull_of_their_image(loop: Loop) -> None:
    loop.want(loop.vm(1), loop.vm(2))
    loop.start()
    loop.connect(images=())
    [run] = loop.running()
    assert run.step.name == "PullImage"
    loop.connect()
    loop.end(run)
    assert sorted(loop.begun()) == ["CreateVolume machine/u1", "CreateVolume machine/u2"]


def test_backoff_doubles_up_to_its_limit(loop: Loop) -> None:
    started(loop, loop.vm(1))
    [run] = loop.running()
    waits: list[float] = []
    for _ in range(12):
        loop.end(run, Failed(reason="DiskFull", message="no room"))
        failed_at = loop.now
        while not (again := loop.running()):
            loop.pass_time(0.5)
        waits.append(loop.now - failed_at)
        [run] = again
    assert waits[0] == pytest.approx(2, abs=1)
    for earlier, later in itertools.pairwise(waits):
        assert later >= earlier * 1.3 or later > loop.policy.backoff_limit * 0.7
    assert max(waits) <= loop.policy.backoff_limit + 1


def test_backoff_differs_between_machines(loop: Loop) -> None:
    """Jitter: what failed together is not tried again together."""
    started(loop, *(loop.vm(n) for n in range(1, 5)))
    for run in loop.running():
        loop.end(run, Failed(reason="DiskFull", message="no room"))
    times: set[float] = set()
    for _ in range(200):
        loop.pass_time(0.01)
        times.update(loop.now for _ in loop.begun())
    assert len(times) > 1


@pytest.mark.parametrize("policy", [Policy(steps_per_server=2)])
def test_few_steps_at_once_on_one_server_and_all_get_their_turn(loop: Loop) -> None:
    started(loop, *(loop.vm(n) for n in range(1, 8)))
    done: list[str] = []
    queue = loop.running()
    while queue:
        assert len(queue) <= 2
        run = queue.pop(0)
        m = run.step.machine
        loop.domain(m, volume=True, disk_pool="local", state="running", boot=1, guest_agent=True)
        loop.end(run)
        done.append(m.name)
        queue += loop.running()
    assert sorted(done) == [f"vm{n}" for n in range(1, 8)]


@pytest.mark.parametrize("policy", [Policy(steps_per_kind=3)])
def test_few_steps_at_once_of_one_kind_and_all_get_their_turn(loop: Loop) -> None:
    """Also of steps without a server: here nothing but the end of another step makes room."""
    started(loop, *(loop.cluster(f"c{n}") for n in range(10)))
    seen: list[str] = []
    queue = loop.running()
    while queue:
        assert len(queue) <= 3
        run = queue.pop(0)
        seen.append(run.step.cluster.cluster)
        loop.end(run, Failed(reason="Busy", message="not now"))
        queue += loop.running()
    assert len(set(seen)) == 10


def test_a_restart_goes_on_from_what_the_world_shows(loop: Loop) -> None:
    """An operation that was open when the controller died is closed as unknown and done again if it needs to be."""
    m = loop.vm(1)
    operation = OperationRecord(id=OperationId("1-1"), step=CreateVolume(machine=m), epoch=Epoch(1), started=990.0)
    loop.want(m)
    loop.start()
    first = loop.engine.blueprint
    fresh = type(loop)(loop.policy)
    loop.engine, loop.commands = fresh.engine, []
    loop.start(epoch=Epoch(2), blueprint=first, open_operations=(operation,))
    [finish] = loop.take(msg.Finish)
    assert finish.operation == "1-1"
    assert isinstance(finish.result, Unknown)
    assert not any(a.running for a in loop.engine.attempts.by_target[m.key].values())
    loop.connect("hv1", DomainView(server=m.server, uid=m.uid, volume=True, disk_pool="local"))
    assert loop.begun() == ["DefineDomain machine/u1"]


def test_an_answer_of_an_earlier_life_is_ignored(loop: Loop) -> None:
    started(loop, loop.vm(1))
    loop.commands = []
    loop.send(msg.StepEnded(operation=OperationId("0-9"), result=Done()))
    loop.send(msg.Journalled(operation=OperationId("0-9")))
    assert not loop.take(msg.Finish)
    assert not loop.take(msg.Run)


def test_a_restored_store_is_only_looked_at_until_a_person_accepts(loop: Loop) -> None:
    loop.want(loop.vm(1))
    loop.start(observe_only=True)
    loop.connect()
    loop.pass_time(60)
    assert not loop.take(msg.Commit)
    assert not loop.take(msg.Begin)
    loop.send(msg.Accepted())
    loop.pass_time(1)
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_a_store_that_fails_stops_acting_and_losing_nothing(loop: Loop) -> None:
    loop.want()
    loop.start()
    loop.connect()
    loop.send(msg.StoreFailed(message="disk full"))
    loop.want(loop.vm(1))
    loop.connect("hv2")
    loop.pass_time(300)  # fails where the engine spins
    assert not loop.take(msg.Commit)
    assert not loop.take(msg.Begin)
    loop.send(msg.StoreHealed())
    loop.pass_time(1)
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_a_lost_commit_halts_for_good(loop: Loop) -> None:
    started(loop, loop.vm(1))
    [begin] = loop.take(msg.Begin)
    loop.send(msg.CommitLost(message="another controller has taken over"))
    assert loop.take(msg.Halt)
    loop.commands = []
    loop.send(msg.Journalled(operation=begin.operation.id))
    loop.connect("hv2")
    loop.pass_time(60)
    assert not loop.take(msg.Run)
    assert not loop.take(msg.Begin)
    assert not loop.take(msg.Commit)


def test_a_refused_plan_is_not_committed_and_tried_again_with_news(loop: Loop) -> None:
    m = loop.vm(1)
    loop.refuse = (Finding(key=m.key, rule="address-unique", sentence="two machines have 10.0.0.1"),)
    started(loop, m)
    loop.pass_time(60)
    assert not loop.take(msg.Commit)
    loop.refuse = ()
    loop.connect("hv2")
    loop.pass_time(1)
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_news_is_gathered_for_a_tick(loop: Loop) -> None:
    started(loop)
    loop.pass_time(10)
    before = loop.plans
    for n in range(50):
        loop.connect(f"hv{n}")
        loop.now += 0.0001
    loop.pass_time(1)
    assert loop.plans == before + 1


def test_at_rest_nothing_is_asked_for(loop: Loop) -> None:
    m = loop.vm(1)
    started(loop, m)
    [run] = loop.running()
    loop.domain(m, volume=True, disk_pool="local", state="running", boot=1, guest_agent=True)
    loop.end(run)
    loop.pass_time(10)
    loop.commands, plans = [], loop.plans
    loop.pass_time(100_000)
    assert loop.commands == []
    assert loop.plans == plans


@pytest.mark.parametrize(
    "result", [Unknown(message="no answer"), Refused(message="epoch 1 is over"), Failed(reason="X", message="no")]
)
def test_whatever_did_not_go_is_tried_again(loop: Loop, result: Any) -> None:
    started(loop, loop.vm(1))
    [run] = loop.running()
    loop.end(run, result)
    assert loop.begun() == []
    loop.pass_time(10)
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_an_unknown_outcome_that_shows_in_the_world_is_not_repeated(loop: Loop) -> None:
    m = loop.vm(1)
    started(loop, m)
    [run] = loop.running()
    loop.domain(m, volume=True, disk_pool="local")
    loop.end(run, Unknown(message="no answer"))
    assert loop.begun() == ["DefineDomain machine/u1"]


def test_a_failed_bootstrap_is_counted_when_it_is_seen(loop: Loop) -> None:
    m = loop.vm(1)
    started(loop, m)
    failed = {"volume": True, "state": "running", "boot": 1, "guest_agent": True, "bootstrap": "failed"}
    loop.domain(m, **failed, detail="preflight: swap is on")
    loop.domain(m, **failed, detail="preflight: swap is on")
    found = loop.engine.attempts.get(m.key, "Bootstrap")
    assert found.count == 1
    assert "swap is on" in found.last_error


def test_a_server_that_is_lost_gets_no_steps(loop: Loop) -> None:
    m = loop.vm(1)
    started(loop, m)
    [run] = loop.running()
    lost = loop.engine.inventory.inventory.server(m.server).value
    loop.see("agent/hv1", type(lost)(server=m.server, connected=False))
    loop.end(run, Unknown(message="lost"))
    loop.pass_time(600)
    assert loop.begun() == []
    loop.connect()
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_what_an_agent_told_since_is_not_undone_by_its_reply(loop: Loop) -> None:
    """The reply holds what was read before; the domain has ended meanwhile and its agent said so."""
    m = loop.vm(1)
    started(loop, m)
    [run] = loop.running()
    ended = DomainView(server=m.server, uid=m.uid, volume=True, state="crashed", boot=1)
    loop.see("agent/hv1", ended)
    loop.end(run, Done(views=(DomainView(server=m.server, uid=m.uid, volume=True, state="running", boot=1),)))
    assert loop.engine.inventory.inventory.domain(m.server, m.uid).value == ended


def test_a_cluster_of_an_earlier_ones_name_inherits_nothing(loop: Loop) -> None:
    entry = loop.cluster()
    started(loop, entry)
    [run] = loop.running()
    seen = ClusterView(cluster=entry.cluster, secrets=True, initialised=True, api=True, addons=(BASE_ADDON.mark,))
    loop.end(run, Done(views=(seen,)))
    loop.want()
    loop.connect("hv2")
    loop.pass_time(1)
    loop.see(f"cluster/{entry.cluster}", seen, full=True)
    assert loop.engine.inventory.inventory.cluster(entry.cluster) is None
    loop.commands = []
    loop.want(entry)
    loop.connect("hv3")
    loop.pass_time(1)
    assert loop.begun() == ["MakeSecrets cluster/default/shop"]
