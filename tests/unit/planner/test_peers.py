"""Tests of bare servers beside those of their peers: who is behind, who is comparable, and who is claimed."""

from __future__ import annotations

from statistics import median
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.engine.explain import why
from bedplate.model.blueprint import BmcRef, MetalEntry, Nic
from bedplate.model.ids import ServerName, key
from bedplate.model.kinds.base import MachineShape
from bedplate.model.kinds.fleet import MetalPolicy
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.metal import Disk, Hardware, ServerTest, ServerTests
from bedplate.model.policy import PEER_BOUNDS, REQUESTS, Policy
from bedplate.model.report import Rejection, Waiting
from bedplate.model.times import timestamp
from bedplate.planner import peers
from bedplate.sim import fleet
from bedplate.sim.scenario.editing import annotate
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

POLICY = Policy()
R650 = Hardware(vendor="Dell Inc.", product="PowerEdge R650", cpu_model="Xeon 6338", sockets=2)


def measured(name: str, value: float, unit: str = "MiB/s", **more: Any) -> ServerTest:
    return ServerTest(name=name, verdict="passed", value=value, unit=unit, **more)


def server(name: str, *tests: ServerTest, hardware: Hardware = R650, network: str = "lan", **more: Any) -> MetalEntry:
    suite = ServerTests(suite=more.pop("suite", "quick"), tests=tests, began=0.0, ended=1.0)
    return MetalEntry(
        server=ServerName(name),
        uid=name,
        state="available",
        since=0.0,
        bmc=BmcRef(address=f"redfish+https://{name}", secret="default/x"),
        nic=Nic(network=network, bridge="br0", mac="", address="10.0.0.9", prefix=24),
        hardware=hardware,
        tests=suite,
        **more,
    )


def judged(entry: MetalEntry, *others: MetalEntry, policy: Policy = POLICY) -> list[ServerTest]:
    assert entry.tests is not None
    return list(peers.judged(entry, entry.tests, [entry, *others], policy).tests)


def test_what_is_well_below_the_median_is_degraded_and_says_by_how_much() -> None:
    others = [
        server(f"p{n}", measured("cpu", value)) for n, value in enumerate((990, 1000, 1000, 1000, 1010, 500, 2000))
    ]
    [found] = judged(server("slow", measured("cpu", 610, detail="2 threads")), *others)
    assert (found.verdict, found.value) == ("degraded", 610)
    assert found.detail == "610 MiB/s is 61 % of the median of 7 like it; 2 threads"
    [found] = judged(server("well", measured("cpu", 900, detail="as told")), *others)
    assert (found.verdict, found.detail) == ("passed", "as told")


def test_a_slow_way_to_the_controller_is_degraded_where_it_takes_longer() -> None:
    others = [server(f"p{n}", measured("network aa", 0.2, "ms to connect")) for n in range(3)]
    [found] = judged(server("far", measured("network bb", 0.9, "ms to connect")), *others)
    assert (found.verdict, found.detail) == ("degraded", "0.9 ms to connect is 450 % of the median of 3 like it")
    [found] = judged(server("near", measured("network bb", 0.02, "ms to connect")), *others)
    assert found.verdict == "passed"


def test_fewer_than_three_peers_prove_nothing() -> None:
    two = [server(f"p{n}", measured("cpu", 1000)) for n in range(2)]
    assert judged(server("slow", measured("cpu", 10)), *two)[0].verdict == "passed"
    third = server("p3", measured("cpu", 1000))
    assert judged(server("slow", measured("cpu", 10)), *two, third)[0].verdict == "degraded"


_OTHER = msgspec.structs.replace


@pytest.mark.parametrize(
    "stranger",
    [
        {"hardware": _OTHER(R650, product="PowerEdge R750")},
        {"hardware": _OTHER(R650, vendor="HPE")},
        {"hardware": _OTHER(R650, cpu_model="Xeon 8380")},
        {"hardware": _OTHER(R650, sockets=1)},
        {"suite": "burn-in"},
        {"network": "elsewhere"},
    ],
)
def test_only_what_is_comparable_is_a_peer(stranger: dict[str, Any]) -> None:
    others = [server(f"p{n}", measured("cpu", 1000), **stranger) for n in range(5)]
    assert judged(server("slow", measured("cpu", 10)), *others)[0].verdict == "passed"
    strange_unit = [server(f"p{n}", measured("cpu", 1000, "events/s")) for n in range(5)]
    assert judged(server("slow", measured("cpu", 10)), *strange_unit)[0].verdict == "passed"


