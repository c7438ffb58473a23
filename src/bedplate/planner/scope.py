"""One cluster as its duties see it: declared, planned and observed, and the questions that they ask of it.

Answers only; decides nothing.
"""

from __future__ import annotations

from functools import lru_cache

from bedplate.model import quantity
from bedplate.model.blueprint import ClusterEntry, MachineEntry
from bedplate.model.ids import ClusterKey, Key
from bedplate.model.inventory import ClusterView, NodeView
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.planner import substrates
from bedplate.planner.context import Planning

parse_mib = lru_cache(maxsize=4096)(quantity.parse_mib)
"""Fleets have few different shapes."""


def quorum(members: int) -> int:
    """How many of etcd's members must be alive."""
    return members // 2 + 1


class Scope:
    """A cluster at one moment of planning; make a new one after changes."""

    def __init__(self, p: Planning, unit: Key) -> None:
        self.p = p
        self.unit = unit
        self.cluster = ClusterKey(unit.partition("/")[2])
        self.declared: Cluster | None = p.spec.clusters.get(unit)
        entry = p.index.entries.get(unit)
        self.entry: ClusterEntry | None = entry if isinstance(entry, ClusterEntry) else None
        self.machines = p.index.machines_of(self.cluster)
        seen = p.inventory.cluster(self.cluster)
        self.view = seen.value if seen is not None else ClusterView(cluster=self.cluster)

    # --- declared ---

    @property
    def wanted(self) -> bool:
        """The cluster is declared, is not being deleted, and is the one that was planned."""
        d = self.declared
        if d is None or d.metadata.deletion_timestamp:
            return False
        return self.entry is None or (self.entry.desired == "present" and self.entry.uid == d.metadata.uid)

    def pools(self) -> list[NodePool]:
        """Its declared pools that are not being deleted; of `substrate: auto`, each where it is to be now."""
        keys = sorted(self.p.index.pools_of.get(self.cluster, ()))
        pools = ((k, self.p.spec.node_pools[k]) for k in keys if k in self.p.spec.node_pools)
        return [
            substrates.resolved(self.p, pool, self.running(k))
            for k, pool in pools
            if not pool.metadata.deletion_timestamp
        ]

    # --- planned ---

    @property
    def planes(self) -> list[MachineEntry]:
        """Its control-plane machines, in the order of their creation."""
        return [m for m in self.machines if m.role == "control-plane"]

    def running(self, owner: Key) -> list[MachineEntry]:
        """The owner's machines that are to stay."""
        return self.p.index.running_in(self.cluster).get(owner, [])

    # --- observed ---

    def node(self, m: MachineEntry) -> NodeView | None:
        """The machine's own Node; None where there is none, or one of an earlier machine of that name."""
        seen = self.p.inventory.node(m.cluster, m.name)
        if seen is None or not seen.value.present or seen.value.machine not in {"", m.uid}:
            return None
        return seen.value

    def node_gone(self, m: MachineEntry) -> bool:
        """The machine's Node is known not to be there (silence of an unsynced source is no knowledge)."""
        if self.node(m) is not None:
            return False
        known = self.p.inventory.node(m.cluster, m.name) is not None
        return known or not m.joined or f"cluster/{self.cluster}" in self.p.inventory.synced

    def ready(self, m: MachineEntry) -> bool:
        """The machine's Node is Ready, and the machine is not known to have ended."""
        node = self.node(m)
        return node is not None and node.ready and not self.ended(m)

    def ended(self, m: MachineEntry) -> bool:
        """Its server, connected and synced, shows that the machine's domain does not run."""
        if not self.p.usable(m.server):
            return False
        seen = self.p.domain(m)
        return seen is None or seen.value.state not in {"running", "paused"}

    def is_member(self, m: MachineEntry) -> bool:
        """The machine is a voting member of the cluster's etcd."""
        return m.name in self.view.etcd_members

    def alive_without(self, *gone: MachineEntry) -> int:
        """How many etcd members are alive when these are not counted."""
        names = {m.name for m in gone}
        return sum(1 for m in self.planes if m.name not in names and self.is_member(m) and self.ready(m))

    @property
    def initialised(self) -> bool:
        """There is data to lose."""
        return self.entry is not None and (self.entry.initialised or self.view.initialised)
