"""The spec: all that users declared, as one immutable snapshot."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bedplate.model.ids import Key, key
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.firmware import CompatibilityMatrix
from bedplate.model.kinds.fleet import FLEET_POLICY_NAME, FleetPolicy, FleetPolicySpec
from bedplate.model.kinds.infrastructure import DiskPool, Image, Network, Release, Server
from bedplate.model.kinds.virtual_machine import VirtualMachine


def object_key(obj: Object) -> Key:
    """Key of a declared object: `server/<name>`, `cluster/<ns>/<name>`, `nodepool/<ns>/<name>` ..."""
    kind = type(obj).__name__.lower()
    m = obj.metadata
    return key(kind, m.namespace, m.name) if m.namespace else key(kind, m.name)


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """Declared objects by key, those being deleted (with a `deletionTimestamp`) included."""

    servers: Mapping[Key, Server] = {}
    networks: Mapping[Key, Network] = {}
    disk_pools: Mapping[Key, DiskPool] = {}
    images: Mapping[Key, Image] = {}
    releases: Mapping[Key, Release] = {}
    clusters: Mapping[Key, Cluster] = {}
    node_pools: Mapping[Key, NodePool] = {}
    virtual_machines: Mapping[Key, VirtualMachine] = {}
    fleet_policies: Mapping[Key, FleetPolicy] = {}
    compatibility_matrices: Mapping[Key, CompatibilityMatrix] = {}
    released_disks: frozenset[str] = frozenset()
    """Machine uids whose retained disks a user deleted explicitly."""
    doomed_machines: frozenset[str] = frozenset()
    """Uids of Machines that a user deleted: to be replaced under a new identity."""

    @property
    def fleet(self) -> FleetPolicySpec:
        """What holds for the whole fleet; defaults where nobody declared it."""
        found = self.fleet_policies.get(key("fleetpolicy", FLEET_POLICY_NAME))
        return found.spec if found is not None and not found.metadata.deletion_timestamp else FleetPolicySpec()
