"""Feeds, racks and servers that lose their power; BMCs that are slow, dead, deaf or lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import pytest
from scene import Scene

from bedplate.model.blueprint import BmcRef, MetalEntry, Nic
from bedplate.model.ids import ServerName
from bedplate.model.inventory import BmcView
from bedplate.model.steps import BootMedia, Done, Failed, PowerOff, ReadPower, StepResult, Unknown
from bedplate.sim import fleet


@pytest.fixture
def scene() -> Scene:
    made = Scene(4)
    for n, server in enumerate(made.world.servers.values()):
        server.place = {"room": "a", "rack": f"r{n % 2}", "power-left": f"f{n % 2}", "power-right": "f2"}
    return made


def view(result: StepResult) -> BmcView:
    assert isinstance(result, Done), result
    [found] = result.views
    assert isinstance(found, BmcView)
    return found


def powered(scene: Scene) -> list[str]:
    return [s.name for s in scene.world.servers.values() if s.powered]


def test_a_server_with_two_feeds_runs_on_one_and_a_rack_takes_all_of_it_down(scene: Scene) -> None:
    scene.sim.lose_power("power-left", "f0")
    assert powered(scene) == ["hv1", "hv2", "hv3", "hv4"]
    scene.sim.lose_power("power-right", "f2")
    assert powered(scene) == ["hv2", "hv4"]
    scene.sim.restore_power("power-left", "f0")
    scene.sim.restore_power("power-right", "f2")
    scene.wait(1300)
    assert all(s.connected for s in scene.world.servers.values())
    scene.sim.lose_power("rack", "r0")
    assert powered(scene) == ["hv2", "hv4"]


def test_a_bmc_is_as_dead_as_its_feeds_and_back_with_them(scene: Scene) -> None:
    scene.sim.lose_power("room", "a")
    said = view(scene.read("hv1"))
    assert (said.reachable, said.power) == (False, "unknown")
    assert "does not answer" in said.error
    scene.sim.restore_power("room", "a", switch_on=False)
    assert view(scene.read("hv1")).power == "off"
    assert not scene.server("hv1").powered
    scene.sim.power_on("hv1")
    assert view(scene.read("hv1")).power == "on"


def test_a_power_cut_ends_guests_and_the_agent_and_a_boot_starts_none_of_them(scene: Scene) -> None:
    m = scene.up(scene.machine())
    scene.sim.power_off("hv1")
    scene.wait(1)
    assert not scene.world.live
    assert not scene.server("hv1").connected
    boots = scene.server("hv1").boots
    scene.sim.power_on("hv1")
    scene.wait(1300)
    assert scene.server("hv1").connected
    assert scene.server("hv1").boots == boots + 1
    assert scene.server("hv1").domains[m.uid].state == "shutoff"


def test_a_patched_server_that_does_not_come_back_until_it_is_repaired(scene: Scene) -> None:
    scene.sim.reboot("hv1", returns=False)
    scene.wait(20_000)
    assert scene.server("hv1").powered
    assert not scene.server("hv1").connected
    scene.sim.repair("hv1")
    scene.wait(1300)
    assert scene.server("hv1").connected


def test_a_fence_is_done_when_off_was_read_back_and_what_is_off_is_off(scene: Scene) -> None:
    scene.up(scene.machine())
    assert view(scene.fence("hv1")).power == "off"
    assert not scene.world.live
    assert view(scene.fence("hv1")).power == "off"


def test_a_slow_bmc_takes_its_time_and_answers(scene: Scene) -> None:
    scene.sim.bmc("hv1", seconds=5.0)
    begun = scene.sim.now
    assert view(scene.fence("hv1")).power == "off"
    assert 10.0 < scene.sim.now - begun < 30.0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"reachable": False}, "BmcUnreachable"), ({"deaf": True}, "PowerStillOn"), ({"lies": "on"}, "PowerStillOn")],
)
def test_a_fence_that_can_not_be_confirmed_fails_in_time(scene: Scene, fault: dict[str, Any], reason: str) -> None:
    scene.sim.bmc("hv1", **fault)
    begun = scene.sim.now
    result = scene.fence("hv1", deadline=60.0)
    assert isinstance(result, Failed)
    assert result.reason == reason
    assert scene.sim.now - begun <= 60.0


def test_a_bmc_that_is_lost_after_the_order_leaves_the_outcome_unknown(scene: Scene) -> None:
    scene.sim.bmc("hv1", seconds=2.0)
    scene.sim.after(2.5, lambda: scene.sim.bmc("hv1", reachable=False))
    assert isinstance(scene.fence("hv1", deadline=60.0), Unknown)
    assert not scene.server("hv1").powered


def test_a_lie_is_told_as_it_is_and_nothing_is_off_by_it(scene: Scene) -> None:
    scene.sim.bmc("hv1", lies="off")
    assert view(scene.read("hv1")).power == "off"
    assert view(scene.fence("hv1")).power == "off"
    assert scene.server("hv1").powered


def test_a_server_without_a_declared_bmc(scene: Scene) -> None:
    entry = msgspec.structs.replace(scene.bmc("hv1"), bmc=None)
    assert not view(scene.do(ReadPower(entry=entry))).reachable
    assert isinstance(scene.do(PowerOff(entry=entry)), Failed)


def test_health_is_told_by_who_follows(scene: Scene) -> None:
    scene.sim.apply(*fleet.infrastructure(scene.world, bmcs=True))
    scene.sim.start_controller()
    scene.wait(100)
    scene.sim.bmc("hv2", health="critical", problems=("Fan 3: failed",))
    scene.wait(100)
    seen = scene.sim.engine.inventory.inventory.bmc(scene.server("hv2").name)
    assert seen is not None
    assert (seen.value.health, seen.value.problems) == ("critical", ("Fan 3: failed",))


@pytest.mark.parametrize(("cut", "boots"), [(True, ""), (False, "ram")])
def test_a_bare_server_whose_power_is_cut_keeps_no_medium_to_boot(scene: Scene, cut: bool, boots: str) -> None:
    server = scene.world.add_bare("m1")
    nic = Nic(network="lan", bridge="", mac="m1", address="10.0.0.9", prefix=24)
    bmc = BmcRef(address="redfish+https://bmc-m1", secret="default/bmc")
    entry = MetalEntry(server=ServerName("m1"), uid="u1", state="inspecting", since=0.0, bmc=bmc, nic=nic, run=1)
    scene.done(BootMedia(entry=entry))
    if cut:
        scene.done(PowerOff(entry=entry))
        scene.sim.power_on("m1")
    scene.wait(1300)
    assert server.bare is not None
    assert server.bare.system == boots
