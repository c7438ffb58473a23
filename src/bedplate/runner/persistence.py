"""The engine's commands written into the store, one transaction a turn, and what the engine starts from read back."""

from __future__ import annotations

from collections.abc import Sequence

from bedplate.engine import messages as msg
from bedplate.engine.projection import FINALIZER
from bedplate.model.ids import Epoch, Key
from bedplate.model.kinds.base import Object
from bedplate.model.registry import BY_KIND
from bedplate.model.spec import object_key
from bedplate.ports import CommitConflict
from bedplate.runner.controller import LEASE_SECONDS, StoreCommand, StoreUnavailableError
from bedplate.store import codec
from bedplate.store.changelog import Change
from bedplate.store.errors import StoreUnavailable
from bedplate.store.store import Store
from bedplate.store.transaction import Transaction

STATUS_KINDS = ("Server", "Network", "DiskPool", "Cluster", "NodePool", "VirtualMachine", "FleetPolicy")
DECLARED = frozenset((*STATUS_KINDS, "Image", "Release", "CompatibilityMatrix"))
DERIVED = frozenset({"Machine", "RetainedDisk"})


def place(k: Key, kind: str) -> tuple[str, str, str]:
    """Kind, namespace and name of an object's key."""
    parts = k.split("/")[1:]
    return (kind, parts[0], parts[1]) if BY_KIND[kind].namespaced else (kind, "", parts[0])


def spec_changed(changes: Sequence[Change]) -> msg.SpecChanged | None:
    """What the engine must know of a commit; None: nothing in it concerns it."""
    found: dict[Key, Object | None] = {}
    for change in changes:
        if change.kind not in DECLARED and change.kind not in DERIVED:
            continue
        obj = codec.decode(change.kind, change.new)
        gone = change.type == "DELETED"
        if change.kind in DERIVED and (gone or obj.metadata.deletion_timestamp is None):
            continue
        found[object_key(obj)] = None if gone else obj
    return msg.SpecChanged(changes=found) if found else None


class StorePersistence:
    """Implements `runner.controller.Persistence` on the store."""

    def __init__(self, store: Store, holder: str) -> None:
        self._store = store
        self._holder = holder

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
        spec, _ = self._store.load_spec()
        shown = (o for kind in (*STATUS_KINDS, *sorted(DERIVED)) for o in self._store.all(kind))
        return msg.Started(
            store=self._store.id,
            epoch=epoch,
            spec=spec,
            blueprint=self._store.load_blueprint(),
            open_operations=tuple(self._store.open_operations()),
            attempts=self._store.attempts(),
            published={object_key(o): o for o in shown},
            observe_only=self._store.restored,
        )

    def carry_out(self, commands: Sequence[StoreCommand]) -> list[msg.Event]:
        try:
            with self._store.transaction() as tx:
                return [event for c in commands if (event := _one(tx, c)) is not None]
        except CommitConflict as error:
            return [msg.CommitLost(message=str(error))]
        except StoreUnavailable as error:
            raise StoreUnavailableError(str(error)) from error


def _one(tx: Transaction, command: StoreCommand) -> msg.Event | None:
    match command:
        case msg.Commit():
            return msg.Committed(number=tx.commit_blueprint(command.delta, command.epoch))
        case msg.Begin():
            tx.begin_operation(command.operation)
            return msg.Journalled(operation=command.operation.id)
        case msg.Finish():
            tx.finish_operation(command.operation, command.result, command.finished)
        case msg.Publish():
            tx.publish(command.object)
        case msg.Unpublish():
            tx.remove(*place(command.key, command.kind))
        case msg.Finalise():
            tx.finalise(*place(command.key, command.kind), FINALIZER)
        case msg.Record():
            about = place(command.about, command.kind)
            tx.record_event(*about, command.type, command.reason, command.message, command.at)
    return None
