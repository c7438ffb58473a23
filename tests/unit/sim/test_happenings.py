"""What a script can let happen, as controllers come to know it: late, one way only, or not at all."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from scene import Scene

from bedplate.engine import messages as msg
from bedplate.model.ids import ServerName
from bedplate.sim import fleet, truth
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story
from bedplate.sim.workload import App

SHOP = "default/shop"


def story(servers: int = 6, *, seed: int = 1, local: bool = False, **more: object) -> Story:
    world = fleet.world(servers, shared=not local)
    sim = Simulator(world, seed=seed, **more)  # type: ignore[arg-type]
    sim.apply(*fleet.infrastructure(world, racks=3, feeds=2, bmcs=True))
    sim.apply(fleet.cluster(replicas=3), fleet.pool(replicas=3))
    sim.start_controller()
    told = Story(sim)
    told.until_ready()
    sim.deploy(SHOP, App(name="web", replicas=2, stateful=True, volume=True))
    wait(told, 60)
    return told


def wait(told: Story, seconds: float) -> None:
    told.sim.run(seconds=seconds, quiet=float("inf"))


def a_worker(told: Story) -> tuple[str, str]:
    """A worker's uid and its server."""
    domain = next(d for _, d in told.sim.world.running() if d.entry.role == "worker")
    return domain.entry.uid, domain.server


def connected(told: Story, name: str) -> bool:
    seen = told.sim.engine.inventory.inventory.server(ServerName(name))
    assert seen is not None
    return seen.value.connected


def test_a_cut_is_noticed_after_a_while_and_a_killed_agent_at_once() -> None:
    told = story()
    told.sim.cut("hv1")
    wait(told, 2.5)
    assert connected(told, "hv1")
    wait(told, 3)
    assert not connected(told, "hv1")
    told.sim.kill_agent("hv2")
    wait(told, 0.1)
    assert not connected(told, "hv2")
    wait(told, 3)
    assert connected(told, "hv2")


def test_a_command_into_a_lost_connection_is_sent_again_where_that_is_back_in_time() -> None:
    told = story()
    told.sim.cut("hv1", 6.0)
    told.sim.apply(fleet.pool(replicas=9))
    told.until_ready()
    told.check_no_orphans()


@pytest.mark.parametrize("lost", ["up", "down", "both"])
def test_what_still_passes_one_way_is_done_or_told_until_the_loss_is_noticed(lost: str) -> None:
    told = story()
    uid, server = a_worker(told)
    told.sim.cut(server, 60.0, lost=lost)  # type: ignore[arg-type]
    told.sim.end_domain(uid)  # type: ignore[arg-type]
    wait(told, 1)
    seen = told.sim.engine.inventory.inventory.domain(ServerName(server), uid)  # type: ignore[arg-type]
    assert seen is not None
    assert seen.value.state == ("crashed" if lost == "down" else "running")
    wait(told, 80)
    told.until_ready()
    told.check_no_orphans()


@pytest.mark.parametrize("local", [False, True])
def test_a_lost_server_is_made_good_and_its_pods_answer_again(local: bool) -> None:
    told = story(local=local)
    _, server = a_worker(told)
    told.sim.power_off(server)
    wait(told, 900)
    assert all(told.sim.pod(SHOP, f"web-{n}").answers for n in range(2))
    told.check()


def test_libvirt_that_hangs_costs_no_guest() -> None:
    told = story()
    running = set(told.sim.world.live)
    told.sim.hang_libvirt("hv1", 600.0)
    wait(told, 700)
    told.until_ready()
    assert set(told.sim.world.live) == running
    told.check()


def test_clocks_that_jump_break_nothing() -> None:
    told = story()
    for seconds in (3600.0, -7200.0, 3600.0):
        told.sim.jump_clock(seconds)
        told.sim.jump_clock(seconds, "hv1")
        wait(told, 30)
    told.declare(fleet.pool(replicas=4))
    told.check()


