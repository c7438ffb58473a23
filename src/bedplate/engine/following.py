"""Which clusters' APIs and which servers' BMCs are to be watched: told anew only when that changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bedplate.engine import messages as msg
from bedplate.model.blueprint import BmcRef, ClusterEntry, MachineEntry
from bedplate.model.ids import ClusterKey, Key, ServerName
from bedplate.model.whereabouts import domain_of
from bedplate.planner.servers import bmc_ref
from bedplate.ports import ClusterAccess

if TYPE_CHECKING:
    from bedplate.engine.engine import Engine


class Following:
    """What was asked to be watched last, and what may have changed of it."""

    def __init__(self) -> None:
        self._stale: set[Key] = set()
        self._clusters: dict[ClusterKey, ClusterAccess] = {}
        self._bmcs: dict[ServerName, BmcRef] = {}
        self._stale_bmcs: set[Key] = set()

    def touch(self, keys: Iterable[Key]) -> None:
        """The way to these clusters' APIs, or to these servers' BMCs, may have changed."""
        for k in keys:
            if k.startswith("cluster/"):
                self._stale.add(k)
            elif k.startswith("server/"):
                self._stale_bmcs.add(k)

    def flush(self, engine: Engine) -> Iterable[msg.Command]:
        """Commands that bring the watches up to date."""
        if self._stale:
            yield from self._follow_clusters(engine)
        if self._stale_bmcs:
            yield from self._follow_bmcs(engine)

    def _follow_clusters(self, engine: Engine) -> Iterable[msg.Command]:
        stale, self._stale = self._stale, set()
        wanted = dict(self._clusters)
        for k in sorted(stale):
            wanted.pop(ClusterKey(k.partition("/")[2]), None)
            cluster = engine.blueprint.entries.get(k)
            if not isinstance(cluster, ClusterEntry):
                continue
            planes = engine.index.control_planes.get(k, ())
            machines = tuple(m for m in planes if _may_answer(engine, cluster, m))
            if machines and cluster.desired == "present":
                wanted[cluster.cluster] = ClusterAccess(
                    cluster=cluster.cluster,
                    secrets=cluster.secrets,
                    endpoint=cluster.endpoint,
                    port=cluster.port,
                    control_planes=machines,
                )
        if wanted != self._clusters:
            self._clusters = wanted
            yield msg.Follow(clusters=wanted)

    def _follow_bmcs(self, engine: Engine) -> Iterable[msg.Command]:
        stale, self._stale_bmcs = self._stale_bmcs, set()
        wanted = dict(self._bmcs)
        for k in sorted(stale):
            server = engine.spec.spec.servers.get(k)
            bmc = bmc_ref(server) if server is not None and not server.metadata.deletion_timestamp else None
            name = ServerName(k.partition("/")[2])
            wanted.pop(name, None)
            if bmc is not None:
                wanted[name] = bmc
        if wanted != self._bmcs:
            self._bmcs = wanted
            yield msg.FollowBmcs(servers=wanted)


def _may_answer(engine: Engine, cluster: ClusterEntry, m: MachineEntry) -> bool:
    domain = domain_of(engine.inventory.inventory, m)
    begun = domain is not None and domain.value.bootstrap in {"running", "done"}
    return begun or m.joined or (cluster.initialised and cluster.first_machine == m.uid)
