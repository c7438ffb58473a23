"""How many nodes and servers a fleet's workloads need on a substrate. Pure; the same in any order of input.

Kubernetes schedules by requests, so nodes are packed by requests. VMs are packed onto hypervisors by memory, which is
never over-committed, and by virtual CPUs within the over-commitment; their peaks must fit the real CPUs. As the planner
gives each VM the least allocated server, large ones may find only crumbs on servers that would hold them if they were
filled one by one: there are as many hypervisors as that placement needs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bedplate.advise import literature
from bedplate.advise.fleet import ClusterProfile, Profile, ServerModel, Substrate, Workload, cpu_overhead
from bedplate.model.kinds.infrastructure import Reservation
from bedplate.model.quantity import parse_mib

Assignment = Mapping[tuple[str, str], Substrate]
"""Cluster and workload to where it runs."""

MAX_PODS = 110
"""Of a node: the kubelet's default."""
EVICTION_MIB = 100
"""Memory that a kubelet keeps free: its default for hard eviction."""
LEAST_NODES = 2
"""Of a pool whose work has more than one replica: one server's failure must not take all of it."""
_RESERVED = Reservation()
AS_GOOD = 1.05
"""A shape of VM that takes this much more memory than the best one is as good."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Workers of one cluster on one substrate: they are a NodePool."""

    cluster: str
    substrate: Substrate
    workloads: tuple[str, ...]
    nodes: int
    cpu: int
    """Of each node."""
    memory_mib: int
    """Of each node."""
    model: str = ""
    """On metal: which servers."""
    requested: float = 0.0
    """Cores that its workloads request."""
    requested_mib: int = 0
    used: float = 0.0
    """Cores that they use on average."""
    peak: float = 0.0

    @property
    def name(self) -> str:
        """Of the pool within its cluster."""
        return self.substrate


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed for all."""

    groups: tuple[Group, ...]
    planes: int
    """Machines of control planes; they are VMs always."""
    hypervisors: dict[str, int]
    """Of each model, the spare ones among them."""
    metal: dict[str, int]
    """Of each model, without the spare ones."""
    metal_spares: dict[str, int]
    shortage: dict[str, int]
    """Servers of each model that are needed beyond those there are."""
    impossible: tuple[str, ...] = ()
    """Workloads that no server holds."""

    @property
    def servers(self) -> dict[str, int]:
        """All, by model."""
        found: dict[str, int] = {}
        for part in (self.hypervisors, self.metal, self.metal_spares):
            for name, count in part.items():
                found[name] = found.get(name, 0) + count
        return {k: v for k, v in found.items() if v}

    @property
    def count(self) -> int:
        """All servers."""
        return sum(self.servers.values())

    @property
    def nodes(self) -> int:
        """All workers."""
        return sum(g.nodes for g in self.groups)


# --- nodes --------------------------------------------------------------------------------------------------------


class _Bin(msgspec.Struct):
    """Equal nodes, and what is free on each."""

    cpu: float
    memory: float
    pods: int
    count: int


def nodes_for(work: Iterable[Workload], cpu: float, memory_mib: float) -> int:
    """How many nodes of that size hold the work: first fit, the largest first.

    Raises:
        ValueError: one replica is larger than a node.
    """
    bins: list[_Bin] = []
    for w in sorted(work, key=lambda w: (-max(w.cpu / cpu, w.memory_mib / memory_mib), w.name)):
        left = w.replicas
        added: list[_Bin] = []
        for b in bins:
            each = _fits(w, b.cpu, b.memory, b.pods)
            if not left or not each:
                continue
            full, rest = divmod(min(left, each * b.count), each)
            left -= full * each + rest
            for many, taken in ((full, each), (1 if rest else 0, rest)):
                if many and many < b.count:
                    added.append(_Bin(b.cpu - taken * w.cpu, b.memory - taken * w.memory_mib, b.pods - taken, many))
                    b.count -= many
                elif many:
                    b.cpu, b.memory, b.pods = b.cpu - taken * w.cpu, b.memory - taken * w.memory_mib, b.pods - taken
        bins += added
        each = _fits(w, cpu, memory_mib, MAX_PODS)
        if left and not each:
            raise ValueError(f"one replica of {w.name} is larger than a node of {cpu:g} CPUs and {memory_mib:g} MiB")
        if left:
            full, rest = divmod(left, each)
            for many, taken in ((full, each), (1 if rest else 0, rest)):
                if many:
                    bins.append(_Bin(cpu - taken * w.cpu, memory_mib - taken * w.memory_mib, MAX_PODS - taken, many))
    return sum(b.count for b in bins)


def _fits(w: Workload, cpu: float, memory: float, pods: int) -> int:
    return max(0, min(int(cpu / w.cpu + 1e-9), int(memory / w.memory_mib + 1e-9), pods))


def _least(work: list[Workload]) -> int:
    return LEAST_NODES if max(w.replicas for w in work) > 1 else 1


def _totals(work: list[Workload]) -> dict[str, float]:
    mean = [w.replicas * w.cpu * (w.use.mean.mid if w.use else 1.0) for w in work]
    peak = [w.replicas * w.cpu * (w.use.peak.mid if w.use else 1.0) for w in work]
    return {
        "requested": math.fsum(w.replicas * w.cpu for w in work),
        "requested_mib": sum(w.replicas * w.memory_mib for w in work),
        "used": math.fsum(mean),
        "peak": math.fsum(peak),
    }


# --- servers ------------------------------------------------------------------------------------------------------


def lay_out(profile: Profile, where: Assignment) -> Layout:
    """What the fleet needs with each workload where `where` has it."""
    return _LayingOut(profile, where).lay_out()


class _LayingOut:
    def __init__(self, profile: Profile, where: Assignment) -> None:
        self._p = profile
        self._clusters = sorted(profile.clusters, key=_size)
        """The largest first, whatever the file's order."""
        self._where = where
        self._overcommit = profile.operations.cpu_overcommit
        self._slower = cpu_overhead(profile, literature.CPU_OVERHEAD.amount).mid
        self._left = {m.name: m.count for m in profile.servers}
        self._short: dict[str, int] = {}
        self._impossible: list[str] = []

    def lay_out(self) -> Layout:
        ops = self._p.operations
        metal: dict[str, int] = {}
        groups: list[Group] = []
        for cluster in self._clusters:
            group = self._metal(cluster)
            if group is not None:
                self._take(group.model, group.nodes)
                metal[group.model] = metal.get(group.model, 0) + group.nodes
                groups.append(group)
        spares = dict.fromkeys(metal, ops.spares)
        for name, count in spares.items():
            self._take(name, count)
        virtual = [g for c in self._clusters if (g := self._virtual(c)) is not None]
        return Layout(
            groups=tuple(sorted([*groups, *virtual], key=lambda g: (g.cluster, g.substrate))),
            planes=sum(c.control_plane for c in self._clusters),
            hypervisors=self._hypervisors(virtual),
            metal=metal,
            metal_spares=spares,
            shortage=self._short,
            impossible=tuple(self._impossible),
        )

    def _take(self, model: str, count: int) -> None:
        self._left[model] -= count
        if self._left[model] < 0:
            self._short[model] = self._short.get(model, 0) - self._left[model]
            self._left[model] = 0

    def _work(self, cluster: ClusterProfile, substrate: Substrate) -> list[Workload]:
        there = [w for w in cluster.workloads if self._where[cluster.name, w.name] == substrate]
        return sorted(there, key=lambda w: w.name)

    def _metal(self, cluster: ClusterProfile) -> Group | None:
        work = self._work(cluster, "metal")
        if not work:
            return None
        headroom = self._p.operations.headroom.get("metal", 0)
        best: tuple[tuple[float, ...], str, int] | None = None
        for m in self._p.servers:
            try:
                need = max(_least(work), nodes_for(work, m.cpus, m.memory_mib - EVICTION_MIB)) + headroom
            except ValueError:
                continue
            if not {d for w in work for d in w.devices} <= set(m.devices):
                continue
            missing = max(0, need - self._left[m.name])
            rank = (float(missing > 0), need * (m.price.mid if m.price else float(m.cpus)), float(need))
            if best is None or (rank, m.name) < (best[0], best[1]):
                best = (rank, m.name, need)
        if best is None:
            named = ", ".join(w.name for w in work)
            self._impossible.append(f"no model of server holds {named} of {cluster.name} on metal")
            return None
        model = self._p.model(best[1])
        return Group(
            cluster=cluster.name,
            substrate="metal",
            workloads=tuple(w.name for w in work),
            nodes=best[2],
            cpu=model.cpus,
            memory_mib=model.memory_mib,
            model=model.name,
            **_totals(work),  # type: ignore[arg-type]
        )

    def _virtual(self, cluster: ClusterProfile) -> Group | None:
        work = self._work(cluster, "vm")
        if not work:
            return None
        cpu, memory, nodes = self._shape(cluster, work)
        return Group(
            cluster=cluster.name,
            substrate="vm",
            workloads=tuple(w.name for w in work),
            nodes=nodes + self._p.operations.headroom.get("vm", 0),
            cpu=cpu,
            memory_mib=memory,
            **_totals(work),  # type: ignore[arg-type]
        )

    def _shape(self, cluster: ClusterProfile, work: list[Workload]) -> tuple[int, int, int]:
        """CPUs and memory (MiB) of each VM, and how many: the user's shape, or what takes least memory in all; of
        those that are as good, the smallest, as less is lost with it."""
        least = (max(math.ceil(w.cpu) for w in work), max(w.memory_mib for w in work) + EVICTION_MIB)
        if cluster.node is not None:
            shapes = [(max(cluster.node.cpu, least[0]), max(cluster.node.memory_mib, least[1]))]
        else:
            ratio = sum(w.replicas * w.memory_mib for w in work) / sum(w.replicas * w.cpu for w in work)
            shapes = [
                (max(cpu, least[0]), max(math.ceil(cpu * ratio / 1024) * 1024 + EVICTION_MIB, least[1]))
                for cpu in (2, 4, 8, 16, 24, 32, 48)
            ]
            largest = (max(m.cpus for m in self._p.servers), max(m.memory_mib for m in self._p.servers) // 2)
            shapes = [s for s in shapes if s[0] <= largest[0] and s[1] <= largest[1]] or [least]
        counted = [(c, m, max(_least(work), nodes_for(work, c, m - EVICTION_MIB))) for c, m in shapes]
        best = min(n * overhead(c, m) for c, m, n in counted)
        good = [s for s in counted if s[2] * overhead(s[0], s[1]) <= AS_GOOD * best]
        return min(good, key=lambda s: (s[1], s[0]))

    # --- hypervisors ----------------------------------------------------------------------------------------------

    def _hypervisors(self, virtual: list[Group]) -> dict[str, int]:
        alone = {c.name for c in self._clusters if c.dedicated}
        found: dict[str, int] = {}
        together = [g for g in virtual if g.cluster not in alone]
        self._fill(found, together, [c for c in self._clusters if c.name not in alone])
        for cluster in self._clusters:
            if cluster.name in alone:
                self._fill(found, [g for g in virtual if g.cluster == cluster.name], [cluster])
        for _ in range(self._p.operations.spares if found else 0):
            name = max(found, key=lambda n: (self._p.model(n).memory_mib, n))
            self._take(name, 1)
            found[name] += 1
        return found

    def _fill(self, found: dict[str, int], groups: list[Group], clusters: list[ClusterProfile]) -> None:
        """Servers for machines that may share them, dominant models first."""
        asked: list[_Machine] = []
        for c in sorted(clusters, key=lambda c: c.name):
            asked.append(_Machine(c.plane.cpu, overhead(c.plane.cpu, c.plane.memory_mib), 0.0, c.control_plane))
            mine = [g for g in groups if g.cluster == c.name]
            asked += [_Machine(g.cpu, overhead(g.cpu, g.memory_mib), g.peak / g.nodes, g.nodes) for g in mine]
        left = sorted((msgspec.structs.replace(m) for m in asked), key=lambda m: (-m.memory, -m.cpu, m.peak))
        least = max((c.control_plane for c in clusters), default=0)
        models = sorted(self._p.servers, key=lambda m: (-self._left[m.name], m.name))
        used: list[ServerModel] = []
        while any(m.count for m in left) or len(used) < least:
            model = self._next(models)
            held = _fill_one(left, model, self._overcommit, self._slower)
            if not held and any(m.count for m in left):
                self._too_large(left, model, groups)
                return
            self._use(model, found, used)
        total = sum(m.count for m in asked)
        while missing := _unplaced(asked, used, self._overcommit):
            holding = [m for m in models if _fits_empty(missing[0], m, self._overcommit)]
            for _ in range(math.ceil(sum(m.count for m in missing) * len(used) / total)):
                self._use(self._next(holding), found, used)

    def _next(self, models: list[ServerModel]) -> ServerModel:
        return next((m for m in models if self._left[m.name] > 0), models[0])

    def _use(self, model: ServerModel, found: dict[str, int], used: list[ServerModel]) -> None:
        self._take(model.name, 1)
        found[model.name] = found.get(model.name, 0) + 1
        used.append(model)

    def _too_large(self, machines: list[_Machine], model: ServerModel, groups: list[Group]) -> None:
        largest = next(m for m in machines if m.count)
        named = sorted({g.cluster for g in groups if g.cpu == largest.cpu})
        self._impossible.append(
            f"a VM of {largest.cpu} CPUs and {largest.memory:.0f} MiB ({', '.join(named)}) does not fit a {model.name}"
        )


class _Machine(msgspec.Struct):
    """Equal virtual machines that are still to be placed."""

    cpu: int
    memory: float
    peak: float
    count: int


def _room(model: ServerModel, overcommit: float) -> tuple[float, float]:
    """Virtual CPUs and memory (MiB) that a hypervisor has for machines."""
    return (model.cpus - _RESERVED.cpu) * overcommit, float(model.memory_mib - parse_mib(_RESERVED.memory))


def _fill_one(machines: list[_Machine], model: ServerModel, overcommit: float, slower: float) -> int:
    """Put on a server what fits; how many that was. `slower`: by what share work takes more CPU in a VM."""
    cpus, memory = _room(model, overcommit)
    real = model.cpus / (1.0 + slower)
    held = 0
    for m in machines:
        fit = min(m.count, int(cpus / m.cpu + 1e-9), int(memory / m.memory + 1e-9))
        if m.peak > 0:
            fit = min(fit, max(0, int(real / m.peak + 1e-9)))
        m.count -= fit
        cpus, memory, real = cpus - fit * m.cpu, memory - fit * m.memory, real - fit * m.peak
        held += fit
    return held


def _fits_empty(machine: _Machine, model: ServerModel, overcommit: float) -> bool:
    cpus, memory = _room(model, overcommit)
    return machine.cpu <= cpus and machine.memory <= memory


def _unplaced(machines: Iterable[_Machine], models: Sequence[ServerModel], overcommit: float) -> list[_Machine]:
    """Of machines in the order in which they are planned, those that find no room where each gets the server of which
    the smallest share is taken: `planner.placement` without its spread over failure domains."""
    kinds = {m.name: m for m in models}
    room = {name: _room(m, overcommit) for name, m in kinds.items()}
    rooms = [room[m.name] for m in models]
    free = [list(room) for room in rooms]
    order = [(0.0, n) for n in range(len(models))]
    missing: list[_Machine] = []
    for m in machines:
        for left in range(m.count, 0, -1):
            passed: list[tuple[float, int]] = []
            while order and (free[order[0][1]][0] < m.cpu or free[order[0][1]][1] < m.memory):
                passed.append(heapq.heappop(order))
            placed = bool(order)
            if placed:
                n = heapq.heappop(order)[1]
                free[n][0] -= m.cpu
                free[n][1] -= m.memory
                heapq.heappush(order, (1.0 - min(f / r for f, r in zip(free[n], rooms[n], strict=True)), n))
            for one in passed:
                heapq.heappush(order, one)
            if not placed:
                missing.append(msgspec.structs.replace(m, count=left))
                break
    return missing


def overhead(cpu: int, memory_mib: int) -> float:
    """Memory (MiB) that a VM takes on its hypervisor, its own included (openshift-docs#98819)."""
    extra = literature.VM_MEMORY_FIXED_MIB + literature.VM_MEMORY_PER_VCPU_MIB * cpu
    return memory_mib * (1.0 + literature.VM_MEMORY_SHARE) + extra


def _size(cluster: ClusterProfile) -> tuple[float, str]:
    return -math.fsum(w.replicas * w.cpu for w in cluster.workloads), cluster.name
