"""The engine's commands written into the store, one transaction a turn, and what the engine starts from read back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from bedplate.engine import messages as msg
from bedplate.engine.projection import FINALIZER
from bedplate.engine.status import timestamp
from bedplate.model.ids import Epoch, Key
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.control import Blueprint as BlueprintObject
from bedplate.model.kinds.control import BlueprintSpec, Operation, OperationSpec, OperationStatus, RetainedDisk
from bedplate.model.kinds.core import Event, ObjectReference
from bedplate.model.kinds.infrastructure import DiskPool, Image, Network, Release, Server
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.meta import ObjectMeta
from bedplate.model.registry import BY_KIND
from bedplate.model.spec import Spec, object_key
from bedplate.model.steps import Done, Failed, Refused, Unknown
from bedplate.ports import CommitConflict
from bedplate.runner.controller import LEASE_SECONDS, StoreCommand, StoreUnavailableError
from bedplate.store.errors import StoreUnavailable
from bedplate.store.store import Store
from bedplate.store.transaction import Transaction

KEPT_RECORDS = 200
"""Operations and blueprints shown as objects; their full history is the journal's."""

DECLARED: dict[str, type[Object]] = {
    "Server": Server,
    "Network": Network,
    "DiskPool": DiskPool,
    "Image": Image,
    "Release": Release,
    "Cluster": Cluster,
    "NodePool": NodePool,
    "VirtualMachine": VirtualMachine,
}


def place(k: Key, kind: str) -> tuple[str, str, str]:
    """Kind, namespace and name of an object's key."""
    parts = k.split("/")[1:]
    return (kind, "", "/".join(parts)) if not BY_KIND[kind].namespaced else (kind, parts[0], "/".join(parts[1:]))


def load_spec(transaction: Transaction) -> Spec:
    """All declared objects as a snapshot."""
    found = {kind: {object_key(o): o for o in transaction.all(kind)} for kind in DECLARED}
    doomed = (m for m in transaction.all("Machine") if m.metadata.deletion_timestamp)
    released = (
        d.spec.machine_uid
        for d in transaction.all("RetainedDisk")
        if isinstance(d, RetainedDisk) and d.metadata.deletion_timestamp
    )
    return Spec(
        servers=found["Server"],  # type: ignore[arg-type]
        networks=found["Network"],  # type: ignore[arg-type]
        disk_pools=found["DiskPool"],  # type: ignore[arg-type]
        images=found["Image"],  # type: ignore[arg-type]
        releases=found["Release"],  # type: ignore[arg-type]
        clusters=found["Cluster"],  # type: ignore[arg-type]
        node_pools=found["NodePool"],  # type: ignore[arg-type]
        virtual_machines=found["VirtualMachine"],  # type: ignore[arg-type]
        doomed_machines=frozenset(m.metadata.uid for m in doomed),
        released_disks=frozenset(released),
    )


