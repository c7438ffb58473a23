"""What the controller needs of a store: the SQLite store and the simulated one are asked the same.

A turn's commands are written in order or not at all; whoever is no longer first is told so; nothing is forgotten over a
reload. What only real files can show is in `test_store_files.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from memory_store import MemorySecrets
from store_rig import FAILED, SHOP, Kept, Real, Simulated, begin, delta, entry, finish, lead, machine, publish

from bedplate.engine import messages as msg
from bedplate.model.attempts import Attempt
from bedplate.model.ids import Epoch, Key, MachineUid, OperationId, Revision, ServerName, key
from bedplate.model.inventory import DomainView
from bedplate.model.kinds.cluster import Cluster, ClusterStatus, NodePool
from bedplate.model.meta import ObjectMeta
from bedplate.model.steps import CreateVolume, Done, StartDomain, Unknown
from bedplate.ports import CommitConflict
from bedplate.runner.controller import LEASE_SECONDS
from bedplate.store.store import Store


@pytest.fixture(params=["sqlite", "simulated"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "simulated":
        yield Simulated()
        return
    real = Real(tmp_path / "data")
    yield real
    real.store.close()


# --- leadership -----------------------------------------------------------------------------------------------------


def test_one_leads_and_each_lead_is_a_higher_epoch(kept: Kept) -> None:
    one, first = lead(kept)
    two = kept.controller("two")
    assert two.acquire() is None
    one.release(first)
    second = two.acquire()
    assert second is not None
    assert second > first
    assert one.acquire() is None


def test_a_lead_that_is_not_renewed_ends_and_one_that_is_goes_on(kept: Kept) -> None:
    one, first = lead(kept)
    two = kept.controller("two")
    kept.now += LEASE_SECONDS * 0.9
    assert one.renew(first)
    kept.now += LEASE_SECONDS * 0.9
    assert two.acquire() is None
    kept.now += LEASE_SECONDS
    second = two.acquire()
    assert second is not None
    assert not one.renew(first)
    one.release(first)  # takes nothing away from the other
    assert two.renew(second)


def test_the_same_holder_leads_again_at_once_after_its_crash(kept: Kept) -> None:
    _, first = lead(kept)
    kept.reopen()
    again, second = lead(kept)
    assert second > first
    assert not again.renew(first)


# --- blueprints -----------------------------------------------------------------------------------------------------


def test_an_empty_store(kept: Kept) -> None:
    controller, epoch = lead(kept)
    started = controller.load(epoch)
    assert (started.epoch, started.blueprint.number, dict(started.blueprint.entries)) == (epoch, 0, {})
    assert (started.open_operations, dict(started.attempts), started.observe_only) == ((), {}, False)
    assert started.store


def test_commits_follow_each_other_and_come_back(kept: Kept) -> None:
    controller, epoch = lead(kept)
    assert controller.carry_out([msg.Commit(delta=delta(0, entry(1), entry(2)), epoch=epoch)]) == [
        msg.Committed(number=Revision(1))
    ]
    changed = entry(2, cpu=4)
    controller.carry_out([msg.Commit(delta=delta(1, changed, entry(3), gone=(entry(1).key,)), epoch=epoch)])
    kept.reopen()
    controller, epoch = lead(kept)
    found = controller.load(epoch).blueprint
    assert (found.number, found.parent, found.reason) == (2, 1, "a change")
    assert dict(found.entries) == {changed.key: changed, entry(3).key: entry(3)}


@pytest.mark.parametrize("parent", [0, 2])
def test_a_commit_on_another_parent_is_lost_and_all_of_its_turn(kept: Kept, parent: int) -> None:
    controller, epoch = lead(kept)
    controller.carry_out([msg.Commit(delta=delta(0, entry(1)), epoch=epoch)])
    said = controller.carry_out(
        [
            msg.Record(about=SHOP, kind="Cluster", type="Normal", reason="Before", message="m"),
            begin("1-1", CreateVolume(machine=entry(1)), epoch),
            msg.Commit(delta=delta(parent, entry(9)), epoch=epoch),
            msg.Record(about=SHOP, kind="Cluster", type="Normal", reason="After", message="m"),
        ]
    )
    assert [type(e) for e in said] == [msg.CommitLost]
    found = controller.load(epoch)
    assert found.blueprint.number == 1
    assert (found.open_operations, dict(found.attempts), kept.told()) == ((), {}, [])


def test_nothing_is_begun_or_committed_in_an_epoch_that_is_over(kept: Kept) -> None:
    one, first = lead(kept)
    one.release(first)
    two, second = lead(kept, "two")
    assert [type(e) for e in one.carry_out([msg.Commit(delta=delta(0, entry(1)), epoch=first)])] == [msg.CommitLost]
    assert [type(e) for e in one.carry_out([begin("1-1", CreateVolume(machine=entry(1)), first)])] == [msg.CommitLost]
    found = two.load(second)
    assert (found.blueprint.number, found.open_operations) == (0, ())


def test_a_turn_is_written_in_order_and_answered_in_order(kept: Kept) -> None:
    controller, epoch = lead(kept)
    step = CreateVolume(machine=entry(1))
    said = controller.carry_out(
        [
            msg.Commit(delta=delta(0, entry(1)), epoch=epoch),
            begin("1-1", step, epoch),
            msg.Commit(delta=delta(1, entry(2)), epoch=epoch),
            finish("1-1", FAILED),
            begin("1-2", step, epoch, 120.0),
        ]
    )
    assert said == [
        msg.Committed(number=Revision(1)),
        msg.Journalled(operation=OperationId("1-1")),
        msg.Committed(number=Revision(2)),
        msg.Journalled(operation=OperationId("1-2")),
    ]
    assert [o.id for o in controller.load(epoch).open_operations] == ["1-2"]


def test_the_blueprint_port(kept: Kept) -> None:
    _, epoch = lead(kept)
    blueprints = kept.blueprints()
    assert blueprints.load_blueprint().number == 0
    assert blueprints.commit_blueprint(delta(0, entry(1)), epoch) == 1
    with pytest.raises(CommitConflict):
        blueprints.commit_blueprint(delta(0, entry(2)), epoch)
    with pytest.raises(CommitConflict):
        blueprints.commit_blueprint(delta(1, entry(2)), Epoch(epoch - 1))
    assert dict(blueprints.load_blueprint().entries) == {entry(1).key: entry(1)}


# --- the journal and attempts ---------------------------------------------------------------------------------------


def test_what_was_begun_is_open_after_a_crash_until_it_ends(kept: Kept) -> None:
    controller, epoch = lead(kept)
    steps = [CreateVolume(machine=entry(n)) for n in (1, 2, 3)]
    for number, step in enumerate(steps, 1):
        controller.carry_out([begin(f"1-{number}", step, epoch, 100.0 + number)])
    controller.carry_out([finish("1-2", Done())])
    kept.reopen()
    controller, epoch = lead(kept)
    found = controller.load(epoch).open_operations
    assert [(o.id, o.step, o.finished) for o in found] == [("1-1", steps[0], None), ("1-3", steps[2], None)]
    controller.carry_out([finish("1-1", Unknown(message="lost")), finish("1-3", Done())])
    assert controller.load(epoch).open_operations == ()


def test_an_end_of_what_never_began_or_has_ended_changes_nothing(kept: Kept) -> None:
    controller, epoch = lead(kept)
    controller.carry_out([begin("1-1", CreateVolume(machine=entry(1)), epoch), finish("1-1", FAILED)])
    before = controller.load(epoch).attempts
    controller.carry_out([finish("1-1", FAILED, 200.0), finish("9-9", FAILED)])
    assert controller.load(epoch).attempts == before


def test_attempts_are_counted_over_reloads_until_one_ends_well(kept: Kept) -> None:
    controller, epoch = lead(kept)
    target, step = entry(1).key, CreateVolume(machine=entry(1))
    controller.carry_out([begin("1-1", step, epoch, 100.0), finish("1-1", FAILED, 110.0)])
    controller.carry_out([begin("1-2", step, epoch, 120.0), finish("1-2", Unknown(message="late"), 130.0)])
    controller.carry_out([begin("1-3", StartDomain(machine=entry(1)), epoch, 140.0)])
    kept.reopen()
    controller, epoch = lead(kept)
    found = controller.load(epoch).attempts[target]
    volume = found["CreateVolume"]
    assert (volume.first, volume.last, volume.count) == (100.0, 130.0, 2)
    assert (volume.last_error_reason, volume.last_error, volume.running) == ("Unknown", "late", False)
    assert found["StartDomain"].running
    view = DomainView(server=ServerName("hv1"), uid=MachineUid("u1"))
    controller.carry_out([begin("2-1", step, epoch, 200.0), finish("2-1", Done(views=(view,)), 210.0)])
    again = controller.load(epoch).attempts[target]["CreateVolume"]
    assert (again.count, again.succeeded, again.generation) == (0, 210.0, entry(1).generation)


def test_attempts_go_with_their_entry(kept: Kept) -> None:
    controller, epoch = lead(kept)
    controller.carry_out([msg.Commit(delta=delta(0, entry(1), entry(2)), epoch=epoch)])
    for number in (1, 2):
        step = CreateVolume(machine=entry(number))
        controller.carry_out([begin(f"1-{number}", step, epoch), finish(f"1-{number}", FAILED)])
    controller.carry_out([msg.Commit(delta=delta(1, gone=(entry(1).key,)), epoch=epoch)])
    assert set(controller.load(epoch).attempts) == {entry(2).key}
    assert controller.load(epoch).attempts[entry(2).key]["CreateVolume"] != Attempt()


# --- what users see -------------------------------------------------------------------------------------------------


def test_a_status_is_written_and_nothing_else_of_a_declared_object(kept: Kept) -> None:
    controller, epoch = lead(kept)
    declared: Any = kept.declare(Cluster(metadata=ObjectMeta(name="shop", namespace="default")))
    spec = msgspec.structs.replace(declared.spec, kubernetes="9.99")
    shown = msgspec.structs.replace(declared, spec=spec, status=ClusterStatus(phase="Running"))
    controller.carry_out([publish(shown, "cluster")])
    kept.reopen()
    controller, epoch = lead(kept)
    found: Any = controller.load(epoch).published[SHOP]
    assert (found.status.phase, found.spec, found.metadata.generation) == ("Running", declared.spec, 1)
    assert found.metadata.uid == declared.metadata.uid
    assert controller.load(epoch).spec.clusters[SHOP] == found


def test_a_status_for_an_object_that_is_gone_or_another_one_is_dropped(kept: Kept) -> None:
    controller, epoch = lead(kept)
    shown = Cluster(metadata=ObjectMeta(name="shop", namespace="default"), status=ClusterStatus(phase="Running"))
    assert controller.carry_out([publish(shown, "cluster")]) == []
    assert kept.find("Cluster", "shop") is None
    kept.declare(Cluster(metadata=ObjectMeta(name="shop", namespace="default")))
    other = msgspec.structs.replace(shown, metadata=msgspec.structs.replace(shown.metadata, uid="another"))
    controller.carry_out([publish(other, "cluster")])
    found: Any = controller.load(epoch).published[SHOP]
    assert found.status.phase == ""


def test_a_derived_object_is_written_whole_and_speaks_of_its_own_generation(kept: Kept) -> None:
    controller, epoch = lead(kept)
    for spec, generation in (({}, 1), ({}, 1), ({"cpu": 4}, 2)):
        controller.carry_out([publish(machine(**spec))])
        found: Any = controller.load(epoch).published[key("machine", "default", "shop-web-1")]
        assert (found.spec, found.metadata.uid) == (machine(**spec).spec, "u1")
        assert (found.metadata.generation, found.status.observed_generation) == (generation, generation)
        assert [c.observed_generation for c in found.status.conditions] == [generation]


def test_a_users_deletion_of_a_derived_object_outlives_its_next_publication(kept: Kept) -> None:
    controller, epoch = lead(kept)
    controller.carry_out([publish(machine())])
    kept.doom("Machine", "shop-web-1")
    controller.carry_out([publish(machine(cpu=4))])
    kept.reopen()
    controller, epoch = lead(kept)
    assert controller.load(epoch).spec.doomed_machines == {"u1"}
    controller.carry_out([publish(machine("u2"))])  # the next one of that name is not meant
    assert controller.load(epoch).spec.doomed_machines == frozenset()
    controller.carry_out([msg.Unpublish(key=key("machine", "default", "shop-web-1"), kind="Machine")])
    assert kept.find("Machine", "shop-web-1") is None
    controller.carry_out([msg.Unpublish(key=key("machine", "default", "shop-web-1"), kind="Machine")])


def test_a_finalised_object_goes_once_it_is_deleted_and_only_then(kept: Kept) -> None:
    controller, epoch = lead(kept)
    for name in ("web", "db"):
        kept.declare(NodePool(metadata=ObjectMeta(name=name, namespace="default")))
    kept.doom("NodePool", "web")
    marked = controller.load(epoch).spec.node_pools[key("nodepool", "default", "web")]
    assert marked.metadata.deletion_timestamp
    for name in ("web", "db", "none"):
        controller.carry_out([msg.Finalise(key=key("nodepool", "default", name), kind="NodePool")])
    assert set(controller.load(epoch).spec.node_pools) == {key("nodepool", "default", "db")}


def test_events_are_told_also_of_what_is_gone(kept: Kept) -> None:
    controller, _ = lead(kept)
    kept.declare(Cluster(metadata=ObjectMeta(name="shop", namespace="default")))
    for about in (SHOP, Key("cluster/default/gone")):
        told = msg.Record(about=about, kind="Cluster", type="Warning", reason="NoRoom", message=f"of {about}")
        assert controller.carry_out([told]) == []
    kept.reopen()
    assert sorted(kept.told()) == [
        ("NoRoom", "Warning", "of cluster/default/gone"),
        ("NoRoom", "Warning", f"of {SHOP}"),
    ]


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "memory"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemorySecrets()
        return
    store = Store.open(tmp_path / "data")
    yield store
    store.close()


def test_secrets_are_kept_replaced_listed_and_forgotten(secrets: Any) -> None:
    assert secrets.get_secret("agents/ca") is None
    secrets.put_secret("agents/ca", b"\x00one")
    secrets.put_secret("agents/ca", b"two")
    assert secrets.get_secret("agents/ca") == b"two"
    assert secrets.put_secret_once("agents/ca", b"three") == b"two"
    assert secrets.put_secret_once("agents/token/a_b", b"") == b""
    secrets.put_secret("agents/token/axb", b"x")
    assert list(secrets.list_secrets("agents/token/a_")) == ["agents/token/a_b"]
    assert list(secrets.list_secrets("agents/")) == ["agents/ca", "agents/token/a_b", "agents/token/axb"]
    secrets.delete_secret("agents/ca")
    secrets.delete_secret("agents/ca")
    assert secrets.get_secret("agents/ca") is None
