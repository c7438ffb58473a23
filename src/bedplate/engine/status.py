"""Status of each kind as a pure function of what the engine knows: the truth for programs, a phase for eyes."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from bedplate.engine import status_metal
from bedplate.engine.wanted import is_node_of
from bedplate.model.blueprint import ClusterEntry, MachineEntry, RetainedDiskEntry
from bedplate.model.ids import Key, ServerName, cluster_key, key
from bedplate.model.inventory import DomainView, ServerView
from bedplate.model.kinds.base import Status
from bedplate.model.kinds.cluster import (
    Cluster,
    ClusterStatus,
    Machine,
    MachineSpec,
    MachineStatus,
    NodePool,
    NodePoolStatus,
)
from bedplate.model.kinds.control import RetainedDisk, RetainedDiskSpec
from bedplate.model.kinds.fleet import FleetPolicy
from bedplate.model.kinds.infrastructure import (
    DiskPool,
    DiskPoolStatus,
    Network,
    NetworkStatus,
    PoolStatus,
    Server,
    ServerStatus,
)
from bedplate.model.kinds.virtual_machine import RunStrategy, VirtualMachine, VirtualMachineStatus
from bedplate.model.lifecycle import Phase, phase_of
from bedplate.model.meta import Condition, ObjectMeta
from bedplate.model.quantity import format_mib, rough_mib
from bedplate.model.report import Waiting, still_there
from bedplate.model.spec import object_key
from bedplate.model.times import timestamp
from bedplate.model.whereabouts import domain_of, role_of

if TYPE_CHECKING:
    from bedplate.engine.engine import Engine

CLUSTER_LABEL = "bedplate.dev/cluster"
POOL_LABEL = "bedplate.dev/pool"
ROLE_LABEL = "bedplate.dev/role"
AGENT_AWAY = "its agent is not connected"


def _ready(ok: bool, reason: str, message: str, generation: int) -> tuple[Condition, ...]:
    return (
        Condition(
            type="Ready",
            status="True" if ok else "False",
            reason=reason,
            message=message,
            observed_generation=generation,
        ),
    )


def _entries(engine: Engine, owner: Key) -> list[MachineEntry]:
    found = (engine.blueprint.entries[k] for k in sorted(engine.index.by_owner.get(owner, ())))
    return [e for e in found if isinstance(e, MachineEntry)]


def _domain(engine: Engine, m: MachineEntry) -> DomainView | None:
    seen = domain_of(engine.inventory.inventory, m)
    return None if seen is None else seen.value


def machine_phase(engine: Engine, m: MachineEntry) -> Phase:
    """Where a machine is in its life."""
    phases = engine.tally.phases
    known = phases.get(m.key)
    if known is None or known[0] is not m:
        known = phases[m.key] = (m, _phase(engine, m))
    return known[1]


def _phase(engine: Engine, m: MachineEntry) -> Phase:
    node = engine.inventory.inventory.node(m.cluster, m.name) if m.is_node else None
    mine = node if is_node_of(node, m) else None
    lost = engine.blueprint.server(m.server)
    if lost is not None and lost.standing == "dead" and m.desired in {"run", "manual"}:
        return Phase.DOWN  # what was seen of it before says nothing any more
    failing = any(a.count >= 2 for a in engine.attempts.by_target.get(m.key, {}).values())
    return phase_of(
        m,
        _domain(engine, m),
        node_ready=None if mine is None else mine.value.ready,
        preparing=engine.flight.on(m.key) is None and _domain(engine, m) is None,
        failing=failing,
    )


def _what_now(engine: Engine, k: Key) -> tuple[str, str, str]:
    """Give the running step, and the reason and sentence of what is waited on (empty where nothing is)."""
    running = engine.flight.on(k)
    if running is not None:
        return running.step.name, "StepRunning", f"{running.step.name}: {running.reason}"
    waiting = engine.waiting.get(k)
    if waiting is not None:
        return "", waiting.reason.value, waiting.sentence
    upcoming = engine.next.get(k)
    if upcoming is not None and upcoming.waiting is not None:
        return "", upcoming.waiting.value, upcoming.reason
    if upcoming is not None and upcoming.step is not None:
        return upcoming.step.name, "StepRunning", f"{upcoming.step.name}: {upcoming.reason}"
    return "", "", ""


def machine(engine: Engine, m: MachineEntry) -> Machine:
    """The derived Machine of a node's entry."""
    phase = machine_phase(engine, m)
    step, reason, sentence = _what_now(engine, m.key)
    ready = phase is Phase.READY
    message = "its node is Ready" if ready else sentence
    failure = _last_failure(engine, m.key, key("image", m.disk_pool, m.server, m.image.disk))
    if not ready and failure and failure not in message:
        message = f"{message}; last failure: {failure}" if message else failure
    domain = _domain(engine, m)
    if not ready and domain is not None and domain.detail and domain.detail not in message:
        message = f"{message}: {domain.detail}" if message else domain.detail
    pool = m.owner.split("/")[-1] if m.role == "worker" else ""
    owner_kind = "NodePool" if m.role == "worker" else "Cluster"
    labels = {CLUSTER_LABEL: m.cluster.split("/")[-1], ROLE_LABEL: m.role} | ({POOL_LABEL: pool} if pool else {})
    return Machine(
        metadata=ObjectMeta(name=m.name, namespace=m.namespace, uid=m.uid, labels=labels),
        spec=MachineSpec(
            cluster=m.cluster.split("/")[-1],
            pool=pool or owner_kind.lower(),
            role="control-plane" if m.role == "control-plane" else "worker",
            substrate=m.substrate,
            server=m.server,
            address=m.nic.address,
            cpu=m.cpu,
            memory=format_mib(m.memory_mib),
            image=m.image.name,
            version=m.version,
        ),
        status=MachineStatus(
            observed_generation=m.generation,
            phase=phase.value,
            conditions=_ready(ready, "NodeReady" if ready else reason or phase.value, message, m.generation),
            node_name=m.name if phase in {Phase.READY, Phase.DRAINING} else "",
            boots=m.boot,
            step=step,
        ),
    )


