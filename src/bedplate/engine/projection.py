"""What users see of the engine's mind: status of declared objects, and the derived objects, as data.

Everything here is rebuilt from spec, blueprint, inventory and what waits; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bedplate.engine import messages as msg
from bedplate.engine import status
from bedplate.engine.milestones import READY
from bedplate.engine.tally import Tally
from bedplate.model.blueprint import AnyEntry, Blueprint, MachineEntry, MetalEntry, RetainedDiskEntry
from bedplate.model.ids import Key, key
from bedplate.model.kinds.base import BedplateObject, Object
from bedplate.model.kinds.cluster import Cluster, Machine, NodePool
from bedplate.model.kinds.control import RetainedDisk
from bedplate.model.kinds.fleet import FleetPolicy
from bedplate.model.kinds.infrastructure import DiskPool, Network, Server
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.meta import Condition
from bedplate.model.spec import object_key
from bedplate.model.whereabouts import servers_of

if TYPE_CHECKING:
    from bedplate.engine.engine import Engine

_REPORTED = (Server, Network, DiskPool, Cluster, NodePool, VirtualMachine, FleetPolicy)
"""Declared kinds that have a status."""
FINALIZER = "bedplate.dev/cleanup"


class Projection:
    """Keeps what was last shown and gives what must be shown anew."""

    def __init__(self, published: dict[Key, Object]) -> None:
        self._shown = published
        self._dirty: set[Key] = set()
        self._pending_finalise: set[Key] = set()
        self._machine_key: dict[Key, Key] = {}
        self.tally = Tally()
        for k, obj in published.items():
            if isinstance(obj, Machine):
                self._machine_key[key("machine", obj.metadata.uid)] = k
            elif isinstance(obj, RetainedDisk):
                self._machine_key[key("retained-disk", obj.spec.machine_uid)] = k

    # --- what became dirty ---

    def touch(self, k: Key) -> None:
        """The thing of that blueprint or object key may look different now."""
        self._dirty.add(k)
        self.tally.phases.pop(k, None)

    def declared(self, k: Key, obj: Object | None) -> None:
        """A declared object changed."""
        if obj is None:
            gone = self._shown.pop(k, None)
            if isinstance(gone, NodePool):
                self._dirty.add(key("cluster", gone.metadata.namespace, gone.spec.cluster))
        elif k not in self._shown or isinstance(obj, _REPORTED):
            self._shown[k] = obj
        self._dirty.add(k)

    def entry_changed(self, old: AnyEntry | None, new: AnyEntry | None) -> None:
        """A blueprint entry changed: it, its owner, its cluster, its server and its network may look different."""
        for entry in (old, new):
            if entry is None:
                continue
            self.touch(entry.key)
            if isinstance(entry, MachineEntry):
                self._dirty.update((entry.owner, key("network", entry.nic.network)))
                self._dirty.update(key("server", server) for server in servers_of(entry))
                if entry.cluster:
                    self._dirty.add(key("cluster", entry.cluster))

    # --- what is shown ---

    def flush(self, engine: Engine, now: float) -> Iterable[msg.Command]:
        """Commands that bring what is shown up to date; only for what became dirty."""
        dirty, self._dirty = self._dirty, set()
        self._widen(engine, dirty)
        # What a user just declared is reported on once it is planned: `Ready` then speaks of that generation.
        self._dirty = {k for k in dirty if not engine.is_planned(k)}
        dirty -= self._dirty
        self.tally.take(engine, dirty)
        out: list[msg.Command] = []
        for k in sorted(dirty):
            out.extend(self._show(engine, k, now))
        return out

    def _widen(self, engine: Engine, dirty: set[Key]) -> None:
        for k in tuple(dirty):
            entry = engine.blueprint.entries.get(k)
            if k.startswith("compatibilitymatrix/"):
                bare = (e for e in engine.blueprint.entries.values() if isinstance(e, MetalEntry))
                dirty.update(key("server", e.server) for e in bare)
            if k.startswith("metal/"):
                dirty.add(key("server", k.partition("/")[2]))
            if isinstance(entry, MachineEntry):
                dirty.add(entry.owner)
                if entry.cluster:
                    dirty.add(key("cluster", entry.cluster))
            pool = engine.spec.spec.node_pools.get(k)
            if pool is not None:
                dirty.add(key("cluster", pool.metadata.namespace, pool.spec.cluster))

    def _show(self, engine: Engine, k: Key, now: float) -> Iterable[msg.Command]:
        kind = k.split("/", 1)[0]
        if kind in {"machine", "retained-disk"}:
            yield from self._show_derived(engine, k, now)
            return
        spec = engine.spec.spec
        obj: Object | None
        match kind:
            case "cluster":
                obj = spec.clusters.get(k)
                new = None if obj is None else status.cluster(engine, spec.clusters[k])
            case "nodepool":
                obj = spec.node_pools.get(k)
                new = None if obj is None else status.node_pool(engine, spec.node_pools[k])
            case "virtualmachine":
                obj = spec.virtual_machines.get(k)
                new = None if obj is None else status.virtual_machine(engine, spec.virtual_machines[k])
            case "server":
                obj = spec.servers.get(k)
                new = None if obj is None else status.server(engine, spec.servers[k])
            case "fleetpolicy":
                obj = spec.fleet_policies.get(k)
                new = None if obj is None else status.fleet_policy(engine, spec.fleet_policies[k])
            case "network":
                obj = spec.networks.get(k)
                new = None if obj is None else status.network(engine, spec.networks[k])
            case "diskpool":
                obj = spec.disk_pools.get(k)
                new = None if obj is None else status.disk_pool(engine, spec.disk_pools[k])
            case _:
                return
        if obj is None or new is None:
            return
        yield from self._publish(k, obj, new, now)
        if obj.metadata.deletion_timestamp and FINALIZER in obj.metadata.finalizers and status.nothing_left(engine, k):
            yield msg.Finalise(key=k, kind=type(obj).__name__)

    def _publish(self, k: Key, obj: Object, new: msgspec.Struct, now: float) -> Iterable[msg.Command]:
        shown = self._shown.get(k)
        old = getattr(shown, "status", None)
        new = _with_times(new, old, now)
        if old == new:
            return
        updated = msgspec.structs.replace(obj, status=new)
        self._shown[k] = updated
        yield msg.Publish(key=k, object=updated)
        if isinstance(obj, Cluster | NodePool) and _is_ready(new) and not _is_ready(old):
            yield msg.Record(
                about=k, kind=type(obj).__name__, type="Normal", reason=READY, message="all is as declared", at=now
            )

    def _show_derived(self, engine: Engine, k: Key, now: float) -> Iterable[msg.Command]:
        entry = engine.blueprint.entries.get(k)
        if entry is None:
            shown_key = self._machine_key.pop(k, None)
            if shown_key is not None:
                shown = self._shown.pop(shown_key)
                yield msg.Unpublish(key=shown_key, kind=type(shown).__name__)
            return
        obj: BedplateObject
        if isinstance(entry, MachineEntry) and entry.is_node:
            obj = status.machine(engine, entry)
        elif isinstance(entry, RetainedDiskEntry):
            obj = status.retained_disk(entry)
        else:
            return
        object_key_ = object_key(obj)
        self._machine_key[k] = object_key_
        shown = self._shown.get(object_key_)
        obj = msgspec.structs.replace(obj, status=_with_times(obj.status, getattr(shown, "status", None), now))  # type: ignore[attr-defined]
        if shown is not None and _same(shown, obj):
            return
        self._shown[object_key_] = obj
        yield msg.Publish(key=object_key_, object=obj)

    def event_target(self, about: Key, blueprint: Blueprint) -> tuple[Key, str] | None:
        """The object that an event about this key belongs to, with its kind."""
        shown_key = self._machine_key.get(about)
        if shown_key is not None:
            return shown_key, type(self._shown[shown_key]).__name__
        if about in self._shown:
            return about, type(self._shown[about]).__name__
        if about.startswith("cached-image/"):  # of a server's disk pool
            pool = key("diskpool", about.split("/")[2])
            return (pool, "DiskPool") if pool in self._shown else None
        entry = blueprint.entries.get(about)
        if isinstance(entry, MachineEntry):
            if entry.is_node:
                return key("machine", entry.namespace, entry.name), "Machine"
            return entry.owner, "VirtualMachine"
        return None


def _is_ready(status_: object) -> bool:
    conditions: Sequence[Condition] = getattr(status_, "conditions", ())
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


def _same(a: Object, b: Object) -> bool:
    """Equal in all that Bedplate writes; the store's own metadata aside."""
    keep = ("labels", "owner_references")
    return (
        getattr(a, "spec", None) == getattr(b, "spec", None)
        and getattr(a, "status", None) == getattr(b, "status", None)
        and all(getattr(a.metadata, f) == getattr(b.metadata, f) for f in keep)
    )


def _with_times(new: msgspec.Struct, old: object, now: float) -> msgspec.Struct:
    """Set each condition's `lastTransitionTime`, and a machine's `since`, kept where nothing changed."""
    before: Sequence[Condition] = getattr(old, "conditions", ())
    changes: dict[str, object] = {}
    if hasattr(new, "conditions"):
        conditions: Sequence[Condition] = new.conditions  # type: ignore[attr-defined]
        changes["conditions"] = tuple(_with_transition(c, before, now) for c in conditions)
    if hasattr(new, "since"):
        same = getattr(old, "phase", None) == getattr(new, "phase", None)
        changes["since"] = getattr(old, "since", None) if same else status.timestamp(now)
    return msgspec.structs.replace(new, **changes)


def _with_transition(c: Condition, before: Sequence[Condition], now: float) -> Condition:
    old = next((o for o in before if o.type == c.type), None)
    kept = old.last_transition_time if old is not None and old.status == c.status else None
    return msgspec.structs.replace(c, last_transition_time=kept or status.timestamp(now))
