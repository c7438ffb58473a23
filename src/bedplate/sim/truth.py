"""The rules that hold in any good world, looked at without asking the engine what it meant.

`look` reads what an event touched, `check` one whole instant; both give sentences. What only shows in a change is
written down where the world changes: functions here are called with each act that a rule speaks of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ClusterKey, Digest, Key, MachineUid, ServerName
from bedplate.sim.things import SimCluster, SimDisk, SimDomain, SimPool, SimServer
from bedplate.sim.world import LIVE, Identity, World, identities

MANY = 0.3
"""Rule 6: so large a share may not be acted on without confirmation."""
WINDOW = 600.0
"""Seconds within which acts count together; the same in which no machine is balanced twice."""
ORDERED = 20.0
"""Seconds that a BMC takes at most from an order to cut a server's power until it is cut."""
LONGEST_DRAIN = 24 * 3600.0
"""Seconds; a drain that may last longer is not bounded (rule 7)."""


# --- one instant --------------------------------------------------------------------------------------------------


def check(world: World) -> list[str]:
    """Give a sentence for each rule that is broken right now, from the servers themselves and not from the books."""
    seen: dict[Identity, list[SimDomain]] = defaultdict(list)
    found: list[str] = []
    used: dict[ServerName, int] = defaultdict(int)
    for server in world.servers.values():
        for domain in server.domains.values():
            if domain.state not in LIVE:
                continue
            m = domain.hardware or domain.entry
            used[server.name] += m.memory_mib
            found += _without_disk(server, domain)
            for identity in identities(m):
                seen[identity].append(domain)
    for identity, domains in seen.items():
        found += _doubles(identity, domains)
    for name, mib in used.items():
        found += _memory(world.servers[name], mib)
    return found


def look(world: World, touched: Iterable[Key]) -> list[str]:
    """Give a sentence for each rule that is broken in what was touched."""
    found: list[str] = []
    for k in touched:
        if not k.startswith("domain/"):
            continue
        _, name, uid = k.split("/")
        server = world.servers[ServerName(name)]
        found += _memory(server, world.memory[server.name])
        for domain in world.live.get(MachineUid(uid), ()):
            found += _without_disk(world.servers[domain.server], domain)
            for identity in identities(domain.hardware or domain.entry):
                found += _doubles(identity, world.identities[identity])
    return found


def _without_disk(server: SimServer, domain: SimDomain) -> list[str]:
    there = domain.entry.uid in server.volumes
    return [] if there else [f"{domain.entry.name} runs on {server.name} without its disk"]


def _doubles(identity: Identity, domains: list[SimDomain]) -> list[str]:
    """No machine, address, MAC or name twice among what runs; with the same uid it is the same disk (rule 1)."""
    first = domains[0]
    return [
        f"{other.entry.name} on {other.server} and {first.entry.name} on {first.server} run with "
        f"the same {identity[0]} {identity[1]}"
        for other in domains[1:]
    ]


def _memory(server: SimServer, mib: int) -> list[str]:
    """Memory is never over-committed."""
    if mib <= server.memory_mib:
        return []
    return [f"{server.name} has {server.memory_mib} MiB and runs machines of {mib} MiB"]


# --- quorum and copies --------------------------------------------------------------------------------------------


def quorum_before(world: World, *uids: MachineUid) -> list[SimCluster]:
    """Clusters with a quorum now that count one of these machines among etcd's members."""
    up = {uid for uid in uids if world.up(uid)}
    clusters = {domain.entry.cluster for uid in up for domain in world.live[uid]}
    found = (world.clusters[c] for c in sorted(clusters) if c in world.clusters)
    return [c for c in found if not c.going and up & set(c.members.values()) and world.quorum(c)]


def quorum_after(world: World, clusters: list[SimCluster], what: str) -> None:
    """Write down each of these clusters that has lost its quorum by what was just done (rule 2)."""
    for cluster in clusters:
        if not world.quorum(cluster):
            world.violation("rule 2", f"{what} took the quorum of {cluster.key} ({', '.join(cluster.members)})")


def last_copy(world: World, uid: MachineUid) -> str:
    """Name the cluster whose last good copy lies on this machine's disk, where deleting it would lose it (rule 9)."""
    mine = world.disks.get(uid)
    cluster = world.clusters.get(mine.joined) if mine is not None and mine.joined else None
    if mine is None or cluster is None or not mine.member or not cluster.initialised or cluster.going:
        return ""
    members = set(cluster.members.values())
    others = (world.disks.get(u) for u in members - {uid})
    if uid in members and not any(v is not None and v.member and v.joined == cluster.key for v in others):
        return cluster.key
    return ""


def dropped_image(world: World, pool: SimPool, digest: Digest) -> None:
    """An image's file was deleted from a pool: no disk there, retained or not, may have lost what it stands on
    (rule 9), and no machine there what it boots from."""
    for server in world.servers.values():
        if server.pools.get(pool.name) is not pool:
            continue
        for kind, disks in (("disk", server.volumes), ("retained disk", server.retained)):
            for uid, volume in disks.items():
                if volume.pool is pool and digest in volume.images:
                    said = f"the {kind} of {uid} on {server.name} lost image file {digest} that it stands on"
                    world.violation("rule 9", said)
        for domain in server.domains.values():
            m = domain.hardware or domain.entry
            if m.disk_pool == pool.name and digest in m.image.pooled and domain.store == world.store:
                world.violation("order", f"{m.name} on {server.name} lost image file {digest} that it boots from")


