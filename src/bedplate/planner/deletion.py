"""Deleted clusters, pools and machines: what is to leave because a user said so."""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import ClusterEntry
from bedplate.model.ids import Key
from bedplate.model.report import Waiting
from bedplate.planner.context import Planning
from bedplate.planner.leaving import leave
from bedplate.planner.scope import Scope


def begin(p: Planning, unit: Key) -> None:
    """Have the machines of a deleted cluster and of deleted pools leave, and those that users deleted."""
    s = Scope(p, unit)
    if not s.wanted:
        _whole_cluster(p, s)
        return
    declared = {unit, *(k for k in p.index.pools_of.get(s.cluster, ()) if _stays(p, k))}
    for owner, machines in p.index.running_in(s.cluster).items():
        if owner not in declared:
            for m in machines:
                leave(p, m, f"{owner.replace('/', ' ', 1)} is deleted")
        elif p.spec.doomed_machines:
            for m in machines:
                if m.uid in p.spec.doomed_machines and m.role == "worker":
                    leave(p, m, "a user deleted it")


def _stays(p: Planning, pool: Key) -> bool:
    declared = p.spec.node_pools.get(pool)
    return declared is not None and not declared.metadata.deletion_timestamp


def _whole_cluster(p: Planning, s: Scope) -> None:
    """All machines at once and undrained: there is nowhere for pods to go."""
    if s.entry is not None and s.entry.desired == "present":
        p.put(msgspec.structs.replace(s.entry, desired="absent"), f"cluster {s.cluster} is deleted")
    for m in s.machines:
        if m.desired != "remove":
            leave(p, m, "its cluster is deleted", drain=False)


def end(p: Planning, unit: Key) -> None:
    """Drop the entry of a deleted cluster once its machines and its secrets are gone."""
    s = Scope(p, unit)
    if s.entry is None or s.entry.desired == "present":
        return
    if s.machines:
        p.wait(unit, Waiting.DELETION, f"{len(s.machines)} machines of the cluster are still going")
    elif _secrets_gone(p, s.entry):
        p.drop(unit, f"cluster {s.cluster} is gone")
    else:
        p.wait(unit, Waiting.SECRETS, "the cluster's certificate authorities are being forgotten")


def _secrets_gone(p: Planning, entry: ClusterEntry) -> bool:
    dropped = p.attempt(entry.key, "DropSecrets")
    return dropped.succeeded > 0 and dropped.generation in {0, entry.generation} and not p.busy(entry.key)
