"""Pools of `substrate: auto`: the first rule that fits decides, and says so; two edits in a row move a pool once."""

from __future__ import annotations

import msgspec

from bedplate.model.ids import key
from bedplate.model.kinds.base import MachineShape
from bedplate.model.kinds.cluster import NodePool
from bedplate.model.kinds.fleet import SubstratePolicy, SubstrateRule
from bedplate.planner import substrates
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

POLICY = SubstratePolicy(
    rules=(
        SubstrateRule(match={"tier": "db", "size": "large"}, use="metal", reason="large databases need the disks"),
        SubstrateRule(match={"tier": "db"}, use="vm"),
        SubstrateRule(match={"latency": "low"}, use="metal"),
    ),
    otherwise="vm",
)


def pool(**labels: str) -> NodePool:
    made = fleet.pool(shape=MachineShape(substrate="auto", cpu=2, memory="4Gi"))
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, labels=labels))


def test_the_first_rule_that_fits_decides() -> None:
    def chosen(**labels: str) -> str:
        return substrates.wanted(POLICY, pool(**labels))[0]

    assert chosen(tier="db", size="large") == "metal"
    assert chosen(tier="db", latency="low") == "vm"
    assert chosen(latency="low") == "metal"
    assert chosen() == "vm"


def test_the_reason_names_the_rule() -> None:
    assert substrates.wanted(POLICY, pool(tier="db", size="large"))[1] == (
        "rule 1 of the fleet's policy (size=large, tier=db), as large databases need the disks"
    )
    assert "no rule" in substrates.wanted(POLICY, pool())[1]


def test_why_a_pool_is_where_it_is_stands_at_its_machines() -> None:
    world = fleet.world(3)
    sim = Simulator(world)
    sim.apply(*fleet.infrastructure(world), fleet.cluster(), pool(tier="db"))
    sim.fleet_policy(substrate=POLICY)
    sim.start_controller()
    Story(sim).until_ready()
    workers = [m for m in sim.store.blueprint.machines() if m.role == "worker"]
    assert len(workers) == 2
    assert all(m.substrate == "vm" and "on VMs: rule 2" in m.reason for m in workers)


def test_a_young_pool_stays_where_it_is_until_its_time_is_over() -> None:
    world = fleet.world(3)
    for n in (1, 2):
        world.add_bare(f"bm{n}", cpus=16, memory_mib=32_768)
    sim = Simulator(world)
    bare = [fleet.bare(f"bm{n}") for n in (1, 2)]
    hypervisors = [o for o in fleet.infrastructure(world) if o.metadata.name not in ("bm1", "bm2")]
    sim.apply(*hypervisors, *bare, fleet.cluster(), pool())
    sim.fleet_policy(substrate=SubstratePolicy(otherwise="vm", hold_seconds=7_200))
    sim.start_controller()
    story = Story(sim)
    story.until_ready()
    born = max(m.created for m in sim.store.blueprint.machines() if m.role == "worker")
    sim.fleet_policy(substrate=SubstratePolicy(otherwise="metal", hold_seconds=7_200))

    def moving() -> bool:
        return any(m.substrate == "metal" for m in sim.store.blueprint.machines())

    assert sim.run(moving, seconds=20_000, quiet=20_000)
    assert sim.now >= born + 7_200
    story.until_ready()
    workers = [m for m in sim.store.blueprint.machines() if m.role == "worker"]
    assert {m.substrate for m in workers} == {"metal"}
    assert sim.store.objects[key("nodepool", "default", "shop-web")].spec.machine.substrate == "auto"  # type: ignore[attr-defined]
