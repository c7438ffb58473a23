"""Planning: from what is declared and what was seen to the next blueprint, and why, and what waits on what.

A pure function. It reads like the story: first what was reached is remembered and what is to go goes, so that all
that becomes free is free before anything new is placed. Told what changed, it looks only at that and at whoever
waits for room, and gives what planning of everything would give.
"""

from __future__ import annotations

from collections.abc import Set

import msgspec

from bedplate.model.blueprint import Delta
from bedplate.model.ids import Key, MachineUid, ServerName, key
from bedplate.model.report import Report
from bedplate.planner import (
    balance,
    clusters,
    control_plane,
    deletion,
    image_caches,
    image_files,
    leaving,
    maintain,
    metal,
    node_pools,
    recover,
    rescue,
    retained_disks,
    roles,
    servers,
    virtual_machines,
)
from bedplate.planner.context import PlanCache, PlanInput, Planning
from bedplate.planner.index import FLEET, Index, Unit

__all__ = ["PlanCache", "PlanInput", "PlanResult", "plan"]

_ROUNDS = 12
"""One planning settles in three or four rounds: declared, placed, remembered, gone. More would be an endless quarrel
between duties, which the next planning may go on with: nothing is lost."""
_EVERYWHERE = frozenset({"network", "diskpool", "image", "release", "fleetpolicy"})
"""Kinds of which one object can matter to every unit. They change seldom."""
_EVIDENCE = frozenset({"server", "node", "cluster-view"})
"""News that can tell of any server that is not heard of: of its nodes, its leases' witnesses, how many are lost."""


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change of the parent, why, and when time alone may change the answer (seconds since the epoch)."""

    delta: Delta
    report: Report = Report()
    next_time: float = float("inf")


def plan(inp: PlanInput, changed: Set[Key] | None = None) -> PlanResult:
    """Plan once.

    Args:
        inp: All that is read. With a cache, and where its parent is what the last planning led to, little is done anew.
        changed: Keys of what is new since the last planning with that cache: declared objects, views, targets of
            attempts. None: everything.
    """
    kept = inp.cache.index if inp.cache is not None else None
    units: set[Unit] | None = None
    if kept is not None and changed is not None and kept.follows(inp.parent):
        units = _units_of(inp, kept, changed)
    if units is None or kept is None:
        index = Index(inp.spec, inp.inventory, inp.parent, inp.seed)
        units = index.all_units(inp.spec)
        p = Planning(inp, index, fresh=True)
    else:
        index = kept
        units |= index.take_due(inp.now)
        p = Planning(inp, index, fresh=False)
    if inp.cache is not None:
        inp.cache.index = index
    if inp.balance:
        units.add(balance.UNIT)
    for _ in range(_ROUNDS):
        if not units:
            break
        units = _round(p, units) - {balance.UNIT}  # once: its own moves are no news to it
    delta, report, next_time = p.finish()
    return PlanResult(delta=delta, report=report, next_time=next_time)


def _round(p: Planning, units: set[Unit]) -> set[Unit]:
    """Have each duty look at each unit once; give the units that must be looked at again."""
    p.freed = False
    p.begin_round(units)
    for unit in sorted(units):
        p.enter(unit)
        _let_go(p, unit)
    if p.freed:
        # In one order with all others: who waited first gains nothing by waiting, but loses nothing either.
        late = p.index.waiters - units
        p.add_to_round(late)
        units = units | late
    for unit in sorted(units):
        p.enter(unit)
        _grow(p, unit)
    if FLEET in units and p.index.autos:
        p.enter(FLEET)
        roles.decide(p)
    again = p.round_changed | p.index.image_files.turned(p.index.fleet)
    if p.freed:
        again |= p.index.waiters
    return again


def _let_go(p: Planning, unit: Unit) -> None:
    """What was reached, what is deleted, edited, broken or too many, and what has come to its end."""
    match unit.partition("/")[0]:
        case "cluster":
            clusters.remember(p, unit)
            deletion.begin(p, unit)
            clusters.update(p, unit)
            recover.cluster(p, unit)
            control_plane.shrink(p, unit)
            node_pools.shrink(p, unit)
            leaving.advance_cluster(p, unit)
        case "virtualmachine":
            virtual_machines.settle(p, unit)
            leaving.advance_machines(p, unit)
        case "server":
            servers.judge(p, unit)
        case "metal":
            metal.advance(p, unit)
        case "fleet":
            rescue.rescue(p)
        case "balance":
            pass
        case "retained-disk":
            retained_disks.advance(p, unit)
        case "image-cache":
            image_caches.advance(p, unit)
        case _:
            raise AssertionError(f"no duty plans {unit}")


def _grow(p: Planning, unit: Unit) -> None:
    """What is missing."""
    match unit.partition("/")[0]:
        case "cluster":
            control_plane.grow(p, unit)
            node_pools.grow(p, unit)
            deletion.end(p, unit)
        case "virtualmachine":
            virtual_machines.grow(p, unit)
        case "fleet":
            maintain.maintain(p)
        case "balance":
            balance.balance(p)
        case _:
            pass


# --- from news to units ---------------------------------------------------------------------------------------


def _units_of(inp: PlanInput, index: Index, changed: Set[Key]) -> set[Unit] | None:
    """The units that the news may matter to; None: all."""
    units: set[Unit] = set()
    for k in sorted(changed):
        kind, _, rest = k.partition("/")
        index.unsettle(k)
        if kind in _EVERYWHERE and not (kind == "image" and rest.count("/")):
            return None
        units |= _units_of_one(inp, index, k, kind, rest)
        if kind in _EVIDENCE:
            units |= {e.key for e in index.entries_of_servers() if e.standing != "dead"}
    if units and index.fleet_work:
        units.add(FLEET)
    return units


def _units_of_one(inp: PlanInput, index: Index, k: Key, kind: str, rest: str) -> set[Unit]:
    match kind:
        case "server" | "bmc":
            name, k = ServerName(rest), key("server", rest)
            mine = {k} if index.by_server.get(name) or k in index.entries else set[Unit]()
            if index.metal(name) is not None:  # its power may be what its machine waits on
                mine |= set(index.units_on(name))
            mine |= _bare(inp, index, name)
            told_more = index.refresh_server(inp.spec, inp.inventory, name)
            mine |= set(index.image_files.concerns(name, index.fleet))
            if not told_more:
                return mine | index.waiters  # only free space is new, which nobody asks for who is placed
            return {*mine, *index.units_on(name), *index.waiters, FLEET}
        case "metal":
            return _bare(inp, index, ServerName(rest))
        case "lease":
            return _known(inp, index, key("server", rest.split("/")[0]))
        case "load" | "compatibilitymatrix":  # shown only, decided by nobody here
            return set()
        case "cluster" | "virtualmachine":
            return {k} if _is_unit(inp, index, k) else set()
        case "nodepool":
            return index.refresh_pool(inp.spec, k)
        case "node":
            return _known(inp, index, key("cluster", *rest.split("/")[:2]))
        case "cluster-view":
            return _known(inp, index, key("cluster", rest))
        case "image":  # the target of a PullImage: image/<pool>/<server>/<digest>
            return set(index.units_on(ServerName(rest.split("/")[1])))
        case "cached-image":  # the target of a DropImage: cached-image/<server>/<pool>/<digest>
            return {image_files.unit_of(ServerName(rest.split("/")[0]))}
        case _:  # machine/<uid>, domain/<server>/<uid>, retained-disk/<uid>, retained-disk-view/<server>/<uid>
            uid = MachineUid(rest.rpartition("/")[2])
            unit = index.unit_of_uid(uid)
            return ({unit} if unit is not None else set()) | _known(inp, index, key("retained-disk", uid))


def _bare(inp: PlanInput, index: Index, name: ServerName) -> set[Unit]:
    """The unit of a bare server that a person accepted, or that still has its entry."""
    declared = inp.spec.servers.get(key("server", name))
    mine = index.metal(name) is not None or (declared is not None and metal.wanted(declared))
    return {key("metal", name)} if mine else set()


def _known(inp: PlanInput, index: Index, unit: Unit) -> set[Unit]:
    return {unit} if _is_unit(inp, index, unit) else set()


def _is_unit(inp: PlanInput, index: Index, unit: Unit) -> bool:
    """True where the unit is declared or anything planned is left of it, or where something was told of it."""
    if unit in inp.spec.clusters or unit in inp.spec.virtual_machines or unit in index.entries:
        return True
    rest = unit.partition("/")[2]
    return bool(
        unit in index.waiting
        or index.by_owner.get(unit)
        or index.by_cluster.get(rest)  # type: ignore[call-overload]
        or index.pools_of.get(rest)  # type: ignore[call-overload]
    )
