"""Load: what machines use over time, by daily curves with noise, by traces, or as a script has it; told as agents do.

Machines of one owner (a pool, a control plane) follow one curve, each by its own share of it. All is looked at every
so often, and told where it has changed by more than a tenth of the server.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right

import msgspec
import numpy as np
import numpy.typing as npt

from bedplate.model.ids import Key, MachineUid, ServerName
from bedplate.model.inventory import LoadView, MachineLoad
from bedplate.sim.things import SimDomain, SimServer
from bedplate.sim.world import World

DAY = 86_400.0
TOLD = 0.1
"""A change of a server's load by more than this share of its cores is told."""
SPREAD = 3**0.5
"""Half the width of an even distribution of standard deviation one."""
UNEVEN = 0.3
"""By so much a machine's share of its owner's curve may differ from the others'."""


Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Use over time, as a share of a machine's virtual CPUs."""

    base: float = 0.2
    """At night."""
    swing: float = 0.4
    """More of it at the peak."""
    peak: float = 14.0
    """The hour of the peak, after the start of the story."""
    noise: float = 0.05
    """Standard deviation, of both the measured and the drawn."""
    trace: tuple[tuple[float, float], ...] = ()
    """Seconds after the start and the share from then on, instead of a curve; it begins anew at its last time."""

    def at(self, seconds: float) -> float:
        """The share without noise."""
        if self.trace:
            when = seconds % self.trace[-1][0] if self.trace[-1][0] > 0 else seconds
            found = bisect_right(self.trace, (when, math.inf)) - 1
            return self.trace[max(0, found)][1]
        phase = math.cos((seconds / DAY - self.peak / 24) * 2 * math.pi)
        return self.base + self.swing * (1 + phase) / 2


class Loads:
    """Makes and measures load."""

    def __init__(self, world: World, *, seed: int, start: float) -> None:
        self._world = world
        self._seed = seed
        self._start = start
        self._default = Curve()
        self._curves: dict[Key, Curve] = {}
        self._fixed: dict[MachineUid, float] = {}
        self._round = 0
        self._owners: dict[Key, int] = {}
        """Each owner's number."""
        self._parts: dict[ServerName, tuple[Floats, Floats, Ints]] = {}
        """Of each server's machines: cores at a level of one, virtual CPUs, the owner's number."""
        self._whole: tuple[Floats, Floats, Ints, Ints] | None = None
        """The same of all servers, with the server's number."""
        self.demand: dict[ServerName, float] = {}
        """Cores that each server's machines asked for at the last look, also beyond those it has."""

    def follow(self, owner: Key | str, curve: Curve) -> None:
        """Have an owner's machines (`nodepool/default/shop-web`) follow a curve; `*`: all that have none."""
        if owner == "*":
            self._default = curve
        else:
            self._curves[Key(owner)] = curve

    def fix(self, uid: MachineUid, cores: float | None) -> None:
        """Have one machine use so many cores from now on; None: as its owner's curve says again."""
        if cores is None:
            self._fixed.pop(uid, None)
        else:
            self._fixed[uid] = cores
        self._world.crowds.update(d.server for d in self._world.live.get(uid, ()))
        self.look()

    def look(self) -> None:
        """Measure now, and have told what has changed by enough."""
        self._round += 1
        weights, most, owners, servers = self._all()
        moved, self._world.crowds = self._world.crowds, set()
        levels = np.array([self._level(owner) for owner in self._owners] or [0.0])
        asked = np.minimum(weights * levels[owners], most)
        used = np.bincount(servers, weights=asked, minlength=len(self._world.servers))
        self.demand = dict(zip(self._world.servers, used.tolist(), strict=True))
        for server, cores in zip(self._world.servers.values(), used.tolist(), strict=True):
            told = self._world.loads.get(server.name)
            cores = min(cores, float(server.cpus))
            same = told is not None and server.name not in moved and abs(cores - told.cpu) <= TOLD * server.cpus
            if server.alive and not same:
                self._world.loads[server.name] = self._view(server, levels)
                self._world.touch_load(server)

    def _all(self) -> tuple[Floats, Floats, Ints, Ints]:
        """All running machines; what changed since the last look is weighed anew."""
        changed = [s for s in self._world.servers.values() if s.name in self._world.crowds or s.name not in self._parts]
        if changed or self._whole is None:
            for server in changed:
                self._parts[server.name] = self._weigh(server)
            parts = [self._parts[name] for name in self._world.servers]
            numbers = np.repeat(np.arange(len(parts)), [len(owners) for _, _, owners in parts])
            weights, most, owners = zip(*parts, strict=True)
            self._whole = (np.concatenate(weights), np.concatenate(most), np.concatenate(owners), numbers)
        return self._whole

    def _weigh(self, server: SimServer) -> tuple[Floats, Floats, Ints]:
        running = [d for d in server.domains.values() if d.state == "running"]
        shares = [self._share(d) for d in running]
        numbers = [self._owners.setdefault(owner, len(self._owners)) for owner, _ in shares]
        weights = np.array([weight for _, weight in shares], dtype=float)
        most = np.array([(d.hardware or d.entry).cpu for d in running], dtype=float)
        return weights, most, np.array(numbers, dtype=int)

    def _share(self, domain: SimDomain) -> tuple[Key, float]:
        """Whose curve a machine follows, and its cores at a level of one; "" for what is fixed."""
        m = domain.hardware or domain.entry
        fixed = self._fixed.get(m.uid)
        if fixed is not None:
            return Key(""), min(fixed, float(m.cpu))
        spread = 1 + UNEVEN * (zlib.crc32(m.uid.encode()) % 2001 / 1000 - 1)
        return m.owner, m.cpu * spread

    def _level(self, owner: Key) -> float:
        if not owner:
            return 1.0
        curve = self._curves.get(owner, self._default)
        dice = zlib.crc32(f"{self._seed}/{owner}/{self._round}".encode()) % 2001 / 1000 - 1
        return min(1.0, max(0.0, curve.at(self._world.now - self._start) + curve.noise * SPREAD * dice))

    def _view(self, server: SimServer, levels: Floats) -> LoadView:
        machines: list[MachineLoad] = []
        for domain in server.domains.values():
            if domain.state == "running":
                owner, weight = self._share(domain)
                m = domain.hardware or domain.entry
                cores = min(float(m.cpu), weight * float(levels[self._owners[owner]]))
                noise = self._curves.get(owner, self._default).noise
                machines.append(MachineLoad(m.uid, cores, noise * m.cpu))
        wanted = sum(m.cpu for m in machines)
        if wanted > server.cpus:  # they share what there is
            scale = server.cpus / wanted
            machines = [MachineLoad(m.uid, m.cpu * scale, m.deviation) for m in machines]
            wanted = float(server.cpus)
        return LoadView(server=server.name, cpu=wanted, machines=tuple(machines))
