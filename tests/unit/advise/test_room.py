"""Layouts leave room as the planner needs it: whatever is packed comes up in the simulated world."""

from __future__ import annotations

import random

import pytest
from small_fleet import profile, raw

from bedplate.advise import deciding, fleet, runs
from bedplate.advise.fleet import Profile
from bedplate.advise.twin import setting_of


def crumbs() -> Profile:
    """Small VMs of a cluster that is planned first leave each server with room for one large one instead of two."""
    small = {"name": "web", "replicas": 24, "cpu": 1, "memory": "14Gi"}
    large = {"name": "db", "replicas": 4, "cpu": 4, "memory": "230Gi"}
    return profile(
        servers=[{"name": "s", "count": 9, "cpus": 64, "memory": "512Gi"}],
        operations={"spares": 0, "headroom": {}},
        clusters=[
            {"name": "a", "controlPlane": 1, "node": {"cpu": 2, "memory": "15Gi"}, "workloads": [small]},
            {"name": "z", "controlPlane": 1, "node": {"cpu": 8, "memory": "240Gi"}, "workloads": [large]},
        ],
    )


def random_fleet(seed: int) -> Profile:
    dice = random.Random(seed)
    models = [
        {"name": name, "count": 40, "cpus": dice.choice([32, 64]), "memory": f"{dice.choice([128, 256, 512])}Gi"}
        for name in ("a", "b")[: dice.randint(1, 2)]
    ]
    clusters = [
        {
            "name": f"c{n}",
            "controlPlane": dice.choice([1, 3]),
            "workloads": [
                {
                    "name": f"w{n}-{k}",
                    "replicas": dice.randint(1, 12),
                    "cpu": dice.choice([0.5, 2, 4]),
                    "memory": f"{dice.choice([1, 8, 30, 50])}Gi",
                }
                for k in range(dice.randint(1, 3))
            ],
        }
        for n in range(dice.randint(1, 4))
    ]
    spares = dice.randint(0, 2)
    return fleet.read(raw(servers=models, clusters=clusters, operations={"spares": spares}), "fleet.yaml")


def comes_up(found: Profile) -> None:
    layout = deciding.plans(found)["vm"].layout
    assert (layout.impossible, layout.shortage) == ((), {})
    runs.begun(found, setting_of(found, layout))  # raises ScenarioError where a machine finds no room


def test_large_machines_find_room_beside_small_ones_that_spread() -> None:
    comes_up(crumbs())


@pytest.mark.parametrize("seed", range(12))
def test_what_is_packed_comes_up(seed: int) -> None:
    comes_up(random_fleet(seed))