def _last_failure(engine: Engine, *keys: Key) -> str:
    histories = (a for k in keys for a in engine.attempts.by_target.get(k, {}).values())
    failures = [a for a in histories if a.count and a.last_error]
    return max(failures, key=lambda a: a.last).last_error if failures else ""


def retained_disk(r: RetainedDiskEntry) -> RetainedDisk:
    """The derived RetainedDisk of its entry."""
    return RetainedDisk(
        metadata=ObjectMeta(name=r.name, namespace=r.namespace),
        spec=RetainedDiskSpec(
            machine=r.name,
            machine_uid=r.uid,
            server=r.server,
            disk_pool=r.disk_pool,
            volume=f"retained/{r.uid}/disk.qcow2",
            reason=r.reason,
            expires=timestamp(r.expires) if r.expires else None,
        ),
    )


def cluster(engine: Engine, c: Cluster) -> ClusterStatus:
    """A cluster is Ready when its API answers and every control-plane machine and every pool is as declared."""
    k = object_key(c)
    ck = cluster_key(c.metadata.namespace, c.metadata.name)
    entry = engine.blueprint.entries.get(k)
    count = engine.tally.of_cluster(k)
    machines, ready, planes = count["machines"], count["ready"], count["planes"]
    planes_ready = count["planes ready"]
    observed = engine.inventory.inventory.cluster(ck)
    api = observed is not None and observed.value.api
    pools = engine.spec.pools_of.get(ck, {}).values()
    wanted = c.spec.control_plane.replicas + sum(p.spec.replicas for p in pools)
    _, reason, sentence = _what_now(engine, k)
    whole = planes_ready == c.spec.control_plane.replicas == planes
    complete = api and ready >= wanted and whole and k not in engine.waiting
    if c.metadata.deletion_timestamp:
        phase, reason = "Deleting", "Deleting"
        message = f"{machines} machines are still going"
    elif complete:
        phase, reason, message = "Ready", "AllNodesReady", f"{ready} of {wanted} nodes are Ready"
    else:
        phase = "Provisioning" if not api else "Scaling"
        message = sentence or f"{ready} of {wanted} nodes are Ready"
        reason = reason or "NodesNotReady"
    present = isinstance(entry, ClusterEntry)
    return ClusterStatus(
        observed_generation=c.metadata.generation,
        phase=phase,
        conditions=(
            *_ready(complete and not c.metadata.deletion_timestamp, reason, message, c.metadata.generation),
            Condition(
                type="ControlPlaneAvailable",
                status="True" if api else "False",
                reason="APIAnswers" if api else "APIDoesNotAnswer",
                observed_generation=c.metadata.generation,
            ),
        ),
        version=entry.version if present else c.status.version,
        endpoint=f"{entry.endpoint}:{entry.port}" if present and entry.endpoint else c.status.endpoint,
        control_plane_replicas=planes,
        control_plane_ready=planes_ready,
        nodes=machines,
        nodes_ready=ready,
    )


