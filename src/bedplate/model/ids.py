"""Distinct types for the ids of things, so that a server's name is never taken for a machine's uid."""

from __future__ import annotations

from typing import NewType

ServerName = NewType("ServerName", str)
MachineUid = NewType("MachineUid", str)
"""The identity of one machine: never used again once it is given up. It is also the libvirt domain's UUID."""
Namespace = NewType("Namespace", str)
ClusterKey = NewType("ClusterKey", str)
"""`namespace/name` of a Cluster."""
Digest = NewType("Digest", str)
"""`sha256:<hex>` of content."""
StoreId = NewType("StoreId", str)
"""Identity of one Bedplate store; written on all that it makes in the world."""
Generation = NewType("Generation", int)
Epoch = NewType("Epoch", int)
"""Fencing number of a controller's leadership; grows with every take-over."""
Revision = NewType("Revision", int)
OperationId = NewType("OperationId", str)
Key = NewType("Key", str)
"""Path-like key of a thing in spec, inventory or blueprint: `machine/<uid>`, `cluster/<ns>/<name>` ..."""


def cluster_key(namespace: str, name: str) -> ClusterKey:
    """Give the key of the cluster `name` in `namespace`."""
    return ClusterKey(f"{namespace}/{name}")


def key(kind: str, *path: str) -> Key:
    """Join a lower-case kind and the parts of its path into a `Key`."""
    return Key("/".join((kind, *path)))
