"""Virtual machines that are to be together or apart, as their declarations say: what that means for one placement.

Being apart is mutual: who comes later keeps away from who asked for it. Who is on a server that is dead or to be
emptied holds nobody there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Key, ServerName
from bedplate.model.kinds.virtual_machine import PlacementRule, VirtualMachine
from bedplate.model.labels import matches
from bedplate.model.spec import object_key
from bedplate.planner.context import Planning


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a placement must and should keep to. A place is a failure domain's value, or a server's name where `over`
    is empty."""

    forbidden: frozenset[tuple[str, str]] = frozenset()
    """`(over, place)`."""
    required: tuple[tuple[str, frozenset[str]], ...] = ()
    """For each rule `(over, places)`: one of them."""
    crowd: Counter[ServerName] = Counter()
    """Servers that should be avoided (above zero) or preferred (below)."""


NONE = Wishes()


def wishes(p: Planning, v: VirtualMachine) -> Wishes:
    """What the declarations of this VM and of its neighbours ask for."""
    neighbours = _with_rules(p, v.metadata.namespace)
    if not (v.spec.affinity or v.spec.anti_affinity or neighbours):
        return NONE
    forbidden: set[tuple[str, str]] = set()
    required: list[tuple[str, frozenset[str]]] = []
    crowd: Counter[ServerName] = Counter()
    apart = [(rule, _others(p, v, rule)) for rule in v.spec.anti_affinity]
    for other in neighbours:
        if other.metadata.name != v.metadata.name:
            mutual = (r for r in other.spec.anti_affinity if matches(r.match, v.metadata.labels))
            apart.extend((rule, list(_machines(p, other))) for rule in mutual)
    for rule, machines in apart:
        if rule.strength == "must":
            forbidden.update((rule.over, place_of(p, m.server, rule.over)) for m in machines)
        else:
            crowd.update(m.server for m in machines)
    for rule in v.spec.affinity:
        held = [m for m in _others(p, v, rule) if not _leaves(p, m)]
        if rule.strength == "must" and held:
            required.append((rule.over, frozenset(place_of(p, m.server, rule.over) for m in held)))
        else:
            crowd.subtract(m.server for m in held)
    return Wishes(forbidden=frozenset(forbidden), required=tuple(required), crowd=crowd)


def bound(p: Planning, v: VirtualMachine) -> bool:
    """True where a rule that must hold concerns this VM: load alone does not move it."""
    w = wishes(p, v)
    return bool(w.forbidden or w.required or any(r.strength == "must" for r in v.spec.affinity))


def place_of(p: Planning, server: ServerName, over: str) -> str:
    """The server's failure domain of that label; the server itself where `over` is empty or it has none."""
    return (p.index.fleet.server(server).domains.get(over, "") if over else "") or server


def _with_rules(p: Planning, namespace: str) -> list[VirtualMachine]:
    """The namespace's VMs that keep others away."""
    if p.keep_apart is None:
        found: dict[str, list[VirtualMachine]] = {}
        for k in sorted(p.spec.virtual_machines):
            v = p.spec.virtual_machines[k]
            if v.spec.anti_affinity and not v.metadata.deletion_timestamp:
                found.setdefault(v.metadata.namespace, []).append(v)
        p.keep_apart = found
    return p.keep_apart.get(namespace, [])


def _others(p: Planning, v: VirtualMachine, rule: PlacementRule) -> list[MachineEntry]:
    """Machines of the other VMs in the namespace that the rule's labels match."""
    prefix = f"virtualmachine/{v.metadata.namespace}/"
    found: list[MachineEntry] = []
    for k, other in p.spec.virtual_machines.items():
        if k.startswith(prefix) and k != object_key(v) and matches(rule.match, other.metadata.labels):
            found.extend(_machines(p, other))
    return found


def _machines(p: Planning, v: VirtualMachine) -> Iterator[MachineEntry]:
    mine = p.index.by_owner.get(Key(object_key(v)), {}).values()
    return (m for m in mine if m.desired != "remove" and not p.dead(m.server))


def _leaves(p: Planning, m: MachineEntry) -> bool:
    return bool(p.index.fleet.server(m.server).emptied_because(p.now))
