"""The planning report of one object in sentences: why it is there, why it is not yet, what it waits on."""

from __future__ import annotations

from typing import Any

from bedplate.engine import status_metal
from bedplate.engine.engine import Engine
from bedplate.engine.status import AGENT_AWAY, machine_phase, timestamp
from bedplate.model.blueprint import ClusterEntry, MachineEntry, MetalEntry
from bedplate.model.firmware import unsupported
from bedplate.model.ids import Key, ServerName, key
from bedplate.model.report import Rejection
from bedplate.planner import peers

_REFUSED = {
    Rejection.NOT_HYPERVISOR: "is no hypervisor",
    Rejection.UNSCHEDULABLE: "is marked unschedulable",
    Rejection.NOT_CONNECTED: "has no connected agent",
    Rejection.NO_MATCH: "lacks a label that the machine asks for",
    Rejection.CPU_MODEL: "has a CPU that its guest could not go on with, or not the level that is asked for",
    Rejection.NO_MEMORY: "has not enough free memory",
    Rejection.NO_CPU: "has not enough free CPUs",
    Rejection.NO_DISK: "has not enough free disk space",
    Rejection.NO_NETWORK: "does not reach the network",
    Rejection.NO_POOL: "does not reach the disk pool",
    Rejection.SAME_SERVER: "already runs a machine that this one must be kept apart from",
    Rejection.SAME_DOMAIN: "is in a failure domain that already has one",
    Rejection.MAINTENANCE: "is in maintenance",
    Rejection.UNHEALTHY: "has hardware that is failing",
    Rejection.NOT_AVAILABLE: "is not available: `bedplate get servers` shows what it is at",
    Rejection.NO_ROOT_DISK: "has no disk that is large enough, well, told apart by its serial number and as asked for",
    Rejection.DEGRADED: "has a test well behind its peers', and spec.metal.claimDegraded of the FleetPolicy is false",
    Rejection.AFFINITY: "is not where those are that this one must be with",
    Rejection.BUSY: "has enough machines coming or going right now, or is where it is",
}
_STANDING = {
    "suspect": "it is suspect",
    "fence": "it is fenced: its power is to be off before anything of it starts elsewhere",
    "dead": "its end is confirmed, so what ran on it may run elsewhere",
}


