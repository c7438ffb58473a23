"""The end of a story of faults: all of them are mended, people do their part, and what is left must say why.

Liveness is judged here: everything becomes Ready again, or says on what it waits for a person.
"""

from __future__ import annotations

from bedplate.model.blueprint import MetalEntry
from bedplate.model.ids import Key, key
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.policy import ALLOW_MANY, PAUSED, REQUESTS
from bedplate.model.report import Waiting
from bedplate.model.spec import object_key
from bedplate.model.times import timestamp
from bedplate.sim.scenario.editing import annotate
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story
from bedplate.sim.things import SimBmc

FOR_A_PERSON = frozenset({Waiting.LAST_COPY, Waiting.UNCONFIRMED})
"""What only a person can decide once nothing is broken any more: whether the last copy of something is given up."""
HELP_EVERY = 1200.0
"""Seconds between two looks of a person at what waits for one."""
HELPS = 12


def mend(sim: Simulator) -> None:
    """End every fault now: power, networks, disks, BMCs, hangs; no maintenance, no pause, a controller leads."""
    sim.say("world", "all is mended")
    for label, value in sorted(sim.world.dark):
        sim.restore_power(label, value, switch_on=False)
    for server in sim.world.servers.values():
        server.broken, server.error, server.ails = False, "", ""
        server.bmc = SimBmc()
        if server.bare is not None:
            server.bare.mend()
        for pool in server.pools.values():
            pool.full, pool.gone, pool.slow = False, False, 1.0
        if server.powered and (server.frozen or not server.agent):
            sim.reboot(server.name)  # whoever finds it like that presses the button
        sim.power_on(server.name)
        server.storage = server.guests = True
        sim.heal(server.name)
        sim.world.touch_server(server)
        sim.world.touch_guests(server)
    for cluster in list(sim.world.clusters.values()):
        sim.start_api(cluster.key)
    for domain in (d for domains in sim.world.live.values() for d in domains):
        domain.kubelet_broken = False
    sim.world.move_faults.clear()
    sim.world.failing_joins.clear()
    _people(sim)
    if not sim.led():
        sim.start_controller()
    sim.touched()
    for n in range(1, HELPS + 1):
        sim.after(n * HELP_EVERY, lambda: help_out(sim))


def _people(sim: Simulator) -> None:
    for k, obj in list(sim.store.objects.items()):
        if PAUSED in obj.metadata.annotations:
            annotate(sim, k, PAUSED, None)
        if isinstance(obj, Server) and obj.spec.maintenance is not None:
            sim.unmaintain(obj.metadata.name)
    if sim.store.spec().fleet.paused:
        sim.resume()


def help_out(sim: Simulator) -> None:
    """A person does what only a person may: confirms what waits for that, lets paused guests go on."""
    if not sim.controller.alive:
        return
    asked = {w.key for w in sim.engine.waiting.values() if w.reason is Waiting.ACCEPTANCE}
    if any(k.startswith("server/") for k in asked):
        sim.fleet_policy(allow_many=True)
    for k, obj in list(sim.store.objects.items()):
        if isinstance(obj, Cluster) and any(_concerns(sim, k, a) for a in asked):
            annotate(sim, k, ALLOW_MANY, "true")
    for entry in sim.store.blueprint.entries.values():
        if isinstance(entry, MetalEntry) and entry.state == "quarantined":
            annotate(sim, key("server", entry.server), REQUESTS["erase"], timestamp(sim.now))
    for server in sim.world.servers.values():
        sim.power_on(server.name)  # one that was fenced stays off until somebody has looked at it
    for domains in list(sim.world.live.values()):
        for domain in domains:
            if domain.state == "paused":
                sim.world.pause(domain, resume=True)
                sim.touched()


def _concerns(sim: Simulator, cluster: Key, asked: Key) -> bool:
    m = sim.store.blueprint.entries.get(asked)
    return asked == cluster or (m is not None and f"cluster/{getattr(m, 'cluster', '')}" == cluster)


def stuck(sim: Simulator) -> list[str]:
    """What is not as it should be and does not wait for a person, one sentence each; empty: all is well."""
    if not sim.controller.alive:
        return ["no controller leads"]
    story, engine = Story(sim), sim.engine
    found: list[str] = []
    by_key = {object_key(o): o for o in story.workload()}
    for said in story.unready():
        obj = by_key[Key(said.partition(":")[0])]
        owners = {object_key(obj)}
        if isinstance(obj, Cluster):
            owners |= {
                object_key(p)
                for p in story.workload()
                if isinstance(p, NodePool) and p.spec.cluster == obj.metadata.name
            }
        machines = [m for m in engine.blueprint.machines() if m.owner in owners]
        reasons = {w.reason for k in (*owners, *(m.key for m in machines)) if (w := engine.waiting.get(k)) is not None}
        if not reasons & FOR_A_PERSON:
            found.append(said)
    return found + _orphans(sim)


def _orphans(sim: Simulator) -> list[str]:
    """What runs or lies on a disk and is in no plan. A bare definition on a server that was dead when its machine was
    given up does no harm and is not looked for."""
    planned = {m.uid for m in sim.store.blueprint.machines()}
    found: list[str] = []
    for server in sim.world.servers.values():
        for uid in sorted({*server.domains, *server.volumes} - planned):
            # What is left on a bare server's disks goes when it is written or erased next.
            kept = uid in server.volumes and (server.bare is None or server.bare.system == "hypervisor")
            if kept or uid in sim.world.live:
                found.append(f"an orphan: {uid} on {server.name}")
    for cluster in sim.world.clusters.values():
        found += [f"an orphan: Node {n.name} of {cluster.key}" for n in cluster.nodes.values() if n.uid not in planned]
    return found