def test_a_timer_rings_when_the_controllers_own_clock_is_there_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the clocks' difference rounds: else it would ring at the same moment for ever."""
    told = story()
    [controller] = told.sim.controllers
    rung: list[float] = []
    monkeypatch.setattr(controller, "handle", lambda _: rung.append(told.sim.now + controller.clock))
    jumps = random.Random(1)
    for number in range(1, 101):
        controller.clock = jumps.uniform(-900_000, -600_000)
        at = told.sim.now + controller.clock + jumps.uniform(0, 1)
        controller._carry_out(msg.SetTimer(at=at))
        wait(told, 1.1)
        assert len(rung) == number
        assert rung[-1] >= at


def test_a_batch_of_bad_disks_comes_bit_by_bit_and_is_told_by_health() -> None:
    told = story(local=True)
    told.sim.bad_firmware(["hv1", "hv2"], within=3600.0)
    wait(told, 3700)
    assert all(told.sim.server(n).pools["local"].gone for n in ("hv1", "hv2"))
    assert all(told.sim.server(n).bmc.health == "critical" for n in ("hv1", "hv2"))


def test_people_are_known_by_the_world_and_by_the_engine() -> None:
    told = story()
    told.sim.maintain("hv1", "a patch")
    assert told.sim.server("hv1").maintenance
    told.sim.run(lambda: not told.sim.server("hv1").domains, seconds=3000)
    assert not told.sim.server("hv1").domains
    told.sim.unmaintain("hv1")
    told.sim.pause("we look into it")
    wait(told, 5)
    assert told.sim.engine.spec.spec.fleet.paused == "we look into it"
    told.sim.resume()
    told.sim.fleet_policy(allow_many=True)
    assert told.sim.world.allow_many
    told.check()


def test_what_is_not_there_is_passed_over() -> None:
    told = story()
    sim = told.sim
    for act in (sim.cut, sim.heal, sim.power_off, sim.power_on, sim.hang, sim.hang_libvirt, sim.kill_agent, sim.reboot):
        act("hv99")
    sim.end_domain("nobody")  # type: ignore[arg-type]
    sim.pool("nothing", gone=True)
    with pytest.raises(ValueError, match="arrives unknown"):
        sim.next_move("explodes")
    with pytest.raises(AttributeError, match="no colour"):
        sim.bmc("hv1", colour="red")


def test_the_books_are_what_the_servers_say_whatever_happens() -> None:
    told = story(seed=9)
    sim = told.sim
    sim.lose_power("rack", "r1", 1800.0)
    sim.after(30, lambda: sim.cut_network("storage", sim.in_place("rack", "r2"), 25.0))
    sim.after(90, lambda: sim.maintain("hv3"))
    wait(told, 4000)
    world = sim.world
    live = {
        uid: [d for s in world.servers.values() if (d := s.domains.get(uid)) and d.state == "running"]
        for uid in world.live
    }
    assert live == world.live
    for server in world.servers.values():
        used = sum((d.hardware or d.entry).memory_mib for d in server.domains.values() if d.state == "running")
        assert world.memory[server.name] == used
    assert {uid for s in world.servers.values() for uid in s.volumes} == set(world.disks)
    assert truth.check(world) == []


def test_many_servers_powered_off_whose_guests_run_are_seen() -> None:
    """Rule 6, by hand: a blind controller that fences half the fleet."""
    scene = Scene(6)
    for n in range(1, 7):
        scene.up(scene.machine(n, f"hv{n}"))
    for n in range(1, 4):
        scene.fence(f"hv{n}")
    assert any("rule 6" in v for v in scene.world.violations)


def test_a_dead_and_a_hanging_server_are_nobodys_blindness() -> None:
    scene = Scene(6)
    for n in range(1, 7):
        scene.up(scene.machine(n, f"hv{n}"))
    for n in range(1, 6):
        scene.sim.hang(f"hv{n}")
    scene.wait(5)
    for n in range(1, 6):
        scene.fence(f"hv{n}")
    assert scene.world.violations == []