def node_pool(engine: Engine, p: NodePool) -> NodePoolStatus:
    """A pool is Ready when it has as many Ready nodes as declared and none that is to go."""
    k = object_key(p)
    count = engine.tally.of_owner(k)
    machines, running, ready = count["machines"], count["run"], count["run ready"]
    complete = ready == p.spec.replicas == machines and k not in engine.waiting
    _, reason, sentence = _what_now(engine, k)
    message = sentence or f"{ready} of {p.spec.replicas} nodes are Ready"
    leaving = machines - running
    if not sentence and leaving and ready == p.spec.replicas:
        reason, message = reason or "MachinesGoing", f"{message}; {leaving} given up and not gone yet"
    entry = engine.blueprint.cluster(cluster_key(p.metadata.namespace, p.spec.cluster))
    return NodePoolStatus(
        observed_generation=p.metadata.generation,
        phase="Ready" if complete else "Scaling",
        conditions=_ready(complete, "AllNodesReady" if complete else reason or "NodesNotReady", message,
                          p.metadata.generation),
        replicas=machines,
        ready_replicas=ready,
        updated_replicas=running,
        selector=f"{POOL_LABEL}={p.metadata.name}",
        version=entry.version if entry is not None else "",
    )  # fmt: skip


_UP = frozenset({Phase.READY, Phase.RUNNING})
_OFF = frozenset({Phase.STOPPED})
_AS_WANTED: dict[RunStrategy, frozenset[Phase]] = {
    "Always": _UP,
    "RerunOnFailure": _UP | _OFF,
    "Manual": _UP | _OFF,
    "Halted": _OFF,
}


def virtual_machine(engine: Engine, v: VirtualMachine) -> VirtualMachineStatus:
    """A user's VM is Ready when it is as its run strategy wants it."""
    machines = _entries(engine, object_key(v))
    generation = v.metadata.generation
    if not machines:
        _, reason, sentence = _what_now(engine, object_key(v))
        return VirtualMachineStatus(
            observed_generation=generation,
            phase="Pending",
            conditions=_ready(False, reason or "Pending", sentence, generation),
        )
    m = machines[0]
    phase = machine_phase(engine, m)
    step, reason, sentence = _what_now(engine, m.key)
    domain = _domain(engine, m)
    rests = v.spec.run_strategy == "RerunOnFailure" and phase is Phase.DOWN
    if rests and domain is not None and domain.state == "shutoff":
        phase, reason, sentence = Phase.STOPPED, "", "its guest has powered off"
    lost = engine.blueprint.server(m.server)
    if lost is not None:  # what was seen there last says nothing of now
        reason, sentence = reason or "ServerNotConnected", sentence or f"server {m.server} is not heard of"
    ready = phase in _AS_WANTED[v.spec.run_strategy] and lost is None
    return VirtualMachineStatus(
        observed_generation=generation,
        phase=phase.value,
        conditions=_ready(ready, phase.value if ready else reason or phase.value, sentence, generation),
        server=m.server,
        address=m.nic.address,
        domain_state=domain.state if domain is not None else "",
        boots=m.boot,
        step=step,
    )


_STANDING_PHASES = {"suspect": "Suspect", "fence": "Fencing", "dead": "Dead"}


def server_conditions(engine: Engine, s: Server, view: ServerView, machines: int) -> tuple[str, tuple[Condition, ...]]:
    """A server's phase and conditions: is its agent there, is it empty for maintenance, is its hardware well."""
    k, generation = object_key(s), s.metadata.generation
    ok = view.connected and not view.error
    message = view.error or ("" if view.connected else AGENT_AWAY)
    waiting = engine.waiting.get(k)
    reason = "AgentConnected" if ok else "AgentNotConnected"
    phase = "Ready" if ok else "NotReady"
    lost = engine.blueprint.server(view.server)
    if lost is not None:
        phase = _STANDING_PHASES[lost.standing]
        ok, reason = False, waiting.reason.value if waiting is not None else phase
        said = waiting.sentence if waiting is not None else lost.reason
        message = f"{view.error}; {said}" if view.error and view.error != AGENT_AWAY else said
        if view.error and AGENT_AWAY not in view.error:
            message = f"{view.error}; {message}"
    bare = engine.blueprint.metal(view.server)
    hosts = bare is not None and bare.host is not None and bare.state == "deployed" and role_of(s, bare) == "hypervisor"
    if lost is None and (bare is not None or _is_bare(s, view)) and not hosts:
        phase, ready = status_metal.conditions(engine, s, bare)
        found = [ready]
    else:
        found = list(_ready(ok, reason, message, generation))
    if s.spec.maintenance is not None:
        empty = machines == 0
        said = "no machine is left on it" if empty else still_there(machines)
        if waiting is not None and not empty:
            said = waiting.sentence
        phase = phase if not ok else "Maintenance" if empty else "Emptying"
        found.append(
            Condition(
                type="Empty",
                status="True" if empty else "False",
                reason="NothingRuns" if empty else waiting.reason.value if waiting is not None else "Emptying",
                message=said,
                observed_generation=generation,
            )
        )
    bmc = engine.inventory.inventory.bmc(view.server)
    said = (bmc.value.health if bmc is not None else "", view.health)
    if any(said):
        worst = next(h for h in ("critical", "warning", "ok") if h in said)
        problems = (*(bmc.value.problems if bmc is not None else ()), *view.problems)
        found.append(
            Condition(
                type="HardwareHealthy",
                status="True" if worst == "ok" else "False",
                reason=worst.capitalize(),
                message="; ".join(problems),
                observed_generation=generation,
            )
        )
    return phase, tuple(found)