# --- acts that are bounded ----------------------------------------------------------------------------------------


def _act(world: World, kind: str, what: str) -> list[str]:
    """Remember an act; give those of its kind within the window."""
    acts = world.acts[kind]
    acts.append((world.now, what))
    while acts[0][0] < world.now - WINDOW:
        del acts[0]
    return [a for _, a in acts]


def fencing(world: World, server: SimServer) -> list[SimCluster]:
    """A server's power is about to be cut by its BMC: many at a time whose guests run on is a blind observer's act.

    Gives the clusters whose quorum depends on it.
    """
    runs = [d for d in server.domains.values() if d.state in LIVE]
    if server.frozen != "all" and any(world.moves_on(d) for d in runs):
        fenced = set(_act(world, "fence", server.name))
        if len(fenced) > max(1, MANY * len(world.servers)) and not world.allow_many:
            said = f"{len(fenced)} of {len(world.servers)} servers whose guests ran were powered off within 10 min"
            world.violation("rule 6", f"{said}: {', '.join(sorted(fenced))}")
    if server.connected and world.now - server.linked < ORDERED:
        return []  # nobody heard of it when the order was given
    return quorum_before(world, *(d.entry.uid for d in runs if not _doomed(world, server, d)))


def _doomed(world: World, server: SimServer, domain: SimDomain) -> bool:
    """Its server can't renew the lease on its pool: it is ended within seconds, whoever does it. An order to power off
    that was given then is not taken back where the lease is renewed a moment later."""
    lease = server.leases.get((domain.hardware or domain.entry).disk_pool)
    return lease is not None and (not lease.renewing or world.now - lease.since < ORDERED)


def standing_in(world: World, m: MachineEntry) -> None:
    """A machine is made in place of another: where many of a cluster are replaced that are well, nobody looked."""
    cluster = world.clusters.get(m.cluster)
    if not m.replaces or cluster is None or cluster.allow_many or not world.up(m.replaces):
        return
    replaced = set(_act(world, f"replace/{cluster.key}", m.replaces))
    size = sum(1 for known, _ in world.nodes.values() if known is cluster) if len(replaced) > 1 else 1
    if len(replaced) > max(1, MANY * size):
        said = f"{len(replaced)} of {size} machines of {cluster.key} that are well were replaced within 10 min"
        world.violation("rule 6", said)


def marking(world: World, m: MachineEntry) -> None:
    """A node is marked as out of service: its pods start elsewhere, so its machine must not run."""
    for domain in world.live.get(m.uid, ()):
        if domain.kubelet:
            said = f"node {m.name} was marked out of service while its machine runs on {domain.server}"
            world.violation("rule 1", said)


def draining(world: World, m: MachineEntry) -> None:
    """A drain begins: it must be bounded (rule 7)."""
    if not 0.0 <= m.drain_timeout <= LONGEST_DRAIN:
        world.violation("rule 7", f"the drain of {m.name} may last {m.drain_timeout:.0f} s")


def moved(world: World, source: SimServer, m: MachineEntry) -> None:
    """A machine was moved: not twice in ten minutes, unless its server has to be emptied."""
    times = _act(world, f"move/{m.uid}", source.name)
    ill = source.maintenance or bool({source.bmc.health, source.ails} & {"warning", "critical"}) or bool(source.error)
    if len(times) > 1 and not ill:
        said = f"{m.name} was moved {len(times)} times within 10 min: from {', '.join(times)}"
        world.violation("ping-pong", said)


def journalled(world: World, known: bool, what: str) -> None:
    """A step is handed out: it must be in the journal (rule 4)."""
    if not known:
        world.violation("rule 4", f"{what} was begun and is not in the journal")


def overwriting(world: World, server: SimServer, disk: SimDisk) -> None:
    """A bare server's disk is about to lose what is on it: nobody may use it, a person has released it (rule 3)."""
    assert server.bare is not None
    if not server.bare.accepted:
        world.violation("rule 3", f"disk {disk.serial} of {server.name} is overwritten, which nobody accepted")
    m = disk.machine
    if m is None:
        _held(world, server, disk)
        return
    found = world.nodes.get(m.uid)
    given_up = found is None or found[0].going or m.uid in found[0].taken_out
    if found is not None and not given_up and disk.whole:
        world.violation("rule 3", f"disk {disk.serial} of {m.name}, a node of {found[0].key}, is overwritten")


def _held(world: World, server: SimServer, disk: SimDisk) -> None:
    """What a hypervisor's own pools hold of its controllers' machines is to have left (rules 3 and 9)."""
    if disk.host is None or not disk.whole:
        return
    for uid, volume in [*server.volumes.items(), *server.retained.items()]:
        if volume.store == world.store and not volume.pool.shared:
            said = f"disk {disk.serial} of {server.name} is overwritten with the disk of {uid} on it"
            world.violation("rule 3", said)


# --- what is left -------------------------------------------------------------------------------------------------


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
