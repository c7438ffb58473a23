"""Virtual machines together and apart: at placement, mutually, and when they are started elsewhere."""

from __future__ import annotations

import msgspec

from bedplate.model.ids import Key
from bedplate.model.kinds.infrastructure import Bmc, BmcCredentials, Server
from bedplate.model.kinds.virtual_machine import PlacementRule, VirtualMachine
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


def vm(name: str, app: str, **spec: object) -> VirtualMachine:
    made = fleet.machine(name)
    meta = msgspec.structs.replace(made.metadata, labels={"app": app})
    return msgspec.structs.replace(made, metadata=meta, spec=msgspec.structs.replace(made.spec, **spec))


def told(*machines: VirtualMachine, servers: int = 3) -> Simulator:
    world = fleet.world(servers, shared=True)
    sim = Simulator(world, seed=5)
    for obj in fleet.infrastructure(world):
        if isinstance(obj, Server):
            bmc = Bmc(address=f"redfish+https://{obj.metadata.name}", credentials=BmcCredentials(secret="bmc"))
            obj = msgspec.structs.replace(obj, spec=msgspec.structs.replace(obj.spec, bmc=bmc))
        sim.apply(obj)
    sim.start_controller()
    for machine in machines:
        sim.apply(machine)
        sim.run(seconds=120)
    return sim


def servers_of(sim: Simulator, *names: str) -> list[str]:
    owners = [Key(f"virtualmachine/default/{n}") for n in names]
    return [next(m.server for m in sim.engine.blueprint.machines() if m.owner == o) for o in owners]


def test_machines_that_are_to_be_apart_are_on_servers_of_their_own() -> None:
    apart = (PlacementRule(match={"app": "db"}),)
    sim = told(*(vm(f"db{i}", "db", anti_affinity=apart) for i in range(3)))
    assert len(set(servers_of(sim, "db0", "db1", "db2"))) == 3


def test_a_fourth_of_three_places_says_why_it_waits() -> None:
    apart = (PlacementRule(match={"app": "db"}),)
    sim = told(*(vm(f"db{i}", "db", anti_affinity=apart) for i in range(4)))
    waits = sim.engine.waiting[Key("virtualmachine/default/db3")]
    assert "AntiAffinityServer" in waits.sentence


def test_being_apart_is_mutual() -> None:
    """The web machine asked for nothing, yet keeps away from the database, which did."""
    apart = (PlacementRule(match={"app": "web"}),)
    sim = told(vm("db", "db", anti_affinity=apart), *(vm(f"w{i}", "web") for i in "ab"))
    db, *web = servers_of(sim, "db", "wa", "wb")
    assert db not in web


def test_what_is_to_be_together_follows_the_first() -> None:
    beside = (PlacementRule(match={"app": "db"}),)
    sim = told(vm("db", "db"), *(vm(f"w{i}", "web", affinity=beside) for i in "abc"))
    assert len(set(servers_of(sim, "db", "wa", "wb", "wc"))) == 1


def test_soft_rules_give_way_where_there_is_no_other_place() -> None:
    apart = (PlacementRule(match={"app": "db"}, strength="should"),)
    sim = told(*(vm(f"db{i}", "db", anti_affinity=apart) for i in range(4)))
    assert len(set(servers_of(sim, "db0", "db1", "db2"))) == 3
    Story(sim).until_ready()


def test_a_dead_servers_machine_stays_apart_and_starts_after_what_it_names() -> None:
    apart = (PlacementRule(match={"app": "db"}),)
    sim = told(
        vm("db0", "db", anti_affinity=apart),
        vm("web", "web", affinity=(PlacementRule(match={"app": "db"}),), after=("db0",)),
        vm("db1", "db", anti_affinity=apart),
        servers=4,
    )
    sim.run(seconds=300)
    dead, other, beside = servers_of(sim, "db0", "db1", "web")
    assert beside == dead
    sim.power_off(dead)
    began = len(sim.trace)
    sim.run(seconds=300)
    now = servers_of(sim, "db0", "db1")
    assert dead not in now
    assert now[0] != other
    history = "\n".join(sim.trace[began:])
    assert history.index("StartDomain db0") < history.index("StartDomain web")
    assert servers_of(sim, "web")[0] in now
    assert not sim.world.violations
