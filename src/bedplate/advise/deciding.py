"""Where each workload goes: all on VMs as far as the rules allow, all on metal, or each pool where it belongs. Pure.

The written policy, in this order: hard rules (`rules`); latency-sensitive pools on metal where that costs at most
`latencyPremium` more; else where the whole fleet costs least. What costs nothing that is known is counted in servers.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from bedplate.advise import cost, rules
from bedplate.advise.draws import Middle
from bedplate.advise.fleet import ClusterProfile, FleetError, Profile, Substrate, Workload
from bedplate.advise.packing import Assignment, Layout, lay_out

Alternative = Literal["vm", "metal", "mix"]
ALTERNATIVES: tuple[Alternative, ...] = ("vm", "metal", "mix")
PASSES = 4
"""Over all pools, until none is better elsewhere."""

Key = tuple[str, str]
"""Cluster and workload."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where a workload goes, and why."""

    cluster: str
    workload: str
    substrate: Substrate
    reason: str
    rule: str = ""
    """A hard rule's name; empty: it was free."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One alternative."""

    alternative: Alternative
    placed: tuple[Placed, ...]
    layout: Layout


def plans(profile: Profile) -> dict[str, Plan]:
    """The three alternatives.

    Raises:
        FleetError: the fleet has no cluster.
    """
    if not profile.clusters:
        raise FleetError("clusters: there is none, so there is nothing to compare; add one with its workloads")
    return {
        "vm": uniform(profile, "vm"),
        "metal": uniform(profile, "metal"),
        "mix": _Mixing(profile).plan(),
    }


def yearly(profile: Profile, layout: Layout) -> float:
    """What a layout costs in a year, by likeliest values and expected events; in servers' cores where nothing has a
    price. Servers that are not there are as dear as those that are."""
    priced = cost.of(profile, layout, cost.expected_events(profile, layout), Middle())
    total = float(priced.total[0])
    if total > 0 and not any(m.startswith("servers") for m in priced.missing):
        return total
    return float(sum(profile.model(m).cpus * n for m, n in layout.servers.items()))


def _ruled(profile: Profile) -> dict[Key, Placed]:
    found: dict[Key, Placed] = {}
    for cluster, w in profile.workloads():
        said = rules.ruling(cluster, w)
        if said is not None:
            found[cluster.name, w.name] = _placed(cluster, w, said.substrate, said.reason, said.rule)
    return found


def _placed(cluster: ClusterProfile, w: Workload, substrate: Substrate, reason: str, rule: str = "") -> Placed:
    return Placed(cluster=cluster.name, workload=w.name, substrate=substrate, reason=reason, rule=rule)


def uniform(profile: Profile, substrate: Literal["vm", "metal"]) -> Plan:
    """All on one substrate, as far as the hard rules allow."""
    ruled = _ruled(profile)
    said = f"all is on {'VMs' if substrate == 'vm' else 'metal'} that may be"
    placed = {
        (c.name, w.name): ruled.get((c.name, w.name)) or _placed(c, w, substrate, said) for c, w in profile.workloads()
    }
    layout = lay_out(profile, {k: p.substrate for k, p in placed.items()})
    return Plan(alternative=substrate, placed=tuple(placed.values()), layout=layout)


class _Mixing:
    """Moves pools between the substrates until none is better elsewhere."""

    def __init__(self, profile: Profile) -> None:
        self._p = profile
        self._ruled = _ruled(profile)
        self._where: dict[Key, Substrate] = {
            (c.name, w.name): r.substrate if (r := self._ruled.get((c.name, w.name))) else "vm"
            for c, w in profile.workloads()
        }
        self._why: dict[Key, str] = {}
        self._known: dict[tuple[tuple[Key, Substrate], ...], float] = {}

    def plan(self) -> Plan:
        clusters = sorted(self._p.clusters, key=lambda c: (-math.fsum(w.replicas * w.cpu for w in c.workloads), c.name))
        for _ in range(PASSES):
            before = dict(self._where)
            for cluster in clusters:
                for pool in self._pools(cluster):
                    self._choose(cluster, pool)
            if before == self._where:
                break
        placed = [
            self._ruled.get((c.name, w.name)) or _placed(c, w, self._where[c.name, w.name], self._why[c.name, w.name])
            for c, w in self._p.workloads()
        ]
        return Plan(alternative="mix", placed=tuple(placed), layout=lay_out(self._p, self._where))

    def _pools(self, cluster: ClusterProfile) -> list[list[Workload]]:
        """What is free to go, together: what hurries, and the rest."""
        free = [w for w in cluster.workloads if (cluster.name, w.name) not in self._ruled]
        hurried = [w for w in free if w.latency_sensitive]
        rest = [w for w in free if not w.latency_sensitive]
        return [pool for pool in (hurried, rest) if pool]

    def _choose(self, cluster: ClusterProfile, pool: list[Workload]) -> None:
        costs = {s: self._cost(cluster, pool, s) for s in ("vm", "metal")}
        premium = costs["metal"] - costs["vm"]
        own = self._own_cost(cluster, pool)
        hurried = pool[0].latency_sensitive
        unit = f"{self._p.currency} a year" if self._p.currency else "cores of servers"
        bearable = hurried and premium <= self._p.latency_premium.mid * own
        substrate: Substrate = "metal" if premium < 0 or bearable else "vm"
        less = f"{abs(premium):,.0f} {unit} {'less' if premium < 0 else 'more'} on metal than on VMs"
        if hurried:
            most = f"{self._p.latency_premium.mid:.0%} of what it costs are allowed for its latency"
            reason = f"it is latency-sensitive and costs {less}; {most}"
        else:
            reason = f"it costs {less}"
        for w in pool:
            k = (cluster.name, w.name)
            if k not in self._why or self._where[k] != substrate:
                self._why[k] = reason  # what it was moved for; later looks, beside others that moved, only confirm it
            self._where[k] = substrate

    def _own_cost(self, cluster: ClusterProfile, pool: list[Workload]) -> float:
        """What the pool costs on VMs: its share of the fleet by the larger of its requests."""
        cpu = sum(w.replicas * w.cpu for _, w in self._p.workloads())
        memory = sum(w.replicas * w.memory_mib for _, w in self._p.workloads())
        share = max(sum(w.replicas * w.cpu for w in pool) / cpu, sum(w.replicas * w.memory_mib for w in pool) / memory)
        return share * self._cost(cluster, pool, "vm")

    def _cost(self, cluster: ClusterProfile, pool: list[Workload], substrate: Substrate) -> float:
        where: dict[Key, Substrate] = {**self._where, **{(cluster.name, w.name): substrate for w in pool}}
        k = tuple(sorted(where.items()))
        if k not in self._known:
            layout = lay_out(self._p, where)
            self._known[k] = float("inf") if layout.impossible else yearly(self._p, layout)
        return self._known[k]


def where_of(plan: Plan) -> Assignment:
    """Cluster and workload to substrate."""
    return {(p.cluster, p.workload): p.substrate for p in plan.placed}
