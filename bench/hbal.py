"""Ganeti's `hbal`: clusters in its text format, its score as an objective for the search, and the program itself.

Its score (ganeti 3.0, `HTools/Cluster/MetricsComponents.hs`) is a weighted sum over components. With shared storage, no
tags, no offline nodes and no failed N+1 these are not constant: the standard deviations over the nodes of the share of
free memory (0.5), of virtual to physical CPUs (0.5), of both once more "forthcoming instances included" (0.5 each, the
same without any), and of the four dynamic loads, CPU, memory, disk and network (1 each), which count one per instance
where nothing was measured. Its hard limits there: memory left free on a node, and four virtual CPUs per physical one.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import numpy as np
from numpy.typing import NDArray

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing.problem import (
    Amounts,
    BalanceMachine,
    BalanceServer,
    Problem,
    Stays,
    Terms,
)

INSTALL = "apt-get install ganeti-htools"
_PATHS = ("/usr/lib/ganeti/3.0/usr/bin/hbal",)
"""Where Debian puts it when the rest of Ganeti is not installed."""
_NODE_MEMORY, _OWN_MEMORY, _CPUS, _DISK = 262_144, 4096, 64, 4_000_000
_VCPU_RATIO = 4
"""`vcpu-ratio` of Ganeti's default instance policy."""
_MEMORY, _VCPUS = (1024, 2048, 4096, 8192), (1, 2, 4)
INSTANCES_A_NODE = 8
MIN_GAIN, MIN_GAIN_LIMIT, MIN_SCORE = 0.01, 0.1, 1e-9
"""hbal's defaults: below a score of 0.1 a move must gain 0.01; it ends at 1e-9."""


class Instance(msgspec.Struct, frozen=True):
    name: str
    memory: int
    vcpus: int
    node: int
    load: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


class Cluster(msgspec.Struct, frozen=True):
    """Equal nodes with shared storage."""

    nodes: int
    instances: tuple[Instance, ...]

    @property
    def loads(self) -> bool:
        """Its instances' loads were measured."""
        return any(i.load != (1.0, 1.0, 1.0, 1.0) for i in self.instances)


def generate(nodes: int, *, loads: bool = False, seed: int = 1) -> Cluster:
    """A cluster as it looks after years of adding nodes: the first ones are crowded, the last ones nearly empty."""
    random = Random(seed)
    memory, vcpus = [_NODE_MEMORY - _OWN_MEMORY] * nodes, [_CPUS * _VCPU_RATIO] * nodes
    instances: list[Instance] = []
    for n in range(nodes * INSTANCES_A_NODE):
        wants, cpus = random.choice(_MEMORY), random.choice(_VCPUS)
        node = int(nodes * random.random() ** 3)
        while memory[node] <= wants or vcpus[node] < cpus:
            node = int(nodes * random.random() ** 3)
        memory[node] -= wants
        vcpus[node] -= cpus
        load = (random.random() * cpus / 4, random.random(), random.random() ** 2, random.random() ** 3)
        made = Instance(f"i{n:05}", wants, cpus, node)
        instances.append(msgspec.structs.replace(made, load=load) if loads else made)
    return Cluster(nodes, tuple(instances))


def text(c: Cluster) -> str:
    """The cluster as hbal's text backend reads it."""
    free = [_NODE_MEMORY - _OWN_MEMORY] * c.nodes
    for i in c.instances:
        free[i.node] -= i.memory
    lines = ["group1|uuid-1|preferred|", ""]
    for n in range(c.nodes):
        memory = f"{_NODE_MEMORY}|{_OWN_MEMORY}|{free[n]}"
        lines.append(f"n{n:04}|{memory}|{_DISK}|{_DISK}|{_CPUS}|N|uuid-1|1")
    lines.append("")
    lines += [f"{i.name}|{i.memory}|20480|{i.vcpus}|running|Y|n{i.node:04}||sharedfile||1" for i in c.instances]
    return "\n".join([*lines, "", "", ""])


def problem(c: Cluster, moves: int) -> Problem:
    """The cluster as balancing is asked about it, with hbal's own hard limits."""
    servers = tuple(
        BalanceServer(
            name=ServerName(f"n{n:04}"),
            capacity=Amounts(cpu=_CPUS, memory=_NODE_MEMORY),
            memory_mib=_NODE_MEMORY - _OWN_MEMORY - 1,  # hbal wants more than nothing to be left
            vcpus=_CPUS * _VCPU_RATIO,
        )
        for n in range(c.nodes)
    )
    machines = tuple(
        BalanceMachine(
            uid=MachineUid(i.name), server=ServerName(f"n{i.node:04}"), memory_mib=i.memory, vcpus=float(i.vcpus)
        )
        for i in c.instances
    )
    return Problem(servers=servers, machines=machines, terms=Terms(now=0.0, moves=moves))