def test_servers_of_which_the_make_is_not_known_have_no_peers() -> None:
    nobody = Hardware()
    others = [server(f"p{n}", measured("cpu", 1000), hardware=nobody) for n in range(5)]
    assert judged(server("slow", measured("cpu", 10), hardware=nobody), *others)[0].verdict == "passed"


def disks(make: Hardware, **models: str) -> Hardware:
    found = tuple(Disk(serial=serial, size=1, model=model) for serial, model in models.items())
    return msgspec.structs.replace(make, disks=found)


def test_disks_are_beside_those_of_their_model_in_whichever_server_they_are() -> None:
    other = msgspec.structs.replace(R650, product="PowerEdge R750")
    mine = server(
        "one",
        measured("disk a", 3000), measured("disk b", 1400), measured("disk c", 100), measured("disk d", 5),
        hardware=disks(R650, a="PM9A3", b="PM9A3", c="Exos", d=""),
    )  # fmt: skip
    others = [
        server(f"p{n}", measured(f"disk x{n}", 3000), hardware=disks(other, **{f"x{n}": "PM9A3"})) for n in range(2)
    ]
    found = judged(mine, *others)
    assert [t.verdict for t in found] == ["passed", "degraded", "passed", "passed"]
    assert found[1].detail == "1400 MiB/s is 47 % of the median of 3 like it"


def test_what_failed_or_was_not_measured_is_neither_judged_nor_a_peer() -> None:
    failed = ServerTest(name="cpu", verdict="failed", value=5, unit="MiB/s", detail="wrong")
    skipped = ServerTest(name="cpu", verdict="passed", detail="not tested")
    well = [server(f"p{n}", measured("cpu", 1000)) for n in range(3)]
    assert judged(server("bad", failed), *well) == [failed]
    assert judged(server("none", skipped), *well) == [skipped]
    broken = [server(f"b{n}", failed) for n in range(5)] + [server(f"s{n}", skipped) for n in range(5)]
    assert judged(server("slow", measured("cpu", 10)), *well[:2], *broken)[0].verdict == "passed"


def test_each_bound_is_data_with_its_reason() -> None:
    assert {b.test for b in PEER_BOUNDS} == {"cpu", "memory", "disk", "network"}
    assert all(len(b.reason) > 20 and b.share != 1 for b in PEER_BOUNDS)
    others = [server(f"p{n}", measured("cpu", 1000)) for n in range(3)]
    slow = server("slow", measured("cpu", 10))
    assert judged(slow, *others, policy=Policy(peer_bounds=()))[0].verdict == "passed"
    assert judged(slow, *others, policy=Policy(peers_least=4))[0].verdict == "passed"


_VALUES = st.floats(min_value=0.5, max_value=5000, allow_nan=False)


@given(st.data(), st.lists(_VALUES, max_size=9), _VALUES, st.floats(min_value=0.01, max_value=100))
def test_neither_order_nor_unit_matters_and_the_median_is_never_degraded(
    data: st.DataObject, values: list[float], mine: float, scale: float
) -> None:
    def verdict(value: float, peers_: list[MetalEntry]) -> str:
        return judged(server("me", measured("memory", value)), *peers_)[0].verdict

    others = [server(f"p{n}", measured("memory", v)) for n, v in enumerate(values)]
    found = verdict(mine, others)
    assert found == verdict(mine, data.draw(st.permutations(others)))
    assert (found == "degraded") == (len(values) >= 3 and mine / median(values) < 0.7)
    if values:
        assert verdict(median(values), others) == "passed"
    if found == "degraded":
        assert verdict(mine / 2, others) == "degraded", "who is slower still is not better off"
    if not values or abs(mine / median(values) - 0.7) > 1e-6:
        scaled = [server(f"p{n}", measured("memory", v * scale)) for n, v in enumerate(values)]
        assert verdict(mine * scale, scaled) == found


# --- in a fleet ---------------------------------------------------------------------------------------------------