def why(engine: Engine, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
    """Explain an object; None where neither spec nor blueprint knows it.

    Gives `{"object", "sentences": [...], "machines": [{"name", "sentences"}], "servers": {server: reason}}`.
    """
    k = _key(engine, kind, namespace, name)
    if k is None:
        return None
    sentences = list(_about(engine, k))
    if engine.idle is not None:
        sentences.insert(0, engine.idle)
    machines = [
        {"name": m.name, "sentences": list(_about(engine, m.key))}
        for m in _machines(engine, k)
        if kind.lower() != "machine"
    ]
    for m in machines:
        if not m["sentences"]:
            m["sentences"] = ["is as declared"]
    return {
        "object": f"{kind.lower()}/{name}",
        "sentences": sentences or ["is as declared"],
        "machines": machines,
        "servers": _servers(engine, k),
    }


def _key(engine: Engine, kind: str, namespace: str, name: str) -> Key | None:
    if kind.lower() == "machine":
        found = (m.key for m in engine.blueprint.machines() if (m.namespace, m.name) == (namespace, name))
        return next(found, None)
    spec = engine.spec.spec
    known = (
        spec.servers,
        spec.networks,
        spec.disk_pools,
        spec.images,
        spec.releases,
        spec.clusters,
        spec.node_pools,
        spec.virtual_machines,
        spec.fleet_policies,
        spec.compatibility_matrices,
    )
    k = key(kind.lower(), namespace, name) if namespace else key(kind.lower(), name)
    return k if any(k in objects for objects in known) else None


def _machines(engine: Engine, k: Key) -> list[MachineEntry]:
    kind = k.split("/", 1)[0]
    if kind == "server":
        keys = engine.index.by_server.get(k.split("/", 1)[1], set())  # type: ignore[arg-type]
    elif kind == "cluster":
        keys = engine.index.by_cluster.get(k.split("/", 1)[1], set())  # type: ignore[arg-type]
    else:
        keys = engine.index.by_owner.get(k, set())
    entries = (engine.blueprint.entries.get(x) for x in sorted(keys))
    return sorted((e for e in entries if isinstance(e, MachineEntry)), key=lambda m: m.name)


def _about(engine: Engine, k: Key) -> list[str]:
    out: list[str] = []
    entry = engine.blueprint.entries.get(k)
    if isinstance(entry, MachineEntry):
        out.append(f"is {machine_phase(engine, entry).value} on server {entry.server}, address {entry.nic.address}")
        if entry.reason:
            out.append(f"it is planned because {entry.reason}")
    elif isinstance(entry, ClusterEntry):
        out.append(f"has Kubernetes {entry.version} and the address {entry.endpoint}:{entry.port}")
    elif k.startswith("server/"):
        out.extend(_about_server(engine, ServerName(k.partition("/")[2])))
        out.extend(_about(engine, key("metal", k.partition("/")[2])))
    elif isinstance(entry, MetalEntry):
        out.append(f"is a bare server, {entry.state} since {timestamp(entry.since)}, because {entry.reason}")
        declared = engine.spec.spec.servers.get(key("server", entry.server))
        if declared is not None and declared.spec.role == "auto":
            since = f" since {timestamp(entry.role_since)}" if entry.role_since else ""
            out.append(f"its role is left to the fleet's policy, which has it be {entry.role}{since}")
        out.extend(f"its test {t.name} is degraded: {t.detail}" for t in peers.degraded(entry.tests))
        wrong = unsupported(status_metal.firmware(engine, entry))
        out.extend(f"its firmware is not supported: {j.sentence()}" for j in wrong)
        if said := status_metal.another(engine, entry):
            out.append(said)
        out.extend(f"it is not as deployed: {change}" for change in status_metal.drifted(engine, entry) or ())
    for running in engine.flight.all_on(k):
        out.append(f"{running.step.name} is running (try {running.attempt}), because {running.reason}")
    upcoming = engine.next.get(k)
    if upcoming is not None and upcoming.waiting is not None:
        out.append(f"waits: {upcoming.reason}")
    waiting = engine.waiting.get(k)
    if waiting is not None:
        out.append(f"waits: {waiting.sentence}")
        counts = sorted(waiting.rejections.items(), key=lambda item: -item[1])
        out.extend(f"{_servers_text(count)} refused: {_REFUSED[reason]}" for reason, count in counts)
    for step, history in sorted(engine.attempts.by_target.get(k, {}).items()):
        if history.count:
            out.append(f"{step} failed {history.count} times in a row, last: {history.last_error}")
    return out


def _about_server(engine: Engine, name: ServerName) -> list[str]:
    bare = engine.blueprint.metal(name)
    out = _about_agent(engine, name) if bare is None or bare.state == "deployed" else []
    lost = engine.blueprint.server(name)
    if lost is not None:
        how = "its leases and its watchdog's time" if lost.by == "lease" else "its power, read back as off"
        at = f" at {timestamp(lost.confirmed)} by {how}" if lost.confirmed else ""
        out.append(f"{_STANDING[lost.standing]}{at}; evidence: {lost.reason}")
    declared = engine.spec.spec.servers.get(key("server", name))
    if declared is not None and declared.spec.maintenance is not None:
        until = f" until {declared.spec.maintenance.until}" if declared.spec.maintenance.until else ""
        out.append(f"it is in maintenance{until}: {declared.spec.maintenance.reason or 'no reason was given'}")
    bmc = engine.inventory.inventory.bmc(name)
    if bmc is not None and not bmc.value.reachable:
        out.append(f"its BMC is not reached: {bmc.value.error}")
    elif bmc is not None and bmc.value.problems:
        out.append(f"its BMC says: {'; '.join(bmc.value.problems)}")
    seen = engine.inventory.inventory.server(name)
    if seen is not None and seen.value.problems:
        out.append(f"it says itself: {'; '.join(seen.value.problems)}")
    return out


def _about_agent(engine: Engine, name: ServerName) -> list[str]:
    seen = engine.inventory.inventory.server(name)
    if seen is None or seen.source == "engine":
        return [
            "its agent has not connected since this controller started: start the agent on the server, "
            f"or enrol it with `bedplate server enrol {name}`"
        ]
    view = seen.value
    if view.connected:
        return [f"its agent is connected, but: {view.error}"] if view.error else []
    if view.error and view.error != AGENT_AWAY:
        return [f"its agent may not connect: {view.error}"]
    return [
        f"{AGENT_AWAY} since {timestamp(seen.time)}: see whether it runs on the server and reaches the "
        "controller's port for agents"
    ]


def _servers_text(count: int) -> str:
    return "1 server" if count == 1 else f"{count} servers"


def _servers(engine: Engine, k: Key) -> dict[str, str]:
    waiting = engine.waiting.get(k)
    return {} if waiting is None else {s: _REFUSED[r] for s, r in sorted(waiting.servers.items())}
