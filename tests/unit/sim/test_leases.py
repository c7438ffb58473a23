"""Leases on shared pools, told by witnesses with the times of the model; the watchdog; what starts again and when."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from scene import Scene, newer

from bedplate.model import leases as times
from bedplate.model.ids import ServerName
from bedplate.model.inventory import LeaseView
from bedplate.model.steps import DefineDomain, Failed, StartDomain
from bedplate.sim import leases
from bedplate.sim.simulator import Simulator

HV1, HV2 = ServerName("hv1"), ServerName("hv2")


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.up(made.machine())
    return made


def seen(scene: Scene, holder: str = "hv1", witness: str = "hv2") -> LeaseView | None:
    return leases.view(scene.world, scene.server(holder), "shared", scene.server(witness))


def held(scene: Scene, holder: str = "hv1", witness: str = "hv2") -> bool:
    found = seen(scene, holder, witness)
    assert found is not None
    return found.held


def test_a_lease_that_is_renewed_is_held_for_every_witness_and_is_no_event(scene: Scene) -> None:
    before = scene.sim.events
    scene.wait(86_400)
    assert scene.sim.events == before
    assert held(scene)
    assert held(scene, witness="hv1")
    assert seen(scene).guarded  # type: ignore[union-attr]


def test_a_server_without_power_is_seen_expired_after_its_time_and_not_before(scene: Scene) -> None:
    scene.sim.power_off("hv1")
    scene.wait(times.EXPIRY - times.RENEW - 0.1)
    assert held(scene)
    scene.wait(times.RENEW + 0.2)
    assert not held(scene)


def test_who_can_not_renew_ends_its_guests_of_that_pool_alone_before_others_see_the_lease_expired(scene: Scene) -> None:
    local = scene.up(scene.machine(2, disk_pool="local"))
    scene.sim.cut_network("storage", ["hv1"])
    scene.wait(times.GIVE_UP - times.RENEW - 0.1)
    assert scene.server("hv1").domains["u1"].state == "running"  # type: ignore[index]
    scene.wait(times.RENEW + 1.2)
    assert scene.server("hv1").domains["u1"].state == "shutoff"  # type: ignore[index]
    assert held(scene), "the guests are gone before any witness tells of it"
    assert scene.domain(local).state == "running"
    scene.wait(times.EXPIRY - times.GIVE_UP)
    assert not held(scene)
    assert not held(scene, witness="hv1"), "the holder itself tells that its guests have ended"
    assert scene.server("hv1").powered


def test_a_stall_shorter_than_its_time_ends_nothing(scene: Scene) -> None:
    scene.sim.pool("shared", seconds=times.GIVE_UP - times.RENEW - 0.5, gone=True)
    scene.wait(60)
    assert scene.domain(scene.machine()).state == "running"


def test_guests_that_can_not_be_killed_end_with_the_watchdog(scene: Scene) -> None:
    scene.sim.stick("hv1")
    scene.sim.cut_network("storage", ["hv1"])
    scene.wait(times.GIVE_UP + 2.0)
    assert scene.server("hv1").powered
    scene.wait(times.EXPIRY - times.GIVE_UP + times.WATCHDOG + times.MARGIN)
    assert not scene.server("hv1").powered
    assert not scene.world.live


@pytest.mark.parametrize("guests_run_on", [True, False])
def test_a_server_that_hangs_is_cut_off_by_its_watchdog_within_the_time_that_others_wait(
    scene: Scene, guests_run_on: bool
) -> None:
    scene.sim.hang("hv1", guests_run_on=guests_run_on)
    scene.wait(times.WATCHDOG - times.RENEW - 0.1)
    assert scene.server("hv1").powered
    scene.wait(times.EXPIRY + times.MARGIN)
    assert not scene.server("hv1").powered


def test_an_agent_that_is_killed_and_back_in_time_costs_no_guest(scene: Scene) -> None:
    scene.sim.kill_agent("hv1", 12.0)
    scene.wait(100)
    assert scene.server("hv1").powered
    assert scene.domain(scene.machine()).state == "running"


def test_an_agent_that_stays_away_costs_the_server(scene: Scene) -> None:
    scene.sim.kill_agent("hv1", None)
    scene.wait(times.WATCHDOG + 0.1)
    assert not scene.server("hv1").powered


def test_a_watchdog_is_not_armed_where_no_guest_lies_on_a_shared_pool() -> None:
    scene = Scene()
    scene.up(scene.machine(disk_pool="local"))
    scene.sim.hang("hv1", guests_run_on=True)
    scene.wait(1000)
    assert scene.server("hv1").powered


def test_a_blind_witness_says_nothing(scene: Scene) -> None:
    scene.sim.cut_network("storage", ["hv2"])
    scene.sim.power_off("hv1")
    scene.wait(60)
    assert seen(scene) is None
    assert not held(scene, witness="hv3")
    scene.sim.heal_network("storage", ["hv2"])
    scene.wait(times.EXPIRY - 0.5)
    assert seen(scene) is None, "it counts from its own first look"
    scene.wait(1.0)
    assert not held(scene)


def test_after_a_loss_nothing_starts_until_a_controller_was_spoken_with(scene: Scene) -> None:
    m = scene.machine()
    scene.sim.cut("hv1")
    scene.sim.cut_network("storage", ["hv1"])
    scene.wait(30)
    scene.sim.heal_network("storage", ["hv1"])
    scene.wait(5)
    assert held(scene), "others see it renewed"
    assert not held(scene, witness="hv1")
    scene.sim.heal("hv1")
    scene.wait(1)
    assert held(scene, witness="hv1")
    again = newer(m, boot=2)
    scene.done(DefineDomain(machine=again), StartDomain(machine=again))


@pytest.mark.parametrize("tenths", range(-10, 20))
def test_a_loss_without_guests_takes_nothing_from_the_next_one(tenths: int) -> None:
    """Whenever the storage is back: also while the agent still looks whether there is a guest to end."""
    for seed in range(4):
        scene = Scene(seed=seed)
        scene.sim.pool("shared", seconds=times.GIVE_UP + tenths / 10, gone=True)
        scene.wait(60)
        scene.up(scene.machine())
        scene.sim.cut_network("storage", ["hv1"])
        scene.wait(times.EXPIRY + 2.0)
        assert scene.server("hv1").domains["u1"].state == "shutoff"  # type: ignore[index]


def test_a_guest_does_not_start_where_the_lease_is_lost(scene: Scene) -> None:
    again = newer(scene.machine(), boot=2)
    scene.done(DefineDomain(machine=again))
    scene.server("hv1").leases["shared"].lost = True
    scene.world.set_state(scene.server("hv1"), scene.domain(again), "shutoff")
    result = scene.do(StartDomain(machine=again))
    assert isinstance(result, Failed)
    assert result.reason == "LeaseNotHeld"


def test_after_a_boot_nothing_starts_by_itself(scene: Scene) -> None:
    scene.sim.reboot("hv1")
    scene.wait(3000)
    assert scene.server("hv1").connected
    assert held(scene)
    assert not scene.world.live


def test_enough_servers_tell_of_each_lease_of_a_large_fleet_whoever_is_lost() -> None:
    scene = Scene(40)
    for server in scene.world.servers.values():
        leases.assign(scene.world, server)
    holder = scene.server("hv7")
    first = set(holder.leases["shared"].witnesses)
    assert len(first) == leases.WITNESSES
    for name in first:
        scene.sim.power_off(name)
    scene.wait(60)
    able = [n for n in holder.leases["shared"].witnesses if scene.server(n).connected]
    assert len(able) >= leases.WITNESSES


def test_controllers_are_told_of_a_lease_that_expires_and_of_its_return() -> None:
    scene = Scene()
    sim: Simulator = scene.sim
    sim.start_controller()
    scene.wait(5)
    assert {o.value.held for o in sim.engine.inventory.inventory.leases(HV1)} == {True}
    sim.cut_network("storage", ["hv1"])
    scene.wait(15)
    told = {o.value.witness: o.value.held for o in sim.engine.inventory.inventory.leases(HV1)}
    assert not told[HV2]
    sim.heal_network("storage", ["hv1"])
    scene.wait(5)
    assert {o.value.held for o in sim.engine.inventory.inventory.leases(HV1)} == {True}
