"""Planning itself: pure, settled after one go, and the same whether it is told what changed or looks at everything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.checks.blueprint import Checker, Finding
from bedplate.engine import engine as engine_module
from bedplate.model.blueprint import apply_delta
from bedplate.model.ids import Key, Revision
from bedplate.planner.plan import PlanInput, PlanResult, plan
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

Plans = list[tuple[PlanInput, frozenset[Key] | None, PlanResult]]


@pytest.fixture(scope="module")
def compared() -> Any:
    """Every planning of an engine is repeated from nothing, and once more after itself."""
    seen: Plans = []

    def checked(inp: PlanInput, changed: frozenset[Key] | None = None) -> PlanResult:
        before = msgspec.structs.replace(inp, cache=None)
        result = plan(inp, changed)
        whole = plan(before, None)
        assert _canonical(result) == _canonical(whole)
        child = apply_delta(inp.parent, result.delta, Revision(inp.parent.number + 1))
        again = plan(msgspec.structs.replace(before, parent=child), None)
        assert not again.delta.changes, "planning twice without news changes nothing"
        assert Checker()(before, result) == ()
        seen.append((before, changed, result))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "plan", checked)
        yield seen


def _canonical(result: PlanResult) -> dict[Key, object]:
    return dict(result.delta.changes)


@given(
    servers=st.integers(1, 4),
    replicas=st.sampled_from([1, 3]),
    workers=st.integers(0, 4),
    after=st.integers(0, 5),
    addresses=st.sampled_from([5, 200]),
    trouble=st.lists(st.tuples(st.sampled_from(["cut", "end", "lose"]), st.integers(0, 5)), max_size=3),
    seed=st.integers(0, 99),
)
def test_told_what_changed_it_plans_as_from_nothing(
    compared: Plans,
    servers: int,
    replicas: int,
    workers: int,
    after: int,
    addresses: int,
    trouble: list[tuple[str, int]],
    seed: int,
) -> None:
    world = fleet.world(servers, memory_mib=16_384)
    sim = Simulator(world, seed=seed)
    sim.apply(*fleet.infrastructure(world, addresses=addresses), fleet.cluster(replicas=replicas))
    sim.apply(fleet.pool(replicas=workers), fleet.machine("db"))
    sim.start_controller()
    sim.run(seconds=900)
    for kind, number in trouble:
        machines = sorted(sim.engine.blueprint.machines(), key=lambda m: m.uid)
        if not machines:
            break
        m = machines[number % len(machines)]
        if kind == "cut":
            sim.cut(m.server, 120.0)
        else:
            sim.end_domain(m.uid, lose_disk=kind == "lose")
        sim.run(seconds=60 * (number + 1))
    sim.apply(fleet.pool(replicas=after))
    sim.run(seconds=600)
    sim.delete("cluster/default/shop")  # type: ignore[arg-type]
    sim.run(seconds=600)
    assert not sim.world.violations
    assert compared


def test_a_planned_breach_is_found() -> None:
    """The checks don't share planning's eyes: what planning would never do is still refused."""
    world = fleet.world(3)
    sim = Simulator(world, seed=3)
    sim.apply(*fleet.infrastructure(world), fleet.cluster(replicas=3), fleet.pool(replicas=2))
    sim.start_controller()
    Story(sim).until_ready()
    inp = sim.engine._plan_input()
    inp = msgspec.structs.replace(inp, cache=None)
    planes = [m for m in inp.parent.machines() if m.role == "control-plane"]
    workers = [m for m in inp.parent.machines() if m.role == "worker"]

    def changed(m: Any, **fields: object) -> Any:
        return msgspec.structs.replace(m, generation=m.generation + 1, **fields)

    def broken(*entries: Any) -> set[str]:
        return {f.rule for f in _check(inp, {e.key: e for e in entries})}

    assert broken(changed(planes[0], desired="drain")) == set()
    assert broken(*(changed(m, desired="drain") for m in planes[:2])) == {"2"}
    assert broken(changed(workers[0], boot=2)) == {"1"}
    assert broken(changed(workers[0], server=workers[1].server)) == {"1"}
    assert broken(changed(workers[0], nic=workers[1].nic)) >= {"1"}
    assert broken(changed(workers[0], memory_mib=10**6)) == {"placement"}
    assert broken(changed(workers[0], joined=False)) == {"4"}
    assert broken(msgspec.structs.replace(workers[0], reason="x")) == {"5"}
    assert {f.rule for f in _check(inp, {workers[0].key: None})} == {"1"}
    entry = next(iter(inp.parent.clusters()))
    assert broken(changed(entry, initialised=False)) == {"9"}
    assert broken(changed(entry, first_machine=planes[1].uid)) == {"9"}


def _check(inp: PlanInput, changes: dict[Any, Any]) -> tuple[Finding, ...]:
    result = plan(inp, None)
    delta = msgspec.structs.replace(result.delta, changes=changes)
    return Checker()(inp, msgspec.structs.replace(result, delta=delta))
