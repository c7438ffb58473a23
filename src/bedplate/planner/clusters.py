"""Clusters' own entries: what is remembered of them, their version and addons. Machines are other files' duty."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import msgspec

from bedplate.model.blueprint import AddonRef, ClusterEntry
from bedplate.model.ids import Digest, Key
from bedplate.model.kinds.cluster import Cluster
from bedplate.model.report import Waiting
from bedplate.planner import versions
from bedplate.planner.context import Planning
from bedplate.planner.scope import Scope


def remember(p: Planning, unit: Key) -> None:
    """Write down what was reached and must not be forgotten: the cluster initialised, machines joined."""
    s = Scope(p, unit)
    if s.entry is None:
        return
    if not s.entry.initialised and (s.view.initialised or s.view.api) and s.entry.desired == "present":
        p.put(msgspec.structs.replace(s.entry, initialised=True), f"cluster {s.cluster} answers for the first time")
    for m in s.machines:
        if not m.joined and s.node(m) is not None:
            p.put(msgspec.structs.replace(m, joined=True), f"{m.name} has joined {s.cluster}")


def update(p: Planning, unit: Key) -> None:
    """Follow edits of a cluster that exists: its version and its addons."""
    s = Scope(p, unit)
    if s.entry is None or s.declared is None or not s.wanted:
        return
    version = versions.follow(p, unit, s.entry, s.declared)
    if version != s.entry.version:
        said = f"cluster {s.cluster} moves from {s.entry.version} to {version}, as declared"
        p.put(msgspec.structs.replace(s.entry, version=version), said)
    addons = addon_refs(s.declared)
    if addons != s.entry.addons:
        entry = p.index.entries[unit]
        assert isinstance(entry, ClusterEntry)
        p.put(msgspec.structs.replace(entry, addons=addons), f"cluster {s.cluster}: its addons were edited")


def addon_refs(c: Cluster) -> tuple[AddonRef, ...]:
    """The cluster's addons by digest."""
    return tuple(AddonRef(name=a.name, digest=_digest(a.manifest)) for a in c.spec.addons)


@lru_cache(maxsize=1024)
def _digest(manifest: str) -> Digest:
    return Digest("sha256:" + sha256(manifest.encode()).hexdigest())


def new_entry(p: Planning, unit: Key, c: Cluster) -> ClusterEntry | None:
    """A new cluster's entry with version, network and endpoint chosen; None (and a wait) where one can't be."""
    version = versions.resolve(p, unit, c)
    name = network_name(p, unit, c.spec.network)
    if not version or not name:
        return None
    network = p.index.network(name)
    endpoint, vrrp_id = c.spec.endpoint.address, 0
    if c.spec.endpoint.type == "vrrp":
        if endpoint and not network.is_free(endpoint):
            p.wait(unit, Waiting.NO_VIP, f"address {endpoint} on network {name} is taken already")
            return None
        endpoint = endpoint or network.free_vip()
        vrrp_id = network.free_vrrp_id()
        if not endpoint:
            p.wait(unit, Waiting.NO_VIP, f"network {name} has no free address in its vipRanges; widen them")
            return None
        if not vrrp_id:
            p.wait(unit, Waiting.NO_VIP, f"network {name} has no free VRRP id in its vrrpIds; widen them")
            return None
    uid = c.metadata.uid
    return ClusterEntry(
        cluster=Scope(p, unit).cluster,
        uid=uid,
        version=version,
        network=name,
        endpoint_type=c.spec.endpoint.type,
        endpoint=endpoint,
        port=c.spec.endpoint.port,
        vrrp_id=vrrp_id,
        pod_cidr=c.spec.pod_cidr,
        service_cidr=c.spec.service_cidr,
        pod_network=c.spec.pod_network,
        addons=addon_refs(c),
        secrets=f"cluster/{uid or unit}",
    )


def network_name(p: Planning, k: Key, named: str) -> str:
    """The network that is meant; empty (and a wait) where it can't be told."""
    declared = p.index.declared_networks
    if named:
        if named in declared:
            return named
        p.wait(k, Waiting.NO_NETWORK, f"network {named} does not exist")
    elif len(declared) == 1:
        return declared[0]
    elif not declared:
        p.wait(k, Waiting.NO_NETWORK, "there is no network; declare one")
    else:
        p.wait(k, Waiting.NO_NETWORK, f"there are {len(declared)} networks; name one of them in spec.network")
    return ""
