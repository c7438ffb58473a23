"""A control-plane machine that is lost while kubeadm joins it leaves a learner in etcd, which takes no other."""

from __future__ import annotations

import pytest

from bedplate.model.ids import ClusterKey
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_learner_that_was_left_behind_holds_no_other_up(seed: int) -> None:
    world = fleet.world(5)
    sim = Simulator(world, seed=seed)
    sim.apply(*fleet.infrastructure(world), fleet.cluster(replicas=3))
    sim.start_controller()
    shop = ClusterKey("default/shop")
    assert sim.run(lambda: shop in world.clusters and bool(world.clusters[shop].learners))
    (uid,) = world.clusters[shop].learners.values()
    sim.end_domain(uid, lose_disk=True, undefine=True)
    Story(sim).until_ready()
    assert not world.clusters[shop].learners
    assert len(world.clusters[shop].members) == 3
    assert uid not in world.clusters[shop].members.values()
