"""What is not served is refused where it is declared, in a sentence that says what would be right."""

from __future__ import annotations

import msgspec
import pytest

from bedplate.model.kinds.base import Rollout
from bedplate.model.kinds.cluster import Cluster, ClusterSpec, ControlPlane, NodePool, NodePoolSpec
from bedplate.model.kinds.virtual_machine import VirtualMachine, VirtualMachineSpec
from bedplate.model.meta import ObjectMeta
from bedplate.model.validation import change, single

META = ObjectMeta(name="one")


def pool(rollout: Rollout) -> list[tuple[str, str]]:
    found = single.check(NodePool(metadata=META, spec=NodePoolSpec(cluster="shop", rollout=rollout)))
    return [(f.field, f.message) for f in found]


def cluster(rollout: Rollout) -> list[tuple[str, str]]:
    spec = ClusterSpec(kubernetes="1.35", control_plane=ControlPlane(rollout=rollout))
    return [(f.field, f.message) for f in single.check(Cluster(metadata=META, spec=spec))]


def test_a_roll_out_in_place_is_refused() -> None:
    [(field, message)] = pool(Rollout(strategy="InPlace"))
    assert field == "spec.rollout.strategy"
    assert "write Replace" in message
    [(field, _)] = cluster(Rollout(strategy="InPlace"))
    assert field == "spec.controlPlane.rollout.strategy"


def test_a_control_plane_takes_no_other_surge_than_its_own() -> None:
    assert cluster(Rollout(max_surge=1, max_unavailable=0, drain_timeout_seconds=5)) == []
    for rollout in (Rollout(max_surge=2), Rollout(max_surge=0)):
        [(field, message)] = cluster(rollout)
        assert field == "spec.controlPlane.rollout.maxSurge"
        assert "adds one machine and then removes one" in message
    [(field, _)] = cluster(Rollout(max_unavailable=1))
    assert field == "spec.controlPlane.rollout.maxUnavailable"
    assert pool(Rollout(max_surge=2, max_unavailable=1)) == []


@pytest.mark.parametrize(("disk", "refused"), [("20Gi", True), ("5Gi", True), ("10240Mi", False)])
def test_the_disk_of_a_virtual_machine_keeps_its_size(disk: str, refused: bool) -> None:
    old = VirtualMachine(metadata=META, spec=VirtualMachineSpec(image="debian", disk="10Gi"))
    new = msgspec.structs.replace(old, spec=VirtualMachineSpec(image="debian", disk=disk))
    found = [f.sentence() for f in change.check(old, new)]
    assert [f.startswith("spec.disk: can't be changed from 10Gi") for f in found] == [True] * refused
