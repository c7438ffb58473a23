"""What balancing is asked and what it answers, as plain structs. Nothing here decides."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

from bedplate.model.ids import MachineUid, ServerName

RESOURCES = ("cpu", "memory", "disk", "network")


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """So much of each resource. As a capacity, 0 means that it was not measured: the resource is left out there."""

    cpu: float = 0.0
    """Logical CPUs, or CPUs in use."""
    memory: float = 0.0
    """MiB."""
    disk: float = 0.0
    """MiB/s."""
    network: float = 0.0
    """MiB/s."""

    def row(self) -> tuple[float, ...]:
        """In the order of `RESOURCES`."""
        return (self.cpu, self.memory, self.disk, self.network)


class BalanceServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that takes part: it is connected and holds machines. One to be emptied is another duty's."""

    name: ServerName
    capacity: Amounts
    other: Amounts = Amounts()
    """Demand of what is none of the machines: the hypervisor itself, guests that are not ours."""
    memory_mib: int
    """Allocatable: never more than this is given to machines."""
    memory_held_mib: int = 0
    """Of it, given to what is not among the machines: moves on their way here, machines that are being made."""
    vcpus: float = float("inf")
    """Allocatable virtual CPUs, over-commitment included."""
    vcpus_held: float = 0.0
    domains: Mapping[str, str] = {}
    """Failure-domain labels, such as `{room: a, rack: r1}`."""
    cpu_models: frozenset[str] = frozenset()
    """CPU baselines that a guest may have here; empty: any."""
    unschedulable: bool = False
    """Machines may leave, none may come."""
    moving: int = 0
    """Migrations from and to it that are under way: the first wave has so many fewer."""
    link: str = ""
    """The uplink that this server shares with others, such as its rack's; empty: none that is bounded."""


class BalanceMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that runs on one of the servers."""

    uid: MachineUid
    server: ServerName
    demand: Amounts = Amounts()
    """What it used lately, on average."""
    deviation: Amounts = Amounts()
    """Standard deviation of that use."""
    memory_mib: int
    """Allocated: what it takes of a server's memory, and what a migration copies."""
    vcpus: float = 0.0
    dirty_mib_s: float = 0.0
    """MiB of memory that it writes to in a second."""
    allowed: frozenset[ServerName] | None = None
    """Servers that it may be on (disk pool, network, selectors); None: all."""
    cpu_model: str = ""
    """The CPU baseline that it was started with; empty: any server will do."""
    groups: tuple[str, ...] = ()
    pinned: bool = False
    """A person wants it where it is."""
    live: bool = True
    """It can be moved while it runs: no passed-through device, no local disk."""
    moved: float = float("-inf")
    """When it was last moved; seconds since the epoch."""


class PlacementGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Machines that are to be together or apart, over servers or over failure domains."""

    name: str
    kind: Literal["affinity", "anti-affinity"]
    strength: Literal["must", "should"] = "must"
    over: str = ""
    """A failure-domain label; empty: servers. A server without the label is a domain of its own."""
    most: int = 1
    """Anti-affinity: so many members may share a domain."""


def domain_of(server: BalanceServer, over: str) -> str:
    """The failure domain of that label; the server itself where it has none."""
    label = server.domains.get(over, "") if over else ""
    return f"{over}={label}" if label else f"server={server.name}"


def may_run(m: BalanceMachine, s: BalanceServer) -> bool:
    """The server could ever take the machine, whatever its room: selectors and CPU baseline."""
    if m.allowed is not None and s.name not in m.allowed:
        return False
    return not m.cpu_model or not s.cpu_models or m.cpu_model in s.cpu_models


class KeepFree(msgspec.Struct, frozen=True, kw_only=True):
    """So many servers may fail and all their machines still find room."""

    servers: int
    per: str = ""
    """A failure-domain label: counted, and found room, within each domain; empty: over the whole fleet."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """When a move is worth it, and how many may run. Defaults justify themselves."""

    now: float
    """Seconds since the epoch."""
    horizon: float = 3600.0
    """Seconds over which a gain counts: load is expected to stay as it is for so long."""
    min_gain_percent: float = 10.0
    """A move that does less than this share of what evening out its two servers fully would, is not made."""
    move_window: float = 600.0
    """Seconds in which a machine is not moved again."""
    bandwidth_mib_s: float = 1100.0
    """For one migration; 10 Gbit/s as a stream of TCP fills it."""
    moves: int = 64
    """Most moves in one plan: what is further away than the next planning is better decided then."""
    per_server: int = 2
    """Migrations at once from and to one server."""
    per_link: int = 4
    """Migrations at once over one shared uplink."""
    reserve: KeepFree | None = None
    exchanges: bool = False
    """Also look for two machines that change places. Off: two migrations for one gain, and half-way it is worse."""
    again: bool = False
    """One plan may move a machine twice. Off: what is moved first is then the best place known."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """All that the decision depends on. The order of its parts means nothing."""

    servers: tuple[BalanceServer, ...]
    machines: tuple[BalanceMachine, ...]
    groups: tuple[PlacementGroup, ...] = ()
    terms: Terms


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One live migration. In the order of the plan each keeps every hard limit, also if it is the last that is made."""

    machine: MachineUid
    source: ServerName
    target: ServerName
    gain: float
    """Core-seconds of work over the horizon that no longer wait."""
    cost: float
    """Core-seconds that moving takes, its risk included."""
    seconds: float
    """How long the migration is expected to take."""
    memory_mib: int
    unevenness: float
    """What is left of it after this move; see `score`."""
    wave: int
    """Moves of one wave may run at once; a wave begins when those before it have ended."""


class Step(NamedTuple):
    """A move while it is searched for: machine and servers by number, in the order of their names."""

    machine: int
    source: int
    target: int
    gain: float


class Stays(StrEnum):
    """Why a machine is not moved. The first that holds is told."""

    PINNED = "Pinned"
    NOT_LIVE = "NotMovableLive"
    RECENT = "MovedRecently"
    NOT_CONVERGING = "WritesFasterThanTheLink"
    WELL_PLACED = "WellPlaced"
    NOISE = "WithinTheNoise"
    SMALL_GAIN = "GainTooSmall"
    COST = "CostExceedsGain"
    NO_ROOM = "NoServerMayTakeIt"
    RESERVE = "ReserveWouldBeUsed"
    LATER = "BoundOfMovesReached"
    MOVED = "Moved"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `before` and `after` are the unevenness in parts of one: 0.2 is 20 percentage points."""

    moves: tuple[Move, ...] = ()
    before: float
    after: float
    stays: Mapping[Stays, int] = {}
    """How many machines are or are not moved, and why."""