def _is_bare(s: Server, view: ServerView) -> bool:
    """It is declared as a bare server: nothing of a hypervisor was ever seen on it."""
    return s.spec.bmc is not None and s.spec.role != "hypervisor" and not view.host_uuid


def server(engine: Engine, s: Server) -> ServerStatus:
    """A server is Ready when its agent is connected and libvirt answers."""
    name = ServerName(s.metadata.name)
    observed = engine.inventory.inventory.server(name)
    view = observed.value if observed is not None else ServerView(server=name, connected=False)
    machines = [engine.blueprint.entries[k] for k in engine.index.by_server.get(name, ())]
    entries = [e for e in machines if isinstance(e, MachineEntry)]
    phase, conditions = server_conditions(engine, s, view, len(entries))
    bare = engine.blueprint.metal(name)
    metal = None
    if bare is not None:
        judged = status_metal.firmware(engine, bare)
        conditions += status_metal.more_conditions(engine, s, bare, judged)
        metal = status_metal.metal(engine, s, bare, judged)
    bmc = engine.inventory.inventory.bmc(name)
    return ServerStatus(
        observed_generation=s.metadata.generation,
        phase=phase,
        conditions=conditions,
        power=bmc.value.power if bmc is not None and bmc.value.reachable else "",
        bmc=status_metal.described(bmc.value.described) if bmc is not None and bmc.value.described else None,
        host_uuid=view.host_uuid,
        address=view.address,
        agent_version=view.agent_version,
        cpus=view.cpus,
        memory=format_mib(view.memory_mib) if view.memory_mib else "",
        allocated_cpus=sum(e.cpu for e in entries),
        allocated_memory=format_mib(sum(e.memory_mib for e in entries)),
        accelerator=view.accelerator,
        cpu=view.cpu,
        cpu_models=view.cpu_models,
        machines=len(entries),
        disk_pools=tuple(
            PoolStatus(name=p.name, capacity=format_mib(p.capacity_mib), free=rough_mib(p.free_mib)) for p in view.pools
        ),
        bridges=view.bridges,
        metal=metal,
    )


def fleet_policy(engine: Engine, f: FleetPolicy) -> Status:
    """Whether the load is even, and which moves would make it so."""
    waiting = engine.waiting.get(object_key(f))
    even = waiting is None or waiting.reason is Waiting.BALANCED
    condition = Condition(
        type="Balanced",
        status="True" if even else "False",
        reason=waiting.reason.value if waiting is not None else "NotLookedAt",
        message=waiting.sentence if waiting is not None else "",
        observed_generation=f.metadata.generation,
    )
    phase = "Paused" if f.spec.paused else "Active"
    return Status(observed_generation=f.metadata.generation, phase=phase, conditions=(condition,))


def network(engine: Engine, n: Network) -> NetworkStatus:
    """How many of the network's machine addresses are taken."""
    used = engine.index.on_network[n.metadata.name]
    total = sum(int(ip_address(r.last)) - int(ip_address(r.first)) + 1 for r in n.spec.ranges)
    return NetworkStatus(
        observed_generation=n.metadata.generation, phase="Ready", addresses_total=total, addresses_used=used
    )


def disk_pool(engine: Engine, d: DiskPool) -> DiskPoolStatus:
    """Capacity and free space: of a shared pool once, of local pools in all."""
    servers, shown = engine.spec.spec.servers, engine.inventory.pools.get(d.metadata.name, {})
    if d.spec.type == "shared":
        views = [shown[k] for k in [next((k for k in servers if k in shown), None)] if k is not None]
    else:
        views = [pool for k, pool in shown.items() if k in servers]
    return DiskPoolStatus(
        observed_generation=d.metadata.generation,
        phase="Ready" if views else "Pending",
        capacity=format_mib(sum(v.capacity_mib for v in views)) if views else "",
        free=rough_mib(sum(v.free_mib for v in views)) if views else "",
        retained=engine.index.retained[d.metadata.name],
    )


def nothing_left(engine: Engine, k: Key) -> bool:
    """True when a deleted object has nothing in the blueprint any more."""
    if engine.index.by_owner.get(k):
        return False
    kind, *rest = k.split("/")
    if kind == "cluster":
        ck = "/".join(rest)
        return k not in engine.blueprint.entries and not engine.index.by_cluster.get(ck, set()) - {key("cluster", ck)}  # type: ignore[arg-type]
    return True
