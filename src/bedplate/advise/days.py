"""A few days of load on a layout, told by the production controllers in the simulated world without any failure: how
long servers are hot, and what of the CPU that is asked for they can't give.

Each pool follows a daily curve through its workloads' `use`: their mean over the day, their peak at `PEAK` (hour). That
all peak in the same hour is the worst case; where no use is given, what is requested is used all day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from bedplate.advise import packing
from bedplate.advise.fleet import Profile
from bedplate.advise.packing import Assignment, Group, Layout
from bedplate.advise.runs import Sweep, begun
from bedplate.advise.twin import setting_of
from bedplate.model.ids import MachineUid, ServerName
from bedplate.model.kinds.fleet import BalanceMode
from bedplate.sim.load import DAY, Curve
from bedplate.sim.scenario import opening
from bedplate.sim.scenario.setting import NAMESPACE
from bedplate.sim.simulator import Simulator

DAYS = 2
EVERY = 600.0
"""Seconds between looks, as agents of the simulated world tell load."""
HOT = 0.8
"""Share of its logical CPUs in use from which a server counts as hot. Assumed, as alerts are usually set: above it,
waiting for a CPU grows steeply, and half of the logical ones are hyperthreads."""
PEAK = 14.0
"""The hour of the peak. Assumed."""
NOISE = 0.05
"""Of a pool's curve, standard deviation as a share of a machine's CPUs. Assumed, as scenarios have it."""
PLANES = Curve(base=0.1, swing=0.1, noise=0.02)
"""Of control planes' machines. Assumed."""


class Days(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen, over all servers that run something."""

    servers: int
    hot: float
    """Share of their time at `HOT` or above, 0 to 1."""
    unserved: float
    """Share of the CPU time that is asked for and not there, 0 to 1."""
    moves: int
    """Live migrations."""


def curve_of(group: Group) -> Curve:
    """A pool's curve, as a share of its machines' virtual CPUs: by its workloads' mean and peak use."""
    cpus = max(1, group.nodes * group.cpu)
    mean, peak = group.used / cpus, max(group.used, group.peak) / cpus
    swing = min(2 * (peak - mean), peak)
    return Curve(base=peak - swing, swing=swing, peak=PEAK, noise=NOISE)


def tell(profile: Profile, layout: Layout, *, balance: BalanceMode = "manual", days: int = DAYS) -> Days:
    """Let the days pass.

    Args:
        balance: Whether production's balancing moves machines.

    Raises:
        ScenarioError: the fleet does not become Ready on that layout.
    """
    setting = msgspec.structs.replace(setting_of(profile, layout), fleet={"balance": {"mode": balance}})
    sim = begun(profile, setting)
    loads = sim.measure(every=EVERY)
    loads.follow("*", PLANES)
    for group in layout.groups:
        loads.follow(f"nodepool/{NAMESPACE}/{group.cluster}-{group.name}", curve_of(group))
    watch = _Watch(sim)
    for n in range(int(days * DAY / EVERY)):
        sim.at(sim.now + (n + 0.5) * EVERY, watch.look)
    opening.let_pass(sim, days * DAY, events=100_000_000)
    return watch.seen()


class _Watch:
    """Looks at all servers now and then."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._hot = self._asked = self._missing = 0.0
        self._looks: dict[ServerName, int] = {}
        self._where = self._places()
        self._moves = 0

    def look(self) -> None:
        assert self._sim.loads is not None
        for name, asked in self._sim.loads.demand.items():
            if asked <= 0.0:
                continue
            cpus = self._sim.world.servers[name].cpus
            self._looks[name] = self._looks.get(name, 0) + 1
            self._hot += asked >= HOT * cpus
            self._asked += asked
            self._missing += max(0.0, asked - cpus)
        where = self._places()
        self._moves += sum(1 for uid, server in where.items() if self._where.get(uid, server) != server)
        self._where = where

    def seen(self) -> Days:
        looks = sum(self._looks.values())
        return Days(
            servers=len(self._looks),
            hot=self._hot / max(1, looks),
            unserved=self._missing / max(1.0, self._asked),
            moves=self._moves,
        )

    def _places(self) -> dict[MachineUid, ServerName]:
        return {m.uid: m.server for m in self._sim.store.blueprint.machines() if not m.source}


LEVELS = (1.0, 2.0, 4.0, 8.0)
"""Virtual CPUs per logical one that are tried, beside the fleet's own."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The same workloads, all on virtual machines, under load."""

    by_overcommit: dict[float, Days]
    """Packed at so many virtual CPUs per logical one, machines staying where they are."""
    by_balance: dict[str, Days]
    """As the fleet is packed, with balancing `manual` and `auto`."""


def levels(profile: Profile) -> tuple[float, ...]:
    """Those that are tried for this fleet."""
    return tuple(sorted({*LEVELS, profile.operations.cpu_overcommit}))


def evidence(profile: Profile, where: Assignment, one_told: Callable[[], object] = lambda: None) -> Load:
    """Tell the days that claims about load hang on.

    Args:
        where: What runs on which substrate.
        one_told: Called after each of `levels`, and once more.

    Raises:
        ScenarioError: a layout does not become Ready.
    """
    found: dict[float, Days] = {}
    for level in levels(profile):
        packed = overcommitted(profile, level)
        found[level] = tell(packed, packing.lay_out(packed, where))
        one_told()
    auto = tell(profile, packing.lay_out(profile, where), balance="auto")
    one_told()
    manual = found[profile.operations.cpu_overcommit]
    return Load(by_overcommit=found, by_balance={"manual": manual, "auto": auto})


def digest(profile: Profile, layout: Layout) -> str:
    """Of all that decides the evidence, Bedplate's own code among it."""
    told = Sweep(profile=profile, layout=layout, seeds=(), years=DAYS / 365.0).digest
    decided = [told, *(f"{g.cluster}/{g.name} {curve_of(g)}" for g in layout.groups), str(LEVELS)]
    return hashlib.sha256("\n".join(decided).encode()).hexdigest()[:32]


def overcommitted(profile: Profile, level: float) -> Profile:
    """The same fleet at so many virtual CPUs per logical one."""
    return msgspec.structs.replace(
        profile, operations=msgspec.structs.replace(profile.operations, cpu_overcommit=level)
    )
