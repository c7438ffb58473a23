"""One write transaction on objects: every write takes the next revision, and all of them are kept or none.

Knows generations, finalizers and preconditions; whether a change makes sense is decided before.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, and_, bindparam, insert, select, update

from bedplate.model.blueprint import Delta
from bedplate.model.ids import Epoch, OperationId, Revision
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object, Status
from bedplate.model.kinds.core import Event, Secret
from bedplate.model.meta import ObjectMeta
from bedplate.model.registry import BY_KIND
from bedplate.model.steps import StepResult
from bedplate.store import codec, shown
from bedplate.store import tables as t
from bedplate.store.changelog import Change, ChangeType, rows
from bedplate.store.errors import AlreadyExists, Conflict, NotFound, StoreError
from bedplate.store.records import Records
from bedplate.store.vault import Vault

_PLACE = and_(
    t.objects.c.kind == bindparam("k"), t.objects.c.namespace == bindparam("ns"), t.objects.c.name == bindparam("n")
)
_SELECT = select(t.objects.c.data).where(_PLACE)
_UPDATE = update(t.objects).where(_PLACE).values(revision=bindparam("r"), data=bindparam("d"))
_DELETE = t.objects.delete().where(_PLACE)
_INSERT = insert(t.objects)
_LOG = insert(t.changes)


CONTENT_FINALIZER = "bedplate.dev/content"
"""On a namespace that is being deleted, until nothing is left in it."""


class Transaction(Records):
    """Use `Store.transaction()`; never keep one. Methods give objects as they are kept after the write."""

    def __init__(self, connection: Connection, now: float, vault: Vault) -> None:
        super().__init__(connection, now, vault)
        self.changes: list[Change] = []
        self._revision: int | None = None

    # --- reading ---

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Raises `NotFound`."""
        found = self.find(kind, namespace, name)
        if found is None:
            raise NotFound(kind, namespace, name)
        return found

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Give the object, or None."""
        data = self._data(kind, namespace, name)
        return None if data is None else codec.decode(kind, data)

    def all(self, kind: str, namespace: str | None = None) -> Iterable[Object]:
        """Give all objects of the kind in a namespace, or in all."""
        return [codec.decode(kind, row.data) for row in rows(self.connection, kind, namespace, None, None)]

    def _data(self, kind: str, namespace: str, name: str) -> bytes | None:
        return self.connection.execute(_SELECT, {"k": kind, "ns": namespace, "n": name}).scalar()

    # --- writing ---

    def create(self, obj: Object) -> Object:
        """Keep a new object: it gets its uid (unless it has one), creation time and generation 1.

        Raises:
            AlreadyExists: there is one of that name.
        """
        kind, meta = codec.kind_of(obj), obj.metadata
        if self._data(kind, meta.namespace, meta.name) is not None:
            raise AlreadyExists(kind, meta.namespace, meta.name)
        kept = msgspec.structs.replace(
            meta,
            uid=meta.uid or str(uuid.uuid4()),
            creation_timestamp=codec.timestamp(self.now),
            deletion_timestamp=None,
            generation=1 if hasattr(obj, "spec") else 0,
            generate_name=meta.generate_name,
        )
        return self._write("ADDED", msgspec.structs.replace(obj, metadata=kept), None)

    def update(self, obj: Object, *, force: bool = False) -> Object:
        """Replace an object whole, its status too. A `resourceVersion` in it must be the present one.

        The generation grows where the spec changed. Nothing is written where nothing changed, unless `force`. An
        object that is being deleted goes with its last finalizer.

        Raises:
            NotFound: no such object.
            Conflict: it was changed meanwhile, or it is another one of the same name.
        """
        kind, meta = codec.kind_of(obj), obj.metadata
        old_data = self._data(kind, meta.namespace, meta.name)
        if old_data is None:
            raise NotFound(kind, meta.namespace, meta.name)
        old = codec.decode(kind, old_data)
        was = old.metadata
        if meta.resource_version and meta.resource_version != was.resource_version:
            raise Conflict(kind, meta.namespace, meta.name)
        if meta.uid and meta.uid != was.uid:
            detail = f"{kind} {meta.name!r} has uid {was.uid} now, not {meta.uid}: it is another object of that name"
            raise Conflict(kind, meta.namespace, meta.name, detail)
        grown = getattr(old, "spec", None) != getattr(obj, "spec", None)
        kept = msgspec.structs.replace(
            meta,
            uid=was.uid,
            creation_timestamp=was.creation_timestamp,
            deletion_timestamp=was.deletion_timestamp,
            generate_name=was.generate_name,
            generation=was.generation + grown,
            resource_version=was.resource_version,
        )
        new = msgspec.structs.replace(obj, metadata=kept)
        if new == old and not force:
            return old
        if kept.deletion_timestamp and not kept.finalizers and not BY_KIND[kind].derived:
            return self._remove(new, old_data)
        return self._write("MODIFIED", new, old_data)

    def update_status(self, obj: Object, *, check: bool = False) -> Object | None:
        """Replace only the status. None: the object is gone. `check`: its `resourceVersion` must be the present one."""
        kind, meta = codec.kind_of(obj), obj.metadata
        old = self.find(kind, meta.namespace, meta.name)
        if old is None or (meta.uid and meta.uid != old.metadata.uid):
            return None
        if not check:
            meta = msgspec.structs.replace(meta, resource_version="")
        expected = meta.resource_version
        kept = msgspec.structs.replace(old.metadata, resource_version=expected)
        return self.update(msgspec.structs.replace(old, metadata=kept, status=getattr(obj, "status", None)))

    def delete(self, kind: str, namespace: str, name: str, *, uid: str = "", revision: str = "") -> tuple[Object, bool]:
        """Delete an object, or mark it with its deletion time where finalizers or the controller must agree first.

        Objects that it owns are deleted with it. Gives the object and whether it is gone.

        Raises:
            NotFound: no such object.
            Conflict: `uid` or `revision` is not its present one.
        """
        data = self._data(kind, namespace, name)
        if data is None:
            raise NotFound(kind, namespace, name)
        obj = codec.decode(kind, data)
        meta = obj.metadata
        if (uid and uid != meta.uid) or (revision and revision != meta.resource_version):
            raise Conflict(kind, namespace, name, f"{kind} {name!r} is not the one that was to be deleted")
        if kind == "Cluster":
            self._delete_owned(meta)
        if not meta.finalizers and not BY_KIND[kind].derived:
            return self._remove(obj, data), True
        if meta.deletion_timestamp:
            return obj, False
        marked = msgspec.structs.replace(meta, deletion_timestamp=codec.timestamp(self.now))
        return self._write("MODIFIED", msgspec.structs.replace(obj, metadata=marked), data), False

    def _delete_owned(self, owner: ObjectMeta) -> None:
        for pool in self.all("NodePool", owner.namespace):
            owned = any(o.uid == owner.uid for o in pool.metadata.owner_references)
            if owned and not pool.metadata.deletion_timestamp:
                self.delete("NodePool", pool.metadata.namespace, pool.metadata.name)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Forget an object at once, whatever its finalizers. Nothing happens where there is none."""
        data = self._data(kind, namespace, name)
        if data is not None:
            self._remove(codec.decode(kind, data), data)

    def finalise(self, kind: str, namespace: str, name: str, finalizer: str) -> Object | None:
        """Take a finalizer off; the object goes if it was the last and the object is being deleted."""
        old = self.find(kind, namespace, name)
        if old is None:
            return None
        left = tuple(f for f in old.metadata.finalizers if f != finalizer)
        kept = msgspec.structs.replace(old.metadata, finalizers=left)
        return self.update(msgspec.structs.replace(old, metadata=kept))

    def publish(self, obj: Object) -> Object | None:
        """Show what the controller sees: the status of a declared object, or a derived object whole.

        A derived object of another uid under the same name replaces the old one; a mark of deletion is kept. Its status
        comes with its spec, so that it always speaks of the generation that it is kept under.
        """
        kind, meta = codec.kind_of(obj), obj.metadata
        if not BY_KIND[kind].derived:
            return self.update_status(obj)
        old = self.find(kind, meta.namespace, meta.name)
        if old is not None and meta.uid and meta.uid != old.metadata.uid:
            self.remove(kind, meta.namespace, meta.name)
            old = None
        if old is None:
            return self.create(_observed(obj, 1))
        grown = getattr(old, "spec", None) != getattr(obj, "spec", None)
        obj = _observed(obj, old.metadata.generation + grown)
        kept = msgspec.structs.replace(
            old.metadata,
            labels=meta.labels,
            annotations=meta.annotations or old.metadata.annotations,
            owner_references=meta.owner_references or old.metadata.owner_references,
        )
        return self.update(msgspec.structs.replace(obj, metadata=kept))

    # --- the controller's records, shown as objects ---

    def commit_blueprint(self, delta: Delta, epoch: Epoch) -> Revision:
        """As `Records` has it; the blueprint is shown as an object of the kind Blueprint."""
        number = super().commit_blueprint(delta, epoch)
        self.create(shown.blueprint(number, delta))
        return number

    def begin_operation(self, operation: OperationRecord) -> None:
        """As `Records` has it; the operation is shown as an object of the kind Operation."""
        super().begin_operation(operation)
        self.publish(shown.operation(operation))

    def finish_operation(self, operation: OperationId, result: StepResult, finished: float) -> OperationRecord | None:
        """As `Records` has it."""
        ended = super().finish_operation(operation, result, finished)
        if ended is not None:
            self.publish(shown.operation(ended))
        return ended

    def record_event(
        self, kind: str, namespace: str, name: str, type_: str, reason: str, message: str, at: float = 0.0
    ) -> None:
        """Tell users of something that happened to an object (`at` 0: now); the same again only counts up."""
        about = self.find(kind, namespace, name)
        event = shown.event(kind, namespace, name, about, type_, reason, message, self.now, at or self.now)
        old = self.find("Event", event.metadata.namespace, event.metadata.name)
        if not isinstance(old, Event):
            self.create(event)
        else:
            self.update(msgspec.structs.replace(old, count=old.count + 1, last_timestamp=event.last_timestamp))

    # --- secrets that users declare ---

    def put_user_secret(self, obj: Secret, data: dict[str, str] | None) -> Object:
        """Keep a Secret: its data goes encrypted into the vault, the object's row never has any.

        `data` maps keys to base64 texts; None keeps what is there. A write always raises a revision.
        """
        bare = msgspec.structs.replace(obj, data={}, string_data={})
        meta = obj.metadata
        if data is not None:
            self.put_secret(user_secret(meta.namespace, meta.name), msgspec.json.encode(data))
        if self._data("Secret", meta.namespace, meta.name) is None:
            return self.create(bare)
        return self.update(bare, force=data is not None)

    # --- the parts of a write ---

    def _next(self) -> int:
        if self._revision is None:
            raised = update(t.counters).where(t.counters.c.name == "revision").values(value=t.counters.c.value + 1)
            found = self.connection.execute(raised.returning(t.counters.c.value)).scalar()
            if found is None:
                raise StoreError("the store has no revision counter: it is damaged; restore a backup")
        else:
            found = self._revision + 1
        self._revision = found
        return found

    def _write(self, type_: ChangeType, obj: Object, old: bytes | None) -> Object:
        revision = self._next()
        kind, meta = codec.kind_of(obj), msgspec.structs.replace(obj.metadata, resource_version=str(revision))
        obj = msgspec.structs.replace(obj, metadata=meta)
        data = codec.encode(obj)
        where = {"k": kind, "ns": meta.namespace, "n": meta.name}
        if type_ == "ADDED":
            row = {"kind": kind, "namespace": meta.namespace, "name": meta.name, "revision": revision, "data": data}
            self.connection.execute(_INSERT, row)
        elif type_ == "MODIFIED":
            self.connection.execute(_UPDATE, {**where, "r": revision, "d": data})
        else:
            self.connection.execute(_DELETE, where)
        self._log(Change(revision, type_, kind, meta.namespace, meta.name, data, old))
        return obj

    def _remove(self, obj: Object, old: bytes) -> Object:
        if isinstance(obj, Secret):
            self.delete_secret(user_secret(obj.metadata.namespace, obj.metadata.name))
        marked = msgspec.structs.replace(
            obj.metadata, deletion_timestamp=obj.metadata.deletion_timestamp or codec.timestamp(self.now)
        )
        gone = self._write("DELETED", msgspec.structs.replace(obj, metadata=marked), old)
        if gone.metadata.namespace and not isinstance(gone, Event):
            self.release_namespace(gone.metadata.namespace)
        return gone

    def release_namespace(self, name: str) -> None:
        """Forget a namespace that is being deleted once nothing but events is left in it."""
        room = self.find("Namespace", "", name)
        if room is None or not room.metadata.deletion_timestamp:
            return
        c = t.objects.c
        others = select(c.name).where(c.namespace == name, c.kind != "Event").limit(1)
        if self.connection.execute(others).first() is None:
            for event in self.all("Event", name):
                self.remove("Event", name, event.metadata.name)
            self.finalise("Namespace", "", name, CONTENT_FINALIZER)

    def _log(self, change: Change) -> None:
        self.changes.append(change)
        self.connection.execute(_LOG, {**change._asdict(), "time": self.now})

    def close(self) -> None:
        """Write back the revision that this transaction reached; called by the store just before commit."""
        if self._revision is not None and len(self.changes) > 1:
            last = update(t.counters).where(t.counters.c.name == "revision").values(value=self._revision)
            self.connection.execute(last)


def _observed(obj: Object, generation: int) -> Object:
    status = getattr(obj, "status", None)
    if not isinstance(status, Status):
        return obj
    conditions = tuple(msgspec.structs.replace(c, observed_generation=generation) for c in status.conditions)
    status = msgspec.structs.replace(status, observed_generation=generation, conditions=conditions)
    return msgspec.structs.replace(obj, status=status)


def user_secret(namespace: str, name: str) -> str:
    """Give the name under which a user's Secret is kept in the vault."""
    return f"user/{namespace}/{name}"
