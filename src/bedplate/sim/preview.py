"""The whole roll-out of what a user is about to declare, to its end, before anything changes.

Runs the real engine against a world made from the present inventory and blueprint, where everything goes well and
takes its usual time. It shows what would be done, in which order and why, and what would still wait at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from bedplate.engine.engine import Engine
from bedplate.model.attempts import Attempts
from bedplate.model.blueprint import (
    AnyEntry,
    Blueprint,
    CachedImageEntry,
    ClusterEntry,
    MachineEntry,
    MetalEntry,
    RetainedDiskEntry,
    ServerEntry,
)
from bedplate.model.ids import Key, StoreId
from bedplate.model.inventory import ClusterView, Inventory
from bedplate.model.kinds.base import Object
from bedplate.model.policy import Policy
from bedplate.model.spec import Spec
from bedplate.model.steps import Step
from bedplate.sim import guests
from bedplate.sim.durations import Durations
from bedplate.sim.reconstruct import world_from
from bedplate.sim.simulator import Simulator
from bedplate.sim.store import SimStore
from bedplate.sim.world import World

HORIZON = 7 * 86_400.0
"""Seconds of virtual time: a roll-out that takes longer is shown as far as it got."""
QUIET = 1_800.0
"""Seconds without anything happening after which the rest only waits: twice the longest patience that planning has."""
WALL_SECONDS = 20.0


class PreviewStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the roll-out."""

    order: int
    at: float
    """Seconds after the beginning, in the simulated world."""
    step: str
    target: str
    server: str
    reason: str


class PreviewWait(msgspec.Struct, frozen=True, kw_only=True):
    """What is not as declared at the end, and why."""

    object: str
    reason: str
    message: str


