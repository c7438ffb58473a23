"""Agents, servers, guests and controllers failing at any moment: every rule is kept, in the end all is as declared."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from bedplate.model.ids import ServerName
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

Event = tuple[float, str, int]
"""When (seconds), what, and which server or machine of those there are."""


def events(*kinds: str, most: int = 4) -> st.SearchStrategy[list[Event]]:
    one = st.tuples(st.floats(0, 500).map(lambda t: round(t, 1)), st.sampled_from(kinds), st.integers(0, 5))
    return st.lists(one, max_size=most)


def happen(sim: Simulator, what: str, which: int) -> None:
    names = sorted(sim.world.servers)
    name = names[which % len(names)]
    match what:
        case "cut":
            sim.cut(name, 40.0)
        case "blip":
            sim.cut(name, 1.0)
        case "kill agent":
            sim.kill_agent(name)
        case "power":
            sim.power_off(name)
            sim.after(60.0, lambda: sim.power_on(name))
        case "kill controller":
            if sim.controller.alive:
                sim.kill_controller()
                sim.after(2.0, sim.start_controller)
        case "second controller":
            sim.start_controller()
        case "full store":
            sim.break_store(20.0)
        case "hang":
            server = sim.world.servers[ServerName(name)]
            server.error = "libvirt has not answered for 30 s"
            sim.world.touch_server(server)
            sim.after(60.0, lambda: setattr(server, "error", "") or sim.world.touch_server(server))
        case "worker ends" | "worker lost":
            workers = [d for _, d in sim.world.running() if d.entry.role == "worker"]
            if workers:
                victim = sorted(workers, key=lambda d: d.entry.uid)[which % len(workers)]
                sim.end_domain(victim.entry.uid, lose_disk=what == "worker lost", undefine=what == "worker lost")
        case "plane ends":
            planes = [d for _, d in sim.world.running() if d.entry.role == "control-plane"]
            if planes:
                sim.end_domain(sorted(planes, key=lambda d: d.entry.uid)[which % len(planes)].entry.uid)
        case _:
            raise AssertionError(what)


def story(replicas: int, seed: int, **more: Any) -> Story:
    world = fleet.world(3)
    sim = Simulator(world, seed=seed, **more)
    sim.apply(*fleet.infrastructure(world), fleet.cluster(replicas=replicas), fleet.pool(replicas=2))
    sim.start_controller()
    return Story(sim)


def play(told: Story, happenings: list[Event]) -> None:
    note(str(happenings))
    for at, what, which in happenings:
        told.sim.after(at, lambda what=what, which=which: happen(told.sim, what, which))
    told.sim.run(seconds=max((at for at, _, _ in happenings), default=0.0) + 130.0)
    told.until_ready(seconds=80_000.0)
    told.check_no_orphans()
    shape = told.shape()
    assert sum(1 for s in shape if s[2:3] == ("worker",) and s[7]) == 2, told.tell("not two ready workers")
    told.delete_all()
    told.check_nothing_left()


@given(st.sampled_from([1, 3]), st.integers(0, 99), events("cut", "blip", "kill agent", "hang"))
def test_agents_that_come_and_go(replicas: int, seed: int, happenings: list[Event]) -> None:
    play(story(replicas, seed), happenings)


@given(
    st.sampled_from([1, 3]), st.integers(0, 99), events("kill controller", "second controller", "full store", "blip")
)
def test_controllers_that_come_and_go(replicas: int, seed: int, happenings: list[Event]) -> None:
    play(story(replicas, seed), happenings)


@given(st.sampled_from([1, 3]), st.integers(0, 99), events("worker ends", "plane ends", "power", "kill controller"))
def test_machines_that_end_are_started_again(replicas: int, seed: int, happenings: list[Event]) -> None:
    play(story(replicas, seed), happenings)


@given(st.integers(0, 99), events("worker lost", "kill agent", "kill controller", most=3))
def test_workers_that_lose_their_disk_are_replaced(seed: int, happenings: list[Event]) -> None:
    play(story(1, seed), happenings)


@given(st.integers(0, 99), st.integers(1, 3))
def test_a_kubeadm_that_fails_is_tried_again(seed: int, times: int) -> None:
    told = story(1, seed)
    told.sim.world.failing_joins["*"] = times
    play(told, [])


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_control_plane_grows_to_three_and_shrinks_to_one(replicas: int) -> None:
    told = story(replicas, 5)
    told.until_ready()
    other = fleet.cluster(replicas=4 - replicas)
    told.declare(other)
    shop = told.sim.world.cluster("default/shop")  # type: ignore[arg-type]
    assert len(shop.members) == 4 - replicas
    told.declare(fleet.cluster(replicas=replicas))
    assert len(shop.members) == replicas


@given(st.sampled_from([1, 3]), st.integers(0, 99), events("kill controller", "blip", most=2))
def test_a_new_image_is_rolled_out(replicas: int, seed: int, happenings: list[Event]) -> None:
    told = story(replicas, seed)
    told.until_ready()
    new = fleet.image("node-new", fleet.VERSION)
    cluster, pool = fleet.cluster(replicas=replicas), fleet.pool(replicas=2)
    plane = cluster.spec.control_plane
    plane = msgspec.structs.replace(plane, machine=msgspec.structs.replace(plane.machine, image="node-new"))
    cluster = msgspec.structs.replace(cluster, spec=msgspec.structs.replace(cluster.spec, control_plane=plane))
    shape = msgspec.structs.replace(pool.spec.machine, image="node-new")
    pool = msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, machine=shape))
    told.sim.apply(new, cluster, pool)
    play(told, happenings)