SHAPE = MachineShape(substrate="metal", memory="4Gi")


def a_fleet(slow: str = "bm1") -> Simulator:
    """Five bare servers that were tested, one of which does half of what the others do."""
    world = fleet.world(1)
    objects = fleet.infrastructure(world)
    names = [f"bm{n}" for n in range(1, 6)]
    for name in names:
        world.add_bare(name, memory_mib=16 * 1024)
    slow_one = world.servers[ServerName(slow)].bare
    assert slow_one is not None
    slow_one.speed = 0.5
    sim = Simulator(world, seed=1)
    sim.apply(
        *objects, *(fleet.bare(n) for n in names if n != slow), fleet.cluster(), fleet.pool(replicas=0, shape=SHAPE)
    )
    sim.start_controller()
    sim.run(seconds=6_000)
    sim.apply(fleet.bare(slow))
    sim.run(seconds=6_000)
    return sim


def entry(sim: Simulator, name: str = "bm1") -> MetalEntry:
    found = sim.engine.blueprint.metal(ServerName(name))
    assert found is not None
    return found


def ask(sim: Simulator, name: str) -> None:
    annotate(sim, key("server", name), REQUESTS["test"], timestamp(sim.now))


def taken(sim: Simulator) -> set[str]:
    return {m.server for m in sim.engine.blueprint.machines() if m.substrate == "metal"}


def test_a_degraded_server_says_so_everywhere_and_is_claimed_last() -> None:
    sim = a_fleet()
    assert (entry(sim).state, entry(sim).reason) == (
        "available", f"no test failed; degraded: cpu, memory, {', '.join(_disks(sim))}",
    )  # fmt: skip
    shown = sim.store.objects[key("server", "bm1")]
    assert isinstance(shown, Server)
    assert shown.status.metal is not None
    said = "50 % of a simulated one is 50 % of the median of 4 like it"
    assert shown.status.metal.tests[0] == f"cpu degraded 50 % of a simulated one: {said}"
    condition = next(c for c in shown.status.conditions if c.type == "Degraded")
    assert condition.status == "True"
    assert f"cpu: {said}" in condition.message
    told = why(sim.engine, "Server", "", "bm1")
    assert told is not None
    assert f"its test cpu is degraded: {said}" in told["sentences"]
    other = sim.store.objects[key("server", "bm2")]
    assert isinstance(other, Server)
    assert next(c for c in other.status.conditions if c.type == "Degraded").status == "False"

    sim.apply(fleet.pool(replicas=4, shape=SHAPE))
    Story(sim).until_ready()
    assert taken(sim) == {"bm2", "bm3", "bm4", "bm5"}
    sim.apply(fleet.pool(replicas=5, shape=SHAPE))
    Story(sim).until_ready()
    assert "bm1" in taken(sim)


def _disks(sim: Simulator) -> list[str]:
    hardware = entry(sim).hardware
    assert hardware is not None
    return [f"disk {d.serial}" for d in hardware.disks]


def test_the_policy_has_degraded_servers_not_claimed_and_lets_go_again() -> None:
    sim = a_fleet()
    sim.fleet_policy(metal=MetalPolicy(claim_degraded=False))
    sim.apply(fleet.pool(replicas=5, shape=SHAPE))
    sim.run(seconds=60)
    assert "bm1" not in taken(sim)
    waiting = next(w for w in sim.engine.waiting.values() if w.reason == Waiting.NO_ROOM)
    assert waiting.servers["bm1"] is Rejection.DEGRADED
    sim.fleet_policy(metal=MetalPolicy())
    sim.run(seconds=60)
    assert "bm1" in taken(sim), "an edited policy is news to who waits"


def test_a_verdict_stays_until_the_server_is_tested_again() -> None:
    sim = a_fleet()
    before = entry(sim).tests
    for name in ("bm2", "bm3", "bm4", "bm5"):
        slow = sim.world.servers[ServerName(name)].bare
        assert slow is not None
        slow.speed = 0.5
        ask(sim, name)
    sim.run(seconds=6_000)
    assert entry(sim).tests == before, "its peers are as slow now, and nobody judged it anew"
    ask(sim, "bm1")
    sim.run(seconds=6_000)
    assert not peers.degraded(entry(sim).tests)
