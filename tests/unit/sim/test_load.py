"""Load over the day, by trace or as a script has it; told as agents tell it, where it has changed by enough."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from scene import Scene

from bedplate.model.inventory import LoadView
from bedplate.sim.load import Curve, Loads


@pytest.fixture
def scene() -> Scene:
    made = Scene(2)
    for n in range(1, 5):
        made.up(made.machine(n, f"hv{n % 2 + 1}", cpu=4))
    return made


def load(scene: Scene, name: str = "hv1") -> LoadView:
    return scene.world.loads[scene.server(name).name]


def test_a_curve_is_low_at_night_and_high_at_its_peak() -> None:
    curve = Curve(base=0.1, swing=0.5, peak=14)
    assert curve.at(2 * 3600) == pytest.approx(0.1)
    assert curve.at(14 * 3600) == pytest.approx(0.6)
    assert curve.at(38 * 3600) == pytest.approx(0.6)


def test_a_trace_is_followed_and_begins_anew() -> None:
    curve = Curve(trace=((0.0, 0.1), (100.0, 0.9), (200.0, 0.0)))
    assert [curve.at(t) for t in (0, 99, 100, 199, 250, 350)] == [0.1, 0.1, 0.9, 0.9, 0.1, 0.9]


def test_load_is_told_where_it_changes_by_a_tenth_of_the_server_and_is_no_activity(scene: Scene) -> None:
    loads = scene.sim.measure()
    loads.follow("*", Curve(base=0.1, swing=0.8, noise=0.0))
    active, told = scene.sim.active, [load(scene)]
    for _ in range(24):
        scene.wait(3600)
        if load(scene) != told[-1]:
            told.append(load(scene))
    assert 4 <= len(told) <= 20
    tenth = 0.1 * scene.server("hv1").cpus
    assert all(abs(b.cpu - a.cpu) > tenth for a, b in pairwise(told))
    assert scene.sim.active == active


def test_the_same_seed_measures_the_same() -> None:
    found: list[LoadView] = []
    for _ in range(2):
        scene = Scene(2, seed=4)
        scene.up(scene.machine(1, cpu=8))
        scene.sim.measure()
        scene.wait(86_400)
        found.append(load(scene))
    assert found[0] == found[1]


def test_a_hot_machine_is_measured_and_cools_down_again(scene: Scene) -> None:
    loads = scene.sim.measure()
    loads.follow("*", Curve(base=0.0, swing=0.0, noise=0.0))
    [first, *_] = scene.server("hv1").domains
    loads.fix(first, 4.0)
    assert load(scene).cpu == pytest.approx(4.0)
    assert {m.uid: m.cpu for m in load(scene).machines}[first] == pytest.approx(4.0)
    loads.fix(first, None)
    assert load(scene).cpu == pytest.approx(0.0)


def test_guests_share_what_a_server_has(scene: Scene) -> None:
    server = scene.server("hv1")
    server.cpus = 4
    loads = Loads(scene.world, seed=1, start=scene.sim.now)
    loads.follow("*", Curve(base=1.0, swing=0.0, noise=0.0))
    loads.look()
    assert load(scene).cpu == pytest.approx(4.0)
    assert sum(m.cpu for m in load(scene).machines) == pytest.approx(4.0)


def test_a_machine_that_moves_takes_its_load_along(scene: Scene) -> None:
    loads = Loads(scene.world, seed=1, start=scene.sim.now)
    loads.follow("*", Curve(base=0.5, swing=0.0, noise=0.0))
    loads.look()
    before = load(scene).cpu, load(scene, "hv2").cpu
    m = scene.machine(2, "hv1", cpu=4)
    scene.move(m, "hv2")
    loads.look()
    after = load(scene).cpu, load(scene, "hv2").cpu
    assert after[0] < before[0]
    assert sum(after) == pytest.approx(sum(before))
