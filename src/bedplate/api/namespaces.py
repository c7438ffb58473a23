"""Namespaces: the one that always is there, and how one goes with all that is in it."""

from __future__ import annotations

import msgspec

from bedplate.api import errors
from bedplate.model.defaults import DEFAULT_NAMESPACE
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.core import Namespace, NamespaceStatus
from bedplate.model.meta import ObjectMeta
from bedplate.model.registry import KINDS, KindInfo
from bedplate.model.validation import together
from bedplate.store.errors import Conflict
from bedplate.store.store import Store
from bedplate.store.transaction import CONTENT_FINALIZER, Transaction


def delete_namespace(
    tx: Transaction, world: together.World, info: KindInfo, room: Namespace, *, uid: str, revision: str
) -> tuple[Object, bool]:
    """Begin to delete a namespace and all in it; gives it and whether it is gone. Raises `ApiError`, `Conflict`."""
    name = room.metadata.name
    if name == DEFAULT_NAMESPACE:
        raise errors.forbidden(info, name, "this namespace always is there; delete what is in it instead")
    for kind in ("Secret",):  # used from outside of the namespace: by servers' BMCs
        for obj in tx.all(kind, name):
            user = together.in_use(obj, world)
            if user is not None and "server" in user:
                raise errors.ApiError(409, "Conflict", user, details=errors.about(info, name))
    finalizers = tuple({*room.metadata.finalizers, CONTENT_FINALIZER})
    ending = msgspec.structs.replace(room, status=NamespaceStatus(phase="Terminating"))
    meta = msgspec.structs.replace(room.metadata, finalizers=finalizers)
    if (uid and uid != meta.uid) or (revision and revision != meta.resource_version):
        raise Conflict("Namespace", "", name, f"Namespace {name!r} is not the one that was to be deleted")
    tx.update(msgspec.structs.replace(ending, metadata=meta))
    tx.delete("Namespace", "", name)
    for other in KINDS:
        if other.namespaced and not other.derived and other.kind != "Event":
            for obj in list(tx.all(other.kind, name)):
                if not obj.metadata.deletion_timestamp and tx.find(other.kind, name, obj.metadata.name):
                    tx.delete(other.kind, name, obj.metadata.name)
    tx.release_namespace(name)
    found = tx.find("Namespace", "", name)
    return (room, True) if found is None else (found, False)


def ensure_default_namespace(store: Store) -> None:
    """Make the namespace `default` where it is not there yet."""
    with store.transaction() as tx:
        if tx.find("Namespace", "", DEFAULT_NAMESPACE) is None:
            tx.create(Namespace(metadata=ObjectMeta(name=DEFAULT_NAMESPACE)))
