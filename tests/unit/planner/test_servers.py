"""When a lease confirms a server's death: only where a watchdog guards it, by the word of servers that are heard of."""

from __future__ import annotations

import msgspec
import pytest

from bedplate.checks.blueprint import Checker
from bedplate.model import leases
from bedplate.model.blueprint import Blueprint, ServerEntry
from bedplate.model.ids import Key, Revision, ServerName
from bedplate.model.inventory import AnyView, Inventory, LeaseView, Observation, ServerView
from bedplate.planner.plan import PlanInput, PlanResult, plan
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

LATE = leases.WATCHDOG + leases.MARGIN + 1.0


def lost(*told: LeaseView) -> tuple[PlanInput, PlanResult, Key]:
    """A planning in which the server of a machine was not heard of for long, and this is told of its leases."""
    world = fleet.world(3, shared=True)
    sim = Simulator(world, seed=1)
    sim.apply(*fleet.infrastructure(world), fleet.machine("db"))
    sim.start_controller()
    Story(sim).until_ready()
    server = next(sim.engine.blueprint.machines()).server
    k = Key(f"server/{server}")
    inp = sim.engine._plan_input()
    seen: dict[Key, Observation[AnyView]] = {
        x: o for x, o in inp.inventory.observations.items() if not x.startswith("lease/")
    }
    down = ServerView(server=server, connected=False)
    since = inp.now - 100.0
    seen[k] = Observation(value=down, time=since, source="test")
    others = [ServerName(n) for n in sorted(world.servers) if n != server]
    for i, view in enumerate(told):
        witness = server if view.witness == "itself" else others[i % len(others)]
        view = msgspec.structs.replace(view, server=server, witness=witness, disk_pool=f"{view.disk_pool}")
        seen[view.key] = Observation(value=view, time=inp.now - LATE, source="test")
    inventory = Inventory(
        observations=seen,
        domains_by_uid=inp.inventory.domains_by_uid,
        leases_by_server={server: frozenset(x for x in seen if x.startswith(f"lease/{server}/"))},
        synced=inp.inventory.synced - {f"agent/{server}"},
    )
    parent = Blueprint(
        number=Revision(inp.parent.number + 1),
        parent=inp.parent.number,
        entries={**inp.parent.entries, k: ServerEntry(server=server, standing="suspect", since=since)},
    )
    inp = msgspec.structs.replace(inp, inventory=inventory, parent=parent, cache=None)
    return inp, plan(inp), k


def view(pool: str = "shared", *, guarded: bool, witness: str = "") -> LeaseView:
    return LeaseView(disk_pool=pool, server=ServerName(""), witness=ServerName(witness), held=False, guarded=guarded)


def test_a_guarded_lease_that_ran_out_confirms_the_death() -> None:
    _, result, k = lost(view(guarded=True))
    entry = result.delta.changes[k]
    assert isinstance(entry, ServerEntry)
    assert (entry.standing, entry.by) == ("dead", "lease")


@pytest.mark.parametrize(
    "told",
    [
        (view(guarded=False),),
        (view(guarded=False), view(guarded=True, witness="itself")),
        (view("shared", guarded=True), view("other", guarded=False)),
    ],
    ids=["unguarded", "only by its own old word", "on one pool only"],
)
def test_a_lease_that_nothing_guards_confirms_nothing(told: tuple[LeaseView, ...]) -> None:
    inp, result, k = lost(*told)
    assert k not in result.delta.changes
    dead = msgspec.structs.replace(inp.parent.entries[k], standing="dead", by="lease", confirmed=inp.now, generation=2)
    forced = msgspec.structs.replace(result, delta=msgspec.structs.replace(result.delta, changes={k: dead}))
    assert {f.rule for f in Checker()(inp, forced)} == {"1"}