class StorePersistence:
    """Implements `runner.controller.Persistence` on the store."""

    def __init__(self, store: Store, holder: str) -> None:
        self._store = store
        self._holder = holder
        self._shown: dict[str, list[str]] = {"Operation": [], "Blueprint": []}

    def acquire(self) -> Epoch | None:
        return self._store.acquire(self._holder, LEASE_SECONDS)

    def renew(self, epoch: Epoch) -> bool:
        try:
            return self._store.renew(self._holder, epoch, LEASE_SECONDS)
        except StoreUnavailable as error:
            raise StoreUnavailableError(str(error)) from error

    def release(self, epoch: Epoch) -> None:
        try:
            self._store.release(self._holder, epoch)
        except StoreUnavailable as error:
            raise StoreUnavailableError(str(error)) from error

    def load(self, epoch: Epoch) -> msg.Started:
        with self._store.transaction() as tx:
            published: dict[Key, Object] = {}
            for kind in (*DECLARED, "Machine", "RetainedDisk"):
                published.update((object_key(o), o) for o in tx.all(kind))
            for kind, names in self._shown.items():
                objects = sorted(tx.all(kind), key=lambda o: o.metadata.creation_timestamp or "")
                names.extend(o.metadata.name for o in objects)
            return msg.Started(
                store=self._store.id,
                epoch=epoch,
                spec=load_spec(tx),
                blueprint=tx.load_blueprint(),
                open_operations=tuple(tx.open_operations()),
                attempts=tx.attempts(),
                published=published,
                observe_only=self._store.restored,
            )

    def carry_out(self, commands: Sequence[StoreCommand]) -> list[msg.Event]:
        try:
            with self._store.transaction() as tx:
                return [event for c in commands if (event := self._one(tx, c)) is not None]
        except CommitConflict as error:
            return [msg.CommitLost(message=str(error))]
        except StoreUnavailable as error:
            raise StoreUnavailableError(str(error)) from error

    def _one(self, tx: Transaction, command: StoreCommand) -> msg.Event | None:
        match command:
            case msg.Commit():
                number = tx.commit_blueprint(command.delta, command.epoch)
                self._show_blueprint(tx, command, number)
                return msg.Committed(number=number)
            case msg.Begin():
                tx.begin_operation(command.operation)
                self._show_operation(tx, command)
                return msg.Journalled(operation=command.operation.id)
            case msg.Finish():
                tx.finish_operation(command.operation, command.result, command.finished)
                self._end_operation(tx, command)
            case msg.Publish():
                tx.publish(command.object)
            case msg.Unpublish():
                tx.remove(*place(command.key, command.kind))
            case msg.Finalise():
                tx.finalise(*place(command.key, command.kind), FINALIZER)
            case msg.Record():
                _record(tx, command)
        return None

    # --- operations and blueprints as objects that users can list ---

    def _show_blueprint(self, tx: Transaction, command: msg.Commit, number: int) -> None:
        delta = command.delta
        spec = BlueprintSpec(
            number=number, parent=delta.parent, reason=delta.reason, changed=tuple(sorted(delta.changes))[:100]
        )
        self._show(tx, BlueprintObject(metadata=ObjectMeta(name=f"bp-{number}"), spec=spec))

    def _show_operation(self, tx: Transaction, command: msg.Begin) -> None:
        o = command.operation
        spec = OperationSpec(
            step=o.step.name, target=o.step.target, server=o.step.server, reason=o.reason, epoch=o.epoch
        )
        status = OperationStatus(phase="Running", started=timestamp(o.started), attempt=o.attempt)
        self._show(tx, Operation(metadata=ObjectMeta(name=f"op-{o.id}"), spec=spec, status=status))

    def _show(self, tx: Transaction, obj: Operation | BlueprintObject) -> None:
        tx.publish(obj)
        names = self._shown[obj.kind]
        names.append(obj.metadata.name)
        while len(names) > KEPT_RECORDS:
            tx.remove(obj.kind, "", names.pop(0))

    def _end_operation(self, tx: Transaction, command: msg.Finish) -> None:
        shown = tx.find("Operation", "", f"op-{command.operation}")
        if not isinstance(shown, Operation):
            return
        match command.result:
            case Done():
                phase, message = "Succeeded", command.result.message
            case Failed():
                phase, message = "Failed", command.result.message
            case Refused():
                phase, message = "Failed", command.result.message
            case Unknown():
                phase, message = "Unknown", command.result.message
        status = msgspec.structs.replace(
            shown.status, phase=phase, finished=timestamp(command.finished), message=message
        )
        tx.publish(msgspec.structs.replace(shown, status=status))


def _record(tx: Transaction, command: msg.Record) -> None:
    """Make an Event, or count up the last equal one."""
    kind, namespace, name = place(command.about, command.kind)
    now = timestamp(tx.now)
    where = namespace or "default"
    digest = zlib.crc32(f"{command.reason}/{command.message}".encode())
    event_name = f"{name}.{digest:08x}"
    old = tx.find("Event", where, event_name)
    if isinstance(old, Event):
        tx.update(msgspec.structs.replace(old, count=old.count + 1, last_timestamp=now))
        return
    info = BY_KIND[kind]
    about = tx.find(kind, namespace, name)
    tx.create(
        Event(
            metadata=ObjectMeta(name=event_name, namespace=where),
            involved_object=ObjectReference(
                api_version=info.api_version,
                kind=kind,
                name=name,
                namespace=namespace,
                uid=about.metadata.uid if about is not None else "",
            ),
            reason=command.reason,
            message=command.message,
            type="Warning" if command.type == "Warning" else "Normal",
            first_timestamp=now,
            last_timestamp=now,
        )
    )
