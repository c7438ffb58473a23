"""The simulated store: objects, blueprint, journal, attempts and leadership in memory. It outlives controllers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from bedplate.engine import messages as msg
from bedplate.engine.projection import FINALIZER
from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import Blueprint, Delta, apply_delta
from bedplate.model.ids import Epoch, Key, OperationId, Revision, StoreId
from bedplate.model.journal import OperationRecord, after, begun
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, Machine, NodePool
from bedplate.model.kinds.control import RetainedDisk
from bedplate.model.kinds.firmware import CompatibilityMatrix
from bedplate.model.kinds.fleet import FleetPolicy
from bedplate.model.kinds.infrastructure import DiskPool, Image, Network, Release, Server
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.spec import Spec, object_key
from bedplate.model.steps import StepResult
from bedplate.ports import CommitConflict

FINALISED = (Cluster, NodePool, VirtualMachine)
"""Kinds that stay until nothing of them is left in the world."""


StoreCommand = msg.Commit | msg.Begin | msg.Finish | msg.Publish | msg.Unpublish | msg.Finalise | msg.Record
Echo = Mapping[Key, Object | None]
"""What the engine hears of a write, as of any other change of what is declared."""


class SimStore:
    """What a controller finds again after it died."""

    def __init__(self, store: StoreId = StoreId("sim"), blueprint: Blueprint | None = None) -> None:
        self.id = store
        self.objects: dict[Key, Object] = {}
        self.blueprint = blueprint or Blueprint()
        self.epoch = Epoch(0)
        self.operations: dict[OperationId, OperationRecord] = {}
        self.attempts: dict[Key, dict[str, Attempt]] = {}
        self.restored = False
        self.broken = False
        """The disk is full: nothing can be written."""
        self.events: list[msg.Record] = []
        self.keeping = True
        """False: events for users are not kept (for long runs of large fleets)."""
        self._uids = 0

    # --- what users write -----------------------------------------------------------------------------------------

    def put(self, obj: Object, now: float) -> dict[Key, Object | None]:
        """Create or change an object as the API would; give what the engine must know of it."""
        k = object_key(obj)
        old = self.objects.get(k)
        if old is None:
            self._uids += 1
            meta = msgspec.structs.replace(
                obj.metadata,
                uid=obj.metadata.uid or f"uid-{self._uids}",
                generation=1,
                creation_timestamp=_time(now),
                finalizers=(FINALIZER,) if isinstance(obj, FINALISED) else (),
            )
            new = msgspec.structs.replace(obj, metadata=meta)
        else:
            same = getattr(old, "spec", None) == getattr(obj, "spec", None)
            meta = msgspec.structs.replace(
                old.metadata,
                labels=obj.metadata.labels,
                annotations=obj.metadata.annotations,
                generation=old.metadata.generation + (0 if same else 1),
            )
            new = msgspec.structs.replace(obj, metadata=meta)
            if hasattr(old, "status"):
                new = msgspec.structs.replace(new, status=old.status)  # type: ignore[attr-defined]
        self.objects[k] = new
        return {k: new}

    def delete(self, k: Key, now: float) -> dict[Key, Object | None]:
        """Delete an object as the API would."""
        old = self.objects.get(k)
        if old is None:
            return {}
        if not old.metadata.finalizers and not isinstance(old, Machine | RetainedDisk):
            del self.objects[k]
            return {k: None}
        meta = msgspec.structs.replace(old.metadata, deletion_timestamp=old.metadata.deletion_timestamp or _time(now))
        self.objects[k] = msgspec.structs.replace(old, metadata=meta)
        return {k: self.objects[k]}

    # --- what the engine writes -----------------------------------------------------------------------------------

    def carry_out(
        self, commands: Sequence[StoreCommand], echo: Callable[[Echo], None] | None = None
    ) -> list[msg.Event]:
        """Write one turn's commands in their order, all of them or none; give their acknowledgements.

        Raises:
            CommitConflict: none was written.
        """
        newest = self.blueprint.number
        for command in commands:  # all that can be refused, before anything is written
            match command:
                case msg.Commit():
                    self._check(command.epoch)
                    self._check_parent(command.delta, newest)
                    newest += 1
                case msg.Begin():
                    self._check(command.operation.epoch)
                case _:
                    pass
        return [event for c in commands if (event := self._one(c, echo or _unheard)) is not None]

    def _one(self, command: StoreCommand, echo: Callable[[Echo], None]) -> msg.Event | None:
        match command:
            case msg.Commit():
                return msg.Committed(number=self.commit(command.delta, command.epoch))
            case msg.Begin():
                self.begin(command.operation)
                return msg.Journalled(operation=command.operation.id)
            case msg.Finish():
                self.finish(command.operation, command.result, command.finished)
            case msg.Publish():
                echo(self.publish(command.object))
            case msg.Unpublish():
                self.objects.pop(command.key, None)
            case msg.Finalise():
                echo(self.finalise(command.key))
            case msg.Record():
                if self.keeping:
                    self.events.append(command)
        return None

    def commit(self, delta: Delta, epoch: Epoch) -> Revision:
        """Compare-and-set. Raises `CommitConflict`."""
        self._check(epoch)
        self._check_parent(delta, self.blueprint.number)
        number = Revision(self.blueprint.number + 1)
        self.blueprint = apply_delta(self.blueprint, delta, number)
        for k, entry in delta.changes.items():
            if entry is None:
                self.attempts.pop(k, None)
        return number

    def begin(self, operation: OperationRecord) -> None:
        """Journal a step before its effect. Raises `CommitConflict`."""
        self._check(operation.epoch)
        self.operations[operation.id] = operation
        step = operation.step
        self._set(step.target, step.name, begun(self._get(step.target, step.name), step, operation.started))

    def finish(self, operation: OperationId, result: StepResult, finished: float) -> None:
        """Journal how a step ended."""
        record = self.operations.pop(operation, None)
        if record is None:
            return
        step = record.step
        self._set(step.target, step.name, after(self._get(step.target, step.name), step, result, finished))

    def publish(self, obj: Object) -> dict[Key, Object | None]:
        """Write a status, or a derived object whole; give what the engine hears of it."""
        k = object_key(obj)
        old, meta = self.objects.get(k), obj.metadata
        if isinstance(obj, Machine | RetainedDisk):
            if old is None or (meta.uid and meta.uid != old.metadata.uid):
                mark, generation = None, 1
            else:
                mark = old.metadata.deletion_timestamp
                generation = old.metadata.generation + (getattr(old, "spec", None) != getattr(obj, "spec", None))
            meta = msgspec.structs.replace(meta, deletion_timestamp=mark, generation=generation)
            said = [msgspec.structs.replace(c, observed_generation=generation) for c in obj.status.conditions]
            status = msgspec.structs.replace(obj.status, observed_generation=generation, conditions=tuple(said))
            self.objects[k] = msgspec.structs.replace(obj, metadata=meta, status=status)
            return {}
        if old is None or (meta.uid and meta.uid != old.metadata.uid):
            return {}
        self.objects[k] = msgspec.structs.replace(old, status=obj.status)  # type: ignore[attr-defined]
        return {k: self.objects[k]}

    def finalise(self, k: Key) -> dict[Key, Object | None]:
        """Take the finalizer off; the object goes if it was the last and the object is being deleted."""
        old = self.objects.get(k)
        if old is None:
            return {}
        left = tuple(f for f in old.metadata.finalizers if f != FINALIZER)
        if old.metadata.deletion_timestamp and not left:
            del self.objects[k]
            return {k: None}
        self.objects[k] = msgspec.structs.replace(old, metadata=msgspec.structs.replace(old.metadata, finalizers=left))
        return {k: self.objects[k]}

    def _check(self, epoch: Epoch) -> None:
        if epoch != self.epoch:
            raise CommitConflict(f"epoch {epoch} is over: {self.epoch} has begun")

    @staticmethod
    def _check_parent(delta: Delta, newest: int) -> None:
        if delta.parent != newest:
            raise CommitConflict(f"blueprint {newest} is the newest, not {delta.parent}")

    def _get(self, target: Key, step: str) -> Attempt:
        return self.attempts.get(target, {}).get(step, Attempt())

    def _set(self, target: Key, step: str, value: Attempt) -> None:
        self.attempts.setdefault(target, {})[step] = value

    # --- what a controller starts from ----------------------------------------------------------------------------

    def lead(self) -> msg.Started:
        """Begin a new epoch and give all that the store holds."""
        self.epoch = Epoch(self.epoch + 1)
        return self.load(self.epoch)

    def load(self, epoch: Epoch) -> msg.Started:
        """All that the store holds, for whoever leads in this epoch."""
        return msg.Started(
            store=self.id,
            epoch=epoch,
            spec=self.spec(),
            blueprint=self.blueprint,
            open_operations=tuple(self.operations.values()),
            attempts={k: dict(v) for k, v in self.attempts.items()},
            published={
                k: o for k, o in self.objects.items() if not isinstance(o, Image | Release | CompatibilityMatrix)
            },
            observe_only=self.restored,
        )

    def spec(self) -> Spec:
        """All that users declared."""

        def of(kind: type[Object]) -> dict[Key, Object]:
            return {k: o for k, o in self.objects.items() if type(o) is kind}

        doomed = (o for o in self.objects.values() if isinstance(o, Machine) and o.metadata.deletion_timestamp)
        released = (o for o in self.objects.values() if isinstance(o, RetainedDisk) and o.metadata.deletion_timestamp)
        return Spec(
            servers=of(Server),  # type: ignore[arg-type]
            networks=of(Network),  # type: ignore[arg-type]
            disk_pools=of(DiskPool),  # type: ignore[arg-type]
            images=of(Image),  # type: ignore[arg-type]
            releases=of(Release),  # type: ignore[arg-type]
            clusters=of(Cluster),  # type: ignore[arg-type]
            node_pools=of(NodePool),  # type: ignore[arg-type]
            virtual_machines=of(VirtualMachine),  # type: ignore[arg-type]
            fleet_policies=of(FleetPolicy),  # type: ignore[arg-type]
            compatibility_matrices=of(CompatibilityMatrix),  # type: ignore[arg-type]
            doomed_machines=frozenset(o.metadata.uid for o in doomed),
            released_disks=frozenset(o.spec.machine_uid for o in released),
        )


def _unheard(_: Echo) -> None:
    """Nobody listens."""


def _time(now: float) -> str:
    """A time as the store writes it; only its being there counts."""
    return f"t{now:.3f}"
