"""Stores under test with what a test needs besides the port: a clock, what users do, a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from bedplate.engine import messages as msg
from bedplate.engine.projection import FINALIZER
from bedplate.model.blueprint import Delta, ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Epoch, Key, MachineUid, OperationId, Revision, ServerName, key
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Machine, MachineSpec, MachineStatus
from bedplate.model.meta import Condition, ObjectMeta
from bedplate.model.steps import Failed, Step
from bedplate.ports import BlueprintStore
from bedplate.runner.controller import Persistence
from bedplate.runner.persistence import StorePersistence
from bedplate.sim.persistence import SimLease, SimPersistence
from bedplate.sim.store import SimStore
from bedplate.store.store import Store

SHOP = Key("cluster/default/shop")


def entry(number: int, **changes: Any) -> MachineEntry:
    made = MachineEntry(
        uid=MachineUid(f"u{number}"),
        name=f"m{number}",
        namespace="default",
        owner=SHOP,
        server=ServerName("hv1"),
        cpu=1,
        memory_mib=64,
        disk_mib=16,
        disk_pool="local",
        image=ImageRef(name="node", disk=Digest("sha256:aa")),
        nic=Nic(network="lan", bridge="br0", mac=f"m{number}", address=f"10.0.0.{number}", prefix=24),
    )
    return msgspec.structs.replace(made, **changes)


def delta(parent: int, *entries: MachineEntry, gone: tuple[Key, ...] = (), reason: str = "a change") -> Delta:
    changes: dict[Key, Any] = {e.key: e for e in entries}
    return Delta(parent=Revision(parent), reason=reason, changes=changes | dict.fromkeys(gone))


def begin(operation: str, step: Step, epoch: Epoch, started: float = 100.0) -> msg.Begin:
    return msg.Begin(operation=OperationRecord(id=OperationId(operation), step=step, epoch=epoch, started=started))


def finish(operation: str, result: Any, finished: float = 110.0) -> msg.Finish:
    return msg.Finish(operation=OperationId(operation), finished=finished, result=result)


FAILED = Failed(reason="DiskFull", message="no room")


class Kept(Protocol):
    """A store with what a test needs besides the port."""

    now: float

    def controller(self, holder: str = "one") -> Persistence: ...

    def blueprints(self) -> BlueprintStore: ...

    def declare(self, obj: Object) -> Object: ...

    def doom(self, kind: str, name: str) -> None: ...

    def find(self, kind: str, name: str) -> Object | None: ...

    def told(self) -> list[tuple[str, str, str]]:
        """Events: reason, type and message."""
        ...

    def reopen(self) -> None:
        """What a crash of the controller leaves."""
        ...


class Real:
    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000.0
        self._folder = folder
        self.store = self._open()

    def _open(self) -> Store:
        return Store.open(self._folder, clock=lambda: self.now)

    def controller(self, holder: str = "one") -> Persistence:
        return StorePersistence(self.store, holder)

    def blueprints(self) -> BlueprintStore:
        return self.store

    def declare(self, obj: Object) -> Object:
        meta = msgspec.structs.replace(obj.metadata, finalizers=(FINALIZER,))
        return self.store.create(msgspec.structs.replace(obj, metadata=meta))

    def doom(self, kind: str, name: str) -> None:
        self.store.delete(kind, "default", name)

    def find(self, kind: str, name: str) -> Object | None:
        return self.store.find(kind, "default", name)

    def told(self) -> list[tuple[str, str, str]]:
        found: list[Any] = self.store.all("Event")
        return [(e.reason, e.type, e.message) for e in found]

    def reopen(self) -> None:
        self.store.close()
        self.store = self._open()


class Simulated:
    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = SimStore()
        self._lease = SimLease()

    def controller(self, holder: str = "one") -> Persistence:
        return SimPersistence(self.store, self._lease, holder, lambda: self.now)

    def blueprints(self) -> BlueprintStore:
        return SimPersistence(self.store, self._lease, "one", lambda: self.now)

    def declare(self, obj: Object) -> Object:
        return next(o for o in self.store.put(obj, self.now).values() if o is not None)

    def doom(self, kind: str, name: str) -> None:
        self.store.delete(key(kind.lower(), "default", name), self.now)

    def find(self, kind: str, name: str) -> Object | None:
        return self.store.objects.get(key(kind.lower(), "default", name))

    def told(self) -> list[tuple[str, str, str]]:
        return [(e.reason, e.type, e.message) for e in self.store.events]

    def reopen(self) -> None:
        """It is memory that outlives controllers."""


def lead(kept: Kept, holder: str = "one") -> tuple[Persistence, Epoch]:
    controller = kept.controller(holder)
    epoch = controller.acquire()
    assert epoch is not None
    return controller, epoch


def machine(uid: str = "u1", **spec: Any) -> Machine:
    said = Condition(type="Ready", status="True", reason="Running")
    return Machine(
        metadata=ObjectMeta(name="shop-web-1", namespace="default", uid=uid),
        spec=MachineSpec(cluster="shop", server="hv1", **spec),
        status=MachineStatus(phase="Running", conditions=(said,)),
    )


def publish(obj: Object, kind: str = "machine") -> msg.Publish:
    return msg.Publish(key=key(kind, "default", obj.metadata.name), object=obj)
