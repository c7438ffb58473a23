"""What is filled in when a user declares an object: in one place, before validation among others. Pure."""

from __future__ import annotations

import base64

import msgspec

from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.core import Secret
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.meta import API_VERSION, OwnerReference
from bedplate.model.registry import BY_KIND

FINALIZER = "bedplate.dev/cleanup"
"""On all that has something in the world: forgotten only once nothing of it is left."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
DEFAULT_NAMESPACE = "default"


def with_defaults(obj: Object) -> Object:
    """Give the object with its namespace; a Secret with `stringData` folded into `data` and without kubectl's copy."""
    meta = obj.metadata
    info = BY_KIND[type(obj).__name__]
    namespace = (meta.namespace or DEFAULT_NAMESPACE) if info.namespaced else ""
    meta = msgspec.structs.replace(meta, namespace=namespace)
    if isinstance(obj, Secret):
        annotations = {k: v for k, v in meta.annotations.items() if k != LAST_APPLIED}
        encoded = {k: base64.b64encode(v.encode()).decode() for k, v in obj.string_data.items()}
        meta = msgspec.structs.replace(meta, annotations=annotations)
        return msgspec.structs.replace(obj, metadata=meta, data={**obj.data, **encoded}, string_data={})
    return msgspec.structs.replace(obj, metadata=meta)


def with_finalizer(obj: Object) -> Object:
    """Give a new object with Bedplate's finalizer where it will have something in the world."""
    if not isinstance(obj, Cluster | NodePool | VirtualMachine) or FINALIZER in obj.metadata.finalizers:
        return obj
    finalizers = (*obj.metadata.finalizers, FINALIZER)
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, finalizers=finalizers))


def owned_by(pool: NodePool, cluster: Cluster) -> NodePool:
    """Give the pool with its cluster as owner, so that it goes with it."""
    others = tuple(o for o in pool.metadata.owner_references if o.kind != "Cluster")
    owner = OwnerReference(
        api_version=API_VERSION, kind="Cluster", name=cluster.metadata.name, uid=cluster.metadata.uid, controller=True
    )
    return msgspec.structs.replace(
        pool, metadata=msgspec.structs.replace(pool.metadata, owner_references=(*others, owner))
    )