class PreviewChange(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the blueprint that comes, changes or goes."""

    action: str
    target: str
    message: str = ""


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The roll-out."""

    changes: bool
    """Anything would be planned or done."""
    steps: tuple[PreviewStep, ...] = ()
    entries: tuple[PreviewChange, ...] = ()
    waiting: tuple[PreviewWait, ...] = ()
    complete: bool = True
    """False: it was cut short by a bound, and more would follow."""
    seconds: float = 0.0
    """How long the roll-out takes in the simulated world."""


def preview(
    spec: Spec,
    inventory: Inventory,
    blueprint: Blueprint,
    *,
    attempts: Mapping[Key, Attempts] | None = None,
    changes: Iterable[Object] = (),
    deletions: Iterable[Key] = (),
    policy: Policy | None = None,
    seed: int = 0,
    now: float = 0.0,
    store: StoreId = StoreId("preview"),
    wall_seconds: float = WALL_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Preview:
    """Play the declared changes through to where nothing more happens.

    Args:
        spec, inventory, blueprint, attempts, policy, seed, now: as the running engine has them; they are not changed.
        changes: objects as they would be declared.
        deletions: keys of objects that would be deleted.
        wall_seconds: real time after which the preview is cut short.
    """
    world = world_from(spec, inventory, blueprint, store)
    kept = _store(spec, blueprint, attempts or {}, store)
    sim = Simulator(
        world,
        store=kept,
        seed=seed,
        policy=policy,
        durations=Durations(seed, middle=True),
        start=now,
        verify=False,
    )
    _resume(sim, world)
    for obj in changes:
        sim.apply(obj)
    for k in deletions:
        sim.delete(k)
    secrets = (ClusterView(cluster=c.key, secrets=c.secrets) for c in world.clusters.values())
    sim.start_controller(known=secrets)
    end = clock() + wall_seconds
    out_of_time = False

    def stop() -> bool:
        nonlocal out_of_time
        out_of_time = sim.commands % 64 == 0 and clock() > end
        return out_of_time

    stopped = sim.run(stop, seconds=HORIZON, quiet=QUIET)
    return _result(sim, blueprint, complete=not stopped and sim.now < now + HORIZON)


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What a running engine knows, copied: it changes its own mappings in place."""

    spec: Spec
    inventory: Inventory
    blueprint: Blueprint
    attempts: Mapping[Key, Attempts]
    policy: Policy
    seed: int
    now: float


def capture(engine: Engine, *, now: float, seed: int) -> Present:
    """Copy what an engine knows. Call it where the engine runs; the preview may then run in another thread."""
    spec = engine.spec.spec
    inventory = engine.inventory.inventory
    return Present(
        spec=msgspec.structs.replace(
            spec, **{f: dict(getattr(spec, f)) for f in Spec.__struct_fields__ if isinstance(getattr(spec, f), dict)}
        ),
        inventory=msgspec.structs.replace(
            inventory,
            observations=dict(inventory.observations),
            domains_by_uid=dict(inventory.domains_by_uid),
        ),
        blueprint=engine.blueprint,
        attempts={k: dict(v) for k, v in engine.attempts.by_target.items()},
        policy=engine.policy,
        seed=seed,
        now=now,
    )


def preview_present(present: Present, objects: Iterable[Object], deletions: Iterable[Key] = ()) -> dict[str, Any]:
    """The preview of declaring these objects, as a JSON-able dict. Takes up to `WALL_SECONDS` of a core."""
    result = preview(
        present.spec,
        present.inventory,
        present.blueprint,
        attempts=present.attempts,
        changes=objects,
        deletions=deletions,
        policy=present.policy,
        seed=present.seed,
        now=present.now,
    )
    return msgspec.to_builtins(result)


def _store(spec: Spec, blueprint: Blueprint, attempts: Mapping[Key, Attempts], store: StoreId) -> SimStore:
    kept = SimStore(store, blueprint)
    for objects in (
        spec.servers,
        spec.networks,
        spec.disk_pools,
        spec.images,
        spec.releases,
        spec.clusters,
        spec.node_pools,
        spec.virtual_machines,
        spec.fleet_policies,
        spec.compatibility_matrices,
    ):
        kept.objects.update(objects)
    kept.attempts = {k: {name: a for name, a in v.items() if a.succeeded} for k, v in attempts.items()}
    return kept


def _resume(sim: Simulator, world: World) -> None:
    """What was going on in the world goes on: guests that were starting come up."""
    for server in world.servers.values():
        for domain in server.domains.values():
            volume = server.volumes.get(domain.entry.uid)
            joined = volume is not None and bool(volume.joined)
            if domain.state == "running" and (not domain.guest_agent or (joined and not domain.bootstrap)):
                world.spawn(guests.boot(world, Durations(0, middle=True), domain))
            if domain.bootstrap == "running":
                domain.bootstrap = ""


def _result(sim: Simulator, before: Blueprint, *, complete: bool) -> Preview:
    names = _names(before) | _names(sim.store.blueprint)
    for delta in sim.commits:
        names |= {k: _name(e) for k, e in delta.changes.items() if e is not None}
    steps = tuple(
        PreviewStep(
            order=n,
            at=round(begun.time - sim.steps[0].time, 1),
            step=begun.operation.step.name,
            target=_target(begun.operation.step, names),
            server=begun.operation.step.server,
            reason=begun.operation.reason,
        )
        for n, begun in enumerate(sim.steps, 1)
    )
    return Preview(
        changes=bool(sim.steps or sim.commits),
        steps=steps,
        entries=_entries(sim, before, names),
        waiting=_waiting(sim, names),
        complete=complete,
        seconds=round(sim.active - sim.steps[0].time, 1) if sim.steps else 0.0,
    )


def _entries(sim: Simulator, before: Blueprint, names: Mapping[Key, str]) -> tuple[PreviewChange, ...]:
    """What the blueprint has at the end that it had not, and the other way round."""
    after = sim.store.blueprint.entries
    found: list[PreviewChange] = []
    for k in sorted({*before.entries, *after}, key=lambda k: names.get(k, k)):
        old, new = before.entries.get(k), after.get(k)
        if old == new:
            continue
        action = "create" if old is None else "remove" if new is None else "change"
        reason = getattr(new or old, "reason", "")
        found.append(PreviewChange(action=action, target=names.get(k, k), message=reason))
    return tuple(found)


def _waiting(sim: Simulator, names: Mapping[Key, str]) -> tuple[PreviewWait, ...]:
    engine = sim.engine
    found = {
        k: PreviewWait(object=names.get(k, k), reason=w.reason.value, message=w.sentence)
        for k, w in engine.waiting.items()
    }
    for k, upcoming in engine.next.items():
        if upcoming.waiting is not None and k not in found:
            found[k] = PreviewWait(object=names.get(k, k), reason=upcoming.waiting.value, message=upcoming.reason)
    for finding in engine.findings:
        found[finding.key] = PreviewWait(
            object=names.get(finding.key, finding.key), reason="PlanRefused", message=finding.sentence
        )
    return tuple(found[k] for k in sorted(found))


def _names(blueprint: Blueprint) -> dict[Key, str]:
    return {k: _name(e) for k, e in blueprint.entries.items()}


def _name(entry: AnyEntry) -> str:
    match entry:
        case MachineEntry():
            return f"{'machine' if entry.is_node else 'virtualmachine'}/{entry.name}"
        case ClusterEntry():
            return f"cluster/{entry.cluster.split('/')[-1]}"
        case ServerEntry() | MetalEntry():
            return f"server/{entry.server}"
        case RetainedDiskEntry():
            return f"retaineddisk/{entry.name}"
        case CachedImageEntry():
            return f"image file {entry.digest[:19]} in diskpool/{entry.disk_pool} on {entry.server}"


def _target(step: Step, names: Mapping[Key, str]) -> str:
    image = getattr(step, "image", None)
    if image is not None:
        return f"image/{image.name}"
    return names.get(step.target, step.target)
