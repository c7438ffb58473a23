"""The rules that hold in any good world, looked at without asking the engine what it meant.

`check` reads one instant of the world; what only shows in a change is written down where the world changes.
"""

from __future__ import annotations

from collections import defaultdict

from bedplate.model.ids import ClusterKey, MachineUid
from bedplate.sim.world import SimCluster, SimDomain, SimServer, World


def check(world: World) -> list[str]:
    """Give a sentence for each rule that is broken right now."""
    return [*_doubles(world), *_memory(world)]


def _doubles(world: World) -> list[str]:
    """No machine, address, MAC or name twice among what runs; no disk opened twice (rule 1)."""
    found: list[str] = []
    seen: dict[tuple[str, str], tuple[SimServer, SimDomain]] = {}
    for server, domain in world.running():
        m = domain.entry
        identities = [("uid", m.uid), ("mac", m.nic.mac), ("address", f"{m.nic.network}/{m.nic.address}")]
        identities.append(("name", f"{m.cluster or m.namespace}/{m.name}"))
        volume = server.volumes.get(m.uid)
        if volume is None:
            found.append(f"{m.name} runs on {server.name} without its disk")
        elif volume.pool.shared:
            identities.append(("disk", f"{volume.pool.name}/{m.uid}"))
        for identity in identities:
            other = seen.setdefault(identity, (server, domain))
            if other[1] is not domain:
                found.append(
                    f"{m.name} on {server.name} and {other[1].entry.name} on {other[0].name} run with "
                    f"the same {identity[0]} {identity[1]}"
                )
    return found


def _memory(world: World) -> list[str]:
    """Memory is never over-committed."""
    used: dict[str, int] = defaultdict(int)
    for server, domain in world.running():
        used[server.name] += domain.entry.memory_mib
    return [
        f"{name} has {world.servers[name].memory_mib} MiB and runs machines of {mib} MiB"  # type: ignore[index]
        for name, mib in used.items()
        if mib > world.servers[name].memory_mib  # type: ignore[index]
    ]


def quorum_before(world: World, uid: MachineUid) -> list[SimCluster]:
    """Clusters with a quorum now that count this machine among etcd's members."""
    return [
        c
        for c in world.clusters.values()
        if not c.going and uid in c.members.values() and world.up(uid) and world.quorum(c)
    ]


def quorum_after(world: World, clusters: list[SimCluster], what: str) -> None:
    """Write down each of these clusters that has lost its quorum by what was just done (rule 2)."""
    for cluster in clusters:
        if not world.quorum(cluster):
            world.violation("rule 2", f"{what} took the quorum of {cluster.key} ({', '.join(cluster.members)})")


def last_copy(world: World, uid: MachineUid) -> str:
    """Name the cluster whose last good copy lies on this machine's disk, where deleting it would lose it (rule 9)."""
    for cluster in world.clusters.values():
        if not cluster.initialised or cluster.going:
            continue
        holders = {
            u for s in world.servers.values() for u, v in s.volumes.items() if v.member and v.joined == cluster.key
        }
        members = set(cluster.members.values())
        if uid in holders and uid in members and not (holders & members) - {uid}:
            return cluster.key
    return ""


def leftovers(world: World, cluster: ClusterKey = ClusterKey("")) -> list[str]:
    """What is left in the world of a cluster (empty: of all) that should be gone: domains, disks, tokens, secrets."""
    found: list[str] = []
    for server in world.servers.values():
        found += [
            f"domain {d.entry.name} on {server.name}"
            for d in server.domains.values()
            if not cluster or d.entry.cluster == cluster
        ]
        if not cluster:
            found += [f"disk of {uid} on {server.name}" for uid in server.volumes]
        else:
            found += [f"disk of {u} on {server.name}" for u, v in server.volumes.items() if v.joined == cluster]
    for c in world.clusters.values():
        if cluster in {"", c.key}:
            found += [f"token {t} in {c.key}" for t, end in c.tokens.items() if end > world.now and world.api(c)]
            if c.secrets:
                found.append(f"secrets of {c.key}")
    return found


def orphans(world: World, planned: set[MachineUid]) -> list[str]:
    """Domains and disks in the world that no plan knows of."""
    found: list[str] = []
    for server in world.servers.values():
        for uid in sorted({*server.domains, *server.volumes} - planned):
            found.append(f"{uid} on {server.name}")
    return found