Floats = NDArray[np.float64]


class Spread:
    """hbal's score of such clusters, as `bedplate.planner.balancing.search` asks for it."""

    WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    """Memory, CPU ratio (each 0.5, twice), and the four loads."""

    def __init__(self, c: Cluster) -> None:
        per_node = np.array([1 / _NODE_MEMORY, 1 / _CPUS, 1.0, 1.0, 1.0, 1.0])
        self.demand = np.array([(i.memory, i.vcpus, *i.load) for i in c.instances]) * per_node
        self.nodes = np.zeros((c.nodes, 6))
        for demand, i in zip(self.demand, c.instances, strict=True):
            self.nodes[i.node] += demand
        self.nodes -= self.nodes.mean(axis=0)  # the same for deviations, and exact where they are small
        self._squares = (self.nodes**2).sum(axis=0)

    def value(self) -> float:
        """The score, from the ground up."""
        return float((self.WEIGHTS * self.nodes.std(axis=0)).sum())

    def gains(self, source: int, demand: Floats, targets: NDArray[np.int64]) -> Floats:
        """How much the score falls; all nodes are equal, so the mean stays."""
        n = len(self.nodes)
        total = np.zeros(np.broadcast_shapes(demand.shape[:2], (1, len(targets))))
        for r, weight in enumerate(self.WEIGHTS):
            d = demand[:, :, r]
            change = 2.0 * d * (d - self.nodes[source, r] + self.nodes[targets, r])
            total += weight * np.sqrt(np.maximum(self._squares[r] + change, 0.0) / n)
        return float((self.WEIGHTS * np.sqrt(self._squares / n)).sum()) - total

    def potential(self, largest: Floats, takes: NDArray[np.bool_]) -> Floats:
        """How far each node is above the mean, by what it counts for."""
        spread = np.sqrt(np.maximum(self._squares / len(self.nodes), 1e-12))
        return (self.WEIGHTS * self.nodes / spread).sum(axis=1)

    def move(self, machine: int, source: int, target: int) -> None:
        """Keep up."""
        self.nodes[source] -= self.demand[machine]
        self.nodes[target] += self.demand[machine]
        self._squares = (self.nodes**2).sum(axis=0)


class MinGain:
    """hbal's own gate: any gain while the score is high, then at least `MIN_GAIN`."""

    def __init__(self, score: Spread, min_gain: float = MIN_GAIN) -> None:
        self._score, self._min_gain = score, min_gain

    @property
    def _least(self) -> float:
        return MIN_SCORE if self._score.value() > MIN_GAIN_LIMIT else self._min_gain

    def quiet(self, source: int) -> None:
        """Any node may be left."""

    def gates(
        self, source: int, machines: Sequence[int], gains: Floats, relief: Floats
    ) -> list[tuple[Stays, NDArray[np.bool_]]]:
        """By instance and node: the move gains enough."""
        return [(Stays.SMALL_GAIN, gains >= self._least)]

    def exchange(self, gain: float, source: int, target: int, machines: tuple[int, int]) -> bool:
        """Two moves must gain twice as much."""
        return gain >= 2 * self._least


# --- the program itself ---


class Ran(msgspec.Struct, frozen=True):
    """What hbal printed, and the CPU seconds that it took."""

    initial: float
    final: float
    moves: tuple[tuple[str, str], ...]
    seconds: float


def program() -> str | None:
    """hbal, where it is installed."""
    return next((p for p in (shutil.which("hbal"), *_PATHS) if p and Path(p).exists()), None)


def run(hbal: str, c: Cluster, folder: Path, *, moves: int = -1) -> Ran:
    """Let it balance the cluster (`moves` 0: only tell the score). Two files are left in the folder."""
    data, loads = folder / "cluster.txt", folder / "loads.txt"
    data.write_text(text(c))
    argv = [hbal, "-t", str(data), "-l", str(moves)]
    if c.loads:
        loads.write_text("".join(f"{i.name} {' '.join(repr(v) for v in i.load)}\n" for i in c.instances))
        argv += ["-U", str(loads)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return _read(done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _read(output: str, took: float) -> Ran:
    initial = re.search(r"[Ii]nitial score:? ([\d.e-]+)", output)
    assert initial is not None, f"hbal printed no score:\n{output}"
    steps = re.findall(r"^\s*\d+\. (\S+)\s+\S+\s+=> (\S+)\s+([\d.e-]+) a=", output, re.MULTILINE)
    final = float(steps[-1][2]) if steps else float(initial[1])
    return Ran(float(initial[1]), final, tuple((name, node) for name, node, _ in steps), took)
