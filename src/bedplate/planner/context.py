"""One planning at work: its input, the child blueprint as it grows, and the report.

The duties read and change the child through this; nothing here decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from bedplate.model.attempts import Attempt, AttemptsByTarget
from bedplate.model.blueprint import AnyEntry, Blueprint, Delta, MachineEntry, RetainedDiskEntry, ServerEntry
from bedplate.model.ids import Generation, Key, MachineUid, ServerName
from bedplate.model.inventory import DomainView, Inventory, Observation
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.policy import PAUSED, Policy
from bedplate.model.report import Change, Rejection, Report, Waiting, WaitingOn, Wanted
from bedplate.model.spec import Spec
from bedplate.model.whereabouts import domain_of, servers_of
from bedplate.planner import identity
from bedplate.planner.balancing.problem import BalanceMachine
from bedplate.planner.balancing.reserve import Reserve
from bedplate.planner.index import FLEET, Index, Unit

FOREVER = float("inf")
_ROOM = frozenset({Waiting.NO_ROOM, Waiting.NO_ADDRESS, Waiting.NO_VIP})

E = TypeVar("E", bound=AnyEntry)


class PlanCache:
    """What a caller may keep between plannings, for speed alone. Opaque; give each engine its own."""

    def __init__(self) -> None:
        self.index: Index | None = None


class PlanInput(msgspec.Struct, frozen=True, kw_only=True):
    """All that planning reads. `now` in seconds since the epoch; the same `seed` for the life of a store."""

    spec: Spec
    inventory: Inventory
    parent: Blueprint
    attempts: AttemptsByTarget = {}
    policy: Policy = Policy()
    now: float
    seed: int = 0
    cache: PlanCache | None = None
    balance: bool = False
    """Look at the load too: asked for now and then, not with every change."""


class Planning:
    """The working state of one planning."""

    def __init__(self, inp: PlanInput, index: Index, *, fresh: bool) -> None:
        self.spec = inp.spec
        self.inventory = inp.inventory
        self.attempts = inp.attempts
        self.policy = inp.policy
        self.now = inp.now
        self.index = index
        self.round_changed: set[Unit] = set()
        self.freed = False
        self.given_up: dict[Key, list[MachineUid]] = {}
        """By owner: machines given up after failures in this planning, for those that replace them."""
        self.reserve: Reserve | None = None
        """The fleet as its reserve sees it; made when it is first asked for."""
        self.keep_apart: dict[str, list[VirtualMachine]] | None = None
        """By namespace: virtual machines that keep others away; found when they are first asked for."""
        self.unheard: tuple[int, int] | None = None
        """Hypervisors not heard of, and all; counted when it is first asked for."""
        self._inp = inp
        self._fresh = fresh
        self._unit: Unit = Key("")
        self._touched: dict[Key, None] = {}
        self._changes: list[Change] = []
        self._waiting: dict[Unit, dict[Key, WaitingOn | None]] = {}
        self._due: dict[Unit, float] = {}
        self._ordinals: Counter[Key] = Counter()
        self._usable: dict[ServerName, bool] = {}

    # --- which unit is at work ---

    def begin_round(self, units: set[Unit]) -> None:
        """Forget what these units waited on: they are looked at again."""
        self.round_changed = set()
        self.add_to_round(units)

    def add_to_round(self, units: set[Unit]) -> None:
        """The same for units that come in later, because something became free."""
        for unit in units:
            self._waiting[unit] = {}
            self._due[unit] = FOREVER
            self.index.waiters.discard(unit)

    def enter(self, unit: Unit) -> None:
        """From now on, changes and waits are this unit's."""
        self._unit = unit

    # --- the child blueprint ---

    def put(self, entry: E, sentence: str) -> E:
        """Set an entry and say why. Its generation follows the parent's."""
        before = self._inp.parent.entries.get(entry.key)
        generation = Generation(before.generation + 1) if before is not None else Generation(1)
        entry = msgspec.structs.replace(entry, generation=generation)
        action = "change" if entry.key in self.index.entries else "create"
        self._tell_hosts(self.index.entries.get(entry.key))
        self.index.put(entry)
        self._note(entry.key, action, sentence)
        if isinstance(entry, MachineEntry):
            self._follow_reserve(entry, new=action == "create")
            self.round_changed.add(self.index.unit_of(entry))  # what is decided over the fleet concerns its owner
        return entry

    def _follow_reserve(self, entry: MachineEntry, *, new: bool) -> None:
        """Keep the reserve's book in step: what is new is added, after anything else it is made anew."""
        if self.reserve is not None and not (new and self.reserve.knows(entry.server)):
            self.reserve = None
        elif self.reserve is not None:
            self.reserve.add(as_machine(entry), entry.server)

    def drop(self, k: Key, sentence: str) -> None:
        """Take an entry out and say why."""
        self._tell_hosts(self.index.entries[k])
        self.index.drop(k)
        self.reserve = None
        self.freed = True
        self._note(k, "remove", sentence)

    def _tell_hosts(self, entry: AnyEntry | None) -> None:
        """A bare server that is a hypervisor may wait for what was there to be gone."""
        servers: tuple[ServerName, ...] = ()
        match entry:
            case MachineEntry():
                servers = servers_of(entry)
            case RetainedDiskEntry():
                servers = (entry.server,)
            case _:
                pass
        for found in map(self.index.metal, servers):
            if found is not None and found.host is not None:
                self.round_changed.add(found.key)

    def undo(self, k: Key) -> None:
        """Take an entry out that this planning made and does not want after all."""
        self.index.drop(k)
        self.reserve = None
        self._changes = [c for c in self._changes if c.key != k]

    def _note(self, k: Key, action: str, sentence: str) -> None:
        self._touched[k] = None
        self._changes.append(Change(key=k, action=action, sentence=sentence))
        self.round_changed.add(self._unit)
        if k.startswith("server/"):
            # Whether a server is dead matters to all that is on it, and to the order in which that is recovered.
            self.round_changed.update(self.index.units_on(ServerName(k.partition("/")[2])))
            self.round_changed.add(FLEET)
        elif k.startswith("metal/"):
            name = ServerName(k.partition("/")[2])
            self.round_changed.update(self.index.units_on(name))
            lost = self.index.lost(name)
            if lost is not None:  # a server that is given back is judged no more
                self.round_changed.add(lost.key)

    def new_uid(self, owner: Key) -> MachineUid:
        """An identity that was never used before."""
        self._ordinals[owner] += 1
        inp = self._inp
        return identity.machine_uid(inp.seed, inp.parent.number, inp.now, owner, self._ordinals[owner])

    # --- the report ---

    def wait(
        self,
        k: Key,
        reason: Waiting,
        sentence: str,
        rejections: Mapping[Rejection, int] | None = None,
        servers: Mapping[str, Rejection] | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        """Say on what the thing of that key waits."""
        self._waiting[self._unit][k] = WaitingOn(
            key=k, reason=reason, sentence=sentence, rejections=rejections or {}, servers=servers or {}, wanted=wanted
        )
        if reason in _ROOM:
            self.index.waiters.add(self._unit)

    def wanted_room(self) -> Iterator[Wanted]:
        """The room that would end waits, as all units say it now, in the order of what waits."""
        told = {**self.index.waiting, **self._waiting}
        found = {k: w for waits in told.values() for k, w in waits.items() if w is not None and w.wanted is not None}
        for _, waiting in sorted(found.items()):
            assert waiting.wanted is not None
            yield waiting.wanted

    def is_waiting(self, k: Key) -> bool:
        """Whether the thing of that key was said to wait already."""
        return self._waiting[self._unit].get(k) is not None

    def at(self, time: float) -> None:
        """Have the unit at work looked at again at that time."""
        if time > self.now:
            self._due[self._unit] = min(self._due[self._unit], time)

    # --- looking things up ---

    def attempt(self, target: Key, step: str) -> Attempt:
        """The history of a step on a target."""
        return self.attempts.get(target, _NO_ATTEMPTS).get(step, _NEVER)

    def busy(self, target: Key) -> bool:
        """True while any step on the target is in flight."""
        return any(a.running for a in self.attempts.get(target, _NO_ATTEMPTS).values())

    def usable(self, name: ServerName) -> bool:
        """True while the server's agent is connected and has told all it knows: absence there means absence."""
        found = self._usable.get(name)
        if found is None:
            seen = self.inventory.server(name)
            found = seen is not None and seen.value.connected and f"agent/{name}" in self.inventory.synced
            if found and seen is not None and not seen.fresh(self.now):
                found = False
            self._usable[name] = found
        return found

    def domain(self, m: MachineEntry) -> Observation[DomainView] | None:
        """The latest observation of the machine's domain, at whichever end of a move it runs."""
        return domain_of(self.inventory, m)

    def heard(self, name: ServerName) -> bool:
        """True while the server's agent is connected, whatever it has told."""
        seen = self.inventory.server(name)
        return seen is not None and seen.value.connected

    def was_used(self, name: ServerName) -> bool:
        """True where the parent has machines on the server."""
        entries = self._inp.parent.entries.values()
        return any(isinstance(e, MachineEntry) and name in servers_of(e) for e in entries)

    def lost(self, name: ServerName) -> ServerEntry | None:
        """What is planned about a server that is not heard of; None where it is well."""
        return self.index.lost(name)

    def dead(self, name: ServerName) -> bool:
        """True where the server's end is confirmed: nothing of it writes any more."""
        entry = self.lost(name)
        return entry is not None and entry.standing == "dead"

    def ended(self, m: MachineEntry) -> bool:
        """True where the machine's end with its server is confirmed. Power that is off ends all; an expired lease only
        what has its disk on a shared pool: guests on local disks may run on beside it."""
        entry = self.lost(m.server)
        if entry is None or entry.standing != "dead":
            return False
        return entry.by == "power" or self.index.fleet.is_shared(m.disk_pool)

    def paused(self, *objects: Object | None) -> str:
        """Why nothing is to be done by itself, to the fleet or to one of these objects; empty: nobody said so."""
        if self.spec.fleet.paused:
            return f"the fleet is paused: {self.spec.fleet.paused}"
        for obj in objects:
            reason = obj.metadata.annotations.get(PAUSED) if obj is not None else None
            if obj is not None and reason is not None:
                return f"{type(obj).__name__} {obj.metadata.name} is paused: {reason or 'no reason was given'}"
        return ""

    # --- the end ---

    def finish(self) -> tuple[Delta, Report, float]:
        """Give what changed of the parent, the report, and when time alone may change the answer."""
        parent = self._inp.parent
        changes: dict[Key, AnyEntry | None] = {}
        for k in self._touched:
            before, after = parent.entries.get(k), self.index.entries.get(k)
            if before is not None and after is not None:
                if msgspec.structs.replace(after, generation=before.generation) == before:
                    self.index.put(before)
                    continue
            elif before is after:
                continue
            changes[k] = after
        told = tuple(c for c in self._changes if c.key in changes)
        self.index.expected = changes
        waiting = self._report_waiting()
        for unit, at in self._due.items():
            self.index.set_due(unit, at)
        delta = Delta(parent=parent.number, reason=_reason(told), changes=changes)
        return delta, Report(changes=told, waiting=waiting), self.index.next_due()

    def _report_waiting(self) -> dict[Key, WaitingOn | None]:
        """What waits now, and None for what was told to wait before or may have been (with a fresh index).

        Two units may speak of one thing: of a server in maintenance that falls silent, both the fleet and the server
        itself. Who comes last by name is told, whichever of them was looked at now.
        """
        asked: dict[Key, None] = {}
        for unit in sorted(self._waiting):
            asked.update(dict.fromkeys(self.index.forget_waits(unit)))
            if self._fresh:
                asked.update(dict.fromkeys(self._keys_of(unit)))
            now = {k: w for k, w in self._waiting[unit].items() if w is not None}
            self.index.keep_waits(unit, now)
            asked.update(dict.fromkeys(now))
        return {k: self.index.waits_on(k) for k in asked}

    def _keys_of(self, unit: Unit) -> list[Key]:
        kind, _, rest = unit.partition("/")
        if kind in {"fleet", "balance"}:
            return []  # it speaks of machines and servers only
        if kind == "cluster":
            pools = sorted(self.index.pools_of.get(rest, ()))  # type: ignore[call-overload]
            return [unit, *pools, *self.index.by_cluster.get(rest, {})]  # type: ignore[call-overload]
        return [unit, *self.index.by_owner.get(unit, {})]


def as_machine(m: MachineEntry) -> BalanceMachine:
    """The machine as the reserve counts it."""
    return BalanceMachine(uid=m.uid, server=m.server, memory_mib=m.memory_mib, vcpus=float(m.cpu))


_NEVER = Attempt()
_NO_ATTEMPTS: Mapping[str, Attempt] = {}


def _reason(changes: tuple[Change, ...]) -> str:
    if not changes:
        return ""
    first = changes[0].sentence
    return first if len(changes) == 1 else f"{first} (and {len(changes) - 1} more)"
