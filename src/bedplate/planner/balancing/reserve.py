"""N+k: whether the machines of servers that fail would find room on those that are left, and which would not.

Kept up machine by machine, so that it can be asked for every placement and every move in a fleet of a thousand servers.
Two bounds decide most questions without placing anything:

- *It cannot hold* where k servers can be named whose memory in use and free memory are more than all that is free: what
  they lose and what they bring do not fit, however it is cut.
- *It does hold, whichever k servers fail*, where counting in slots already suffices. A slot is room for the largest
  machine; losing a server loses its slots and brings its machines. If the k servers that lose and bring most leave
  enough, all others do. Slots on as many servers as a group may bar are not counted.

Between the two, best-fit-decreasing places the machines of the worst sets for real, with every rule (on equal servers
it takes at most 11/9 of what the best packing takes, and 4: Johnson et al., SIAM J. Comput. 3, 1974). Worst are the
servers with the most memory in use, with the most memory, and with the most slots and machines.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nlargest

import msgspec

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing.problem import (
    BalanceMachine,
    BalanceServer,
    KeepFree,
    PlacementGroup,
    Problem,
    domain_of,
    may_run,
)

_MANY = 1_000_000_000
"""Slots of machines that need nothing."""


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """A failure that the fleet would not hold."""

    failed: tuple[ServerName, ...]
    homeless: tuple[MachineUid, ...]
    """Machines of the failed servers that fit nowhere."""
    missing_mib: int
    """Their memory; where nothing was placed, what is missing in all."""


class _Host:
    """A server: what is free on it and who is there."""

    __slots__ = ("facts", "machines", "memory_free", "place", "scope", "used", "vcpus_free")

    def __init__(self, facts: BalanceServer, scope: str) -> None:
        self.facts, self.scope, self.place = facts, scope, 0
        self.memory_free = facts.memory_mib - facts.memory_held_mib
        self.vcpus_free = facts.vcpus - facts.vcpus_held
        self.used = 0
        self.machines: dict[MachineUid, BalanceMachine] = {}

    def count(self, m: BalanceMachine, sign: int) -> None:
        self.memory_free -= sign * m.memory_mib
        self.vcpus_free -= sign * m.vcpus
        self.used += sign * m.memory_mib

    @property
    def room(self) -> int:
        """Memory that others may get here."""
        return 0 if self.facts.unschedulable else max(0, self.memory_free)

    def slots(self, memory: int, vcpus: float) -> int:
        """How many machines of that size it still takes."""
        if self.facts.unschedulable or self.memory_free <= 0 or self.vcpus_free < 0:
            return 0
        by_memory = self.memory_free // memory if memory else _MANY
        return min(by_memory, int(min(self.vcpus_free, _MANY) // vcpus)) if vcpus else by_memory


class _Scope:
    """Servers whose failures are to find room among themselves, with their slots. Kept up; brought up when asked."""

    def __init__(self) -> None:
        self.hosts: list[_Host] = []
        self.slots: list[int] = []
        self.brought: list[int] = []
        """By server: its slots and its machines, which is what is lost with it."""
        self.free = 0
        """All slots."""
        self.bound = 0
        """Machines that could not be on each server that takes any."""
        self._sizes: Counter[tuple[int, float]] = Counter()
        self._slot_of: tuple[int, float] | None = None
        self._touched: set[int] = set()
        self._everywhere: dict[tuple[frozenset[ServerName] | None, str], bool] = {}
        self._by_domain: dict[str, Counter[str]] = {}

    def add_host(self, host: _Host) -> None:
        host.place = len(self.hosts)
        self.hosts.append(host)
        self.slots.append(0)
        self.brought.append(0)

    def count(self, m: BalanceMachine, host: _Host, sign: int) -> None:
        self._touched.add(host.place)
        size = (m.memory_mib, m.vcpus)
        self._sizes[size] += sign
        if not self._sizes[size]:
            del self._sizes[size]
        kind = (m.allowed, m.cpu_model)
        if kind not in self._everywhere:
            self._everywhere[kind] = all(may_run(m, h.facts) for h in self.hosts if not h.facts.unschedulable)
        self.bound += sign * (not self._everywhere[kind])

    def bring_up(self) -> None:
        """Count the slots of what was touched; of all, where the largest machine is another one."""
        memory, vcpus = self._largest
        if self._slot_of != (memory, vcpus):
            self._slot_of = (memory, vcpus)
            self._touched = set(range(len(self.hosts)))
        for place in self._touched:
            host = self.hosts[place]
            slots = host.slots(memory, vcpus)
            self.free += slots - self.slots[place]
            for over, by_domain in self._by_domain.items():
                by_domain[domain_of(host.facts, over)] += slots - self.slots[place]
            self.slots[place] = slots
            self.brought[place] = slots + len(host.machines)
        self._touched = set()

    def in_fullest(self, domains: int, over: str) -> int:
        """Slots in so many failure domains of that label, those with most."""
        if over not in self._by_domain:
            found = self._by_domain[over] = Counter[str]()
            for slots, host in zip(self.slots, self.hosts, strict=True):
                found[domain_of(host.facts, over)] += slots
        return sum(nlargest(domains, self._by_domain[over].values()))

    @property
    def _largest(self) -> tuple[int, float]:
        """Memory and virtual CPUs that are enough for any of the machines."""
        return max((m for m, _ in self._sizes), default=0), max((v for _, v in self._sizes), default=0.0)


class Reserve:
    """The fleet as the reserve sees it. `keep`: how many failures, and within what."""

    def __init__(self, problem: Problem, keep: KeepFree) -> None:
        self._keep = keep
        self._groups = {g.name: g for g in problem.groups if g.strength == "must"}
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in self._groups}
        self._bars: dict[str, int] | None = None
        self._rules_each = max((sum(g in self._groups for g in m.groups) for m in problem.machines), default=0)
        self._hosts: dict[ServerName, _Host] = {}
        self._scopes: dict[str, _Scope] = {}
        self._where: dict[MachineUid, _Host] = {}
        self._short: dict[str, Shortage | None] = {}
        """By scope, what was found since something there changed."""
        for s in sorted(problem.servers, key=lambda s: s.name):
            host = _Host(s, s.domains.get(keep.per, "") if keep.per else "")
            self._hosts[s.name] = host
            self._scopes.setdefault(host.scope, _Scope()).add_host(host)
        for m in sorted(problem.machines, key=lambda m: m.uid):
            if m.server in self._hosts:
                self.add(m, m.server)

    # --- changes ---

    def add(self, m: BalanceMachine, server: ServerName) -> None:
        """A machine comes; whether the server may take it is the caller's to have asked."""
        self._settle(m, self._hosts[server])
        self._rules_each = max(self._rules_each, sum(g in self._groups for g in m.groups))
        self._bars = None

    def remove(self, uid: MachineUid) -> BalanceMachine:
        """A machine goes."""
        self._bars = None
        return self._unsettle(uid)

    def move(self, uid: MachineUid, target: ServerName) -> None:
        """A machine goes elsewhere."""
        self._settle(self._unsettle(uid), self._hosts[target])

    def _settle(self, m: BalanceMachine, host: _Host) -> None:
        host.machines[m.uid] = m
        self._where[m.uid] = host
        self._scopes[host.scope].count(m, host, 1)
        self._put(m, host, 1)
        self._short.pop(host.scope, None)

    def _unsettle(self, uid: MachineUid) -> BalanceMachine:
        host = self._where.pop(uid)
        m = host.machines.pop(uid)
        self._scopes[host.scope].count(m, host, -1)
        self._put(m, host, -1)
        self._short.pop(host.scope, None)
        return m

    def _put(self, m: BalanceMachine, host: _Host, sign: int) -> None:
        host.count(m, sign)
        for group in m.groups:
            if group in self._groups:
                self._counts[group][domain_of(host.facts, self._groups[group].over)] += sign

    # --- questions ---

    def knows(self, server: ServerName) -> bool:
        """True where the server takes part."""
        return server in self._hosts

    def shortages(self) -> tuple[Shortage, ...]:
        """For each domain (or the fleet) that would not hold its failures: which, and what would be homeless."""
        return tuple(s for scope in sorted(self._scopes) if (s := self._shortage(scope)) is not None)

    def admits(self, m: BalanceMachine, server: ServerName) -> bool:
        """True where, with that machine there too, nothing is missing that is not missing now."""
        scopes = (self._hosts[server].scope,)
        before = self._missing(scopes)
        self.add(m, server)
        after = self._missing(scopes)
        self.remove(m.uid)
        self._short[scopes[0]] = before[1][0]
        return after[0] <= before[0]

    def may(self, uid: MachineUid, target: ServerName) -> bool:
        """The same for a machine that moves to the target."""
        source = self._where[uid]
        scopes = tuple(sorted({source.scope, self._hosts[target].scope}))
        before = self._missing(scopes)
        self.move(uid, target)
        after = self._missing(scopes)
        self.move(uid, source.facts.name)
        self._short.update(zip(scopes, before[1], strict=True))
        return after[0] <= before[0]

    def _missing(self, scopes: Sequence[str]) -> tuple[int, list[Shortage | None]]:
        found = [self._shortage(scope) for scope in scopes]
        return sum(s.missing_mib for s in found if s is not None), found

    def _shortage(self, scope: str) -> Shortage | None:
        if scope not in self._short:
            self._short[scope] = self._worst(self._scopes[scope])
        return self._short[scope]

    def _worst(self, scope: _Scope) -> Shortage | None:
        hosts = scope.hosts
        k = min(self._keep.servers, len(hosts))
        scope.bring_up()
        if k == 0 or self._surely(scope, sum(nlargest(k, scope.brought))):
            return None
        weights = ([h.used for h in hosts], [h.used + h.room for h in hosts], scope.brought)
        sets = {tuple(sorted(nlargest(k, range(len(hosts)), key=by.__getitem__))) for by in weights}
        found = [s for chosen in sorted(sets) if (s := self._try([hosts[n] for n in chosen], hosts)) is not None]
        return max(found, key=lambda s: (s.missing_mib, s.failed), default=None)

    def _surely(self, scope: _Scope, lost: int) -> bool:
        """Any of the servers may fail: counting in slots of the largest machine is enough."""
        if scope.bound or any(g.kind == "affinity" for g in self._groups.values()):
            return False
        return lost + self._barred(scope) <= scope.free

    def _barred(self, scope: _Scope) -> int:
        """Slots that the rules may keep from a machine, at most: those of the domains where its siblings are."""
        if self._bars is None:
            self._bars = {}
            for name, group in self._groups.items():
                bars = (sum(self._counts[name].values()) - 1) // group.most
                self._bars[group.over] = max(self._bars.get(group.over, 0), bars)
        return self._rules_each * max((scope.in_fullest(n, over) for over, n in self._bars.items()), default=0)

    # --- placing for real ---

    def _try(self, failed: list[_Host], hosts: list[_Host]) -> Shortage | None:
        """Place the machines of those servers on the others, largest first; what does not fit is the shortage."""
        survivors = [h for h in hosts if h not in failed and not h.facts.unschedulable]
        machines = sorted((m for h in failed for m in h.machines.values()), key=lambda m: (-m.memory_mib, m.uid))
        machines = [m for m in machines if not survivors or any(may_run(m, h.facts) for h in survivors)]
        missing = sum(m.memory_mib for m in machines) - sum(h.room for h in survivors)
        homeless = _fewest(machines, missing) if missing > 0 else self._homeless(machines, survivors)
        if not homeless:
            return None
        return Shortage(
            failed=tuple(h.facts.name for h in failed),
            homeless=tuple(m.uid for m in homeless),
            missing_mib=missing if missing > 0 else sum(m.memory_mib for m in homeless),
        )

    def _homeless(self, machines: list[BalanceMachine], survivors: list[_Host]) -> list[BalanceMachine]:
        """Machines that find no place: each in turn gets the fullest server that takes it. All is put back after."""
        for m in machines:
            self._put(m, self._where[m.uid], -1)
        order = sorted((h.memory_free, n) for n, h in enumerate(survivors))
        placed: list[tuple[BalanceMachine, _Host]] = []
        homeless: list[BalanceMachine] = []
        for m in machines:
            first = bisect_left(order, (m.memory_mib, -1))
            at = next((at for at in range(first, len(order)) if self._takes(survivors[order[at][1]], m)), None)
            if at is None:
                homeless.append(m)
                continue
            _, n = order.pop(at)
            self._put(m, survivors[n], 1)
            insort(order, (survivors[n].memory_free, n))
            placed.append((m, survivors[n]))
        for m, host in placed:
            self._put(m, host, -1)
        for m in machines:
            self._put(m, self._where[m.uid], 1)
        return homeless

    def _takes(self, host: _Host, m: BalanceMachine) -> bool:
        if m.memory_mib > host.memory_free or m.vcpus > host.vcpus_free or not may_run(m, host.facts):
            return False
        return all(self._allows(self._groups[g], host) for g in m.groups if g in self._groups)

    def _allows(self, group: PlacementGroup, host: _Host) -> bool:
        counts = self._counts[group.name]
        there = counts[domain_of(host.facts, group.over)]
        if group.kind == "anti-affinity":
            return there < group.most
        return there > 0 or not any(counts.values())


def _fewest(machines: Iterable[BalanceMachine], gap: int) -> list[BalanceMachine]:
    """The smallest machines that together are the gap: the least that would have to stay out."""
    found: list[BalanceMachine] = []
    for m in sorted(machines, key=lambda m: (m.memory_mib, m.uid)):
        if gap <= 0:
            break
        found.append(m)
        gap -= m.memory_mib
    return found
