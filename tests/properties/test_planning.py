"""Planning itself: pure, settled after one go, and the same whether it is told what changed or looks at everything."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bedplate.checks.blueprint import Checker, Finding
from bedplate.model.ids import ServerName, key
from bedplate.model.kinds.base import MachineShape
from bedplate.model.kinds.fleet import MetalPolicy
from bedplate.model.policy import REQUESTS
from bedplate.planner.plan import PlanInput, plan
from bedplate.sim import fleet
from bedplate.sim.scenario.editing import annotate
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


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
    compared: list[Any],
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


@given(
    bare=st.integers(1, 4),
    replicas=st.integers(0, 3),
    after=st.integers(0, 4),
    trouble=st.lists(st.tuples(st.sampled_from(["power", "ask", "silent", "slow"]), st.integers(0, 5)), max_size=2),
    slow=st.sets(st.integers(0, 3), max_size=2),
    claim_degraded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_so_it_does_with_bare_servers(
    compared: list[Any],
    bare: int,
    replicas: int,
    after: int,
    trouble: list[tuple[str, int]],
    slow: set[int],
    claim_degraded: bool,
    seed: int,
) -> None:
    world = fleet.world(2, memory_mib=16_384)
    objects = fleet.infrastructure(world)
    names = [f"bm{n}" for n in range(1, bare + 1)]
    for number, name in enumerate(names):
        made = world.add_bare(name, memory_mib=16_384).bare
        assert made is not None
        made.speed = 0.5 if number in slow else 1.0
        objects.append(fleet.bare(name))
    sim = Simulator(world, seed=seed)
    sim.fleet_policy(metal=MetalPolicy(claim_degraded=claim_degraded))
    metal = MachineShape(substrate="metal", memory="4Gi")
    sim.apply(*objects, fleet.cluster(), fleet.pool(replicas=replicas, shape=metal))
    sim.start_controller()
    sim.run(seconds=6_000)
    for kind, number in trouble:
        server = world.servers[ServerName(names[number % bare])]
        assert server.bare is not None
        if kind == "power":
            sim.power_off(server.name)
        elif kind == "silent":
            server.bare.silent_boots = number
        elif kind == "slow":
            server.bare.speed = 0.5
            annotate(sim, key("server", server.name), REQUESTS["test"], str(number))
        else:
            annotate(sim, key("server", server.name), REQUESTS["erase"], str(number))
        sim.run(seconds=1_000 * (number + 1))
    sim.apply(fleet.pool(replicas=after, shape=metal))
    sim.run(seconds=6_000)
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


def test_a_planned_breach_on_bare_servers_is_found() -> None:
    world = fleet.world(2)
    for name in ("bm1", "bm2"):
        world.add_bare(name)
    sim = Simulator(world, seed=3)
    metal = MachineShape(substrate="metal", memory="4Gi")
    sim.apply(*fleet.infrastructure(world)[2:], *fleet.infrastructure(fleet.world(2))[:2])
    sim.apply(fleet.bare("bm1"), fleet.bare("bm2"), fleet.cluster(), fleet.pool(replicas=1, shape=metal))
    sim.start_controller()
    Story(sim).until_ready()
    inp = msgspec.structs.replace(sim.engine._plan_input(), cache=None)
    m = next(m for m in inp.parent.machines() if m.substrate == "metal")
    mine, other = inp.parent.metal(m.server), inp.parent.metal(ServerName("bm1" if m.server == "bm2" else "bm2"))
    assert mine is not None
    assert other is not None
    assert other.hardware is not None

    def broken(entry: Any, **fields: object) -> set[str]:
        changed = msgspec.structs.replace(entry, generation=entry.generation + 1, **fields)
        return {f.rule for f in _check(inp, {entry.key: changed})}

    assert broken(other, state="erasing") == set()
    assert "3" in broken(mine, state="erasing"), "what a machine that is wanted wrote is not erased"
    assert broken(other, state="deployed") == {"1"}
    assert broken(other, state="retired") == {"3"}
    assert "3" in broken(mine, state="available")
    assert broken(other, state="deploying", root_disk="nobody knows it") >= {"1", "3"}
    assert broken(other, state="deploying", root_disk=other.hardware.disks[0].serial) == {"1"}
    assert "3" in broken(other, uid="another server of that name")
    assert "5" in broken(other, run=other.run - 1)
    assert "1" in broken(m, server=other.server)
    assert {f.rule for f in _check(inp, {m.key: None})} == {"1"}
    assert {f.rule for f in _check(inp, {mine.key: None})} == {"4"}
    kept = msgspec.structs.replace(m, desired="remove", retain_disk=True, generation=m.generation + 1)
    gone = msgspec.structs.replace(mine, state="erasing", generation=mine.generation + 1)
    assert "9" in {f.rule for f in _check(inp, {m.key: kept, mine.key: gone})}


def _check(inp: PlanInput, changes: dict[Any, Any]) -> tuple[Finding, ...]:
    result = plan(inp, None)
    delta = msgspec.structs.replace(result.delta, changes=changes)
    return Checker()(inp, msgspec.structs.replace(result, delta=delta))
