"""What users may declare and change."""

from __future__ import annotations

import msgspec
import pytest

from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, ClusterSpec
from bedplate.model.kinds.infrastructure import DiskPool, DiskPoolSpec
from bedplate.model.kinds.virtual_machine import VirtualMachine, VirtualMachineSpec
from bedplate.model.meta import ObjectMeta
from bedplate.model.validation import change, single

META = ObjectMeta(name="one")


def with_keys(kind: type[Object], *keys: str) -> Object:
    if kind is Cluster:
        return Cluster(metadata=META, spec=ClusterSpec(kubernetes="1.35", ssh_keys=keys))
    return VirtualMachine(metadata=META, spec=VirtualMachineSpec(image="debian", ssh_keys=keys))


@pytest.mark.parametrize("kind", [Cluster, VirtualMachine])
def test_only_public_keys_are_taken(kind: type[Object]) -> None:
    assert single.check(with_keys(kind, "ssh-ed25519 AAAA me")) == []
    faults = single.check(with_keys(kind, "-----BEGIN OPENSSH PRIVATE KEY-----", "AAAA"))
    assert [f.field for f in faults] == ["spec.sshKeys[0]", "spec.sshKeys[1]"]
    assert "private key" in faults[0].message


def test_the_path_of_a_disk_pool_stays() -> None:
    old = DiskPool(metadata=META, spec=DiskPoolSpec(path="/a"))
    [fault] = change.check(old, msgspec.structs.replace(old, spec=DiskPoolSpec(path="/b")))
    assert fault.field == "spec.path"
    assert "disks lie there" in fault.message
    assert (
        change.check(old, DiskPool(metadata=META, spec=DiskPoolSpec(path="/a", server_selector={"rack": "r1"}))) == []
    )
