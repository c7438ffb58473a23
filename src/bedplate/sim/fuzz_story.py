"""Random stories: a world, what users declare, and what goes wrong in it, all from one seed.

Rates are those of a real fleet's troubles among each other (see `WEIGHTS`), scaled up so far that a day of fifty
servers has some thirty of them; durations are long enough for every clock in the product to run out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from bedplate.sim.scenario import actions as do
from bedplate.sim.scenario import bare_actions
from bedplate.sim.scenario.actions import AnyAction
from bedplate.sim.scenario.expectation import LIVE
from bedplate.sim.scenario.folder import Scenario
from bedplate.sim.scenario.plain import Time
from bedplate.sim.scenario.script import Script
from bedplate.sim.scenario.setting import Application, Pool, Servers, Setting, Tenant, Vm

PER_HOUR = 1.2
"""Troubles an hour of a whole fleet, whatever its size. Real ones are some thousand times rarer (server failures:
0.024 a year and more for memory and disks, AzurePublicDataset GreenSKU): a day here is years of trouble."""
FEWEST = 4
SHARED = 8
"""So many seeds in a row begin in one world: bringing it to Ready takes as long as a day in it."""
CALM_AFTER = Time(4 * 3600)
"""What is left of a story once all is mended."""
METAL = "metal"
"""The name of the pool on bare servers."""
CALM_WITH_METAL = Time(12 * 3600)
"""The same with bare servers: erasing and deploying one takes three boots of up to 20 min, and some are tried again."""


class _Dice:
    """Draws for one story."""

    def __init__(self, seed: int, setting: Setting, hours: float) -> None:
        self.random = random.Random(f"{seed}/faults")
        self.setting = setting
        self.hours = hours
        self.servers = [f"{g.name}{n}" for g in setting.groups for n in range(1, g.count + 1)]
        self.shared = "shared" in setting.pools.values()
        self.bare = [f"{g.name}{n}" for g in setting.groups if g.bare for n in range(1, g.count + 1)]
        self.racks = sorted({v for g in setting.groups for v in _values(g.place.get("rack"))})
        self.feeds = sorted(
            {(k, v) for g in setting.groups for k in g.place if k != "rack" for v in _values(g.place[k])}
        )
        self.pools = [(f"{c}-{p}", pool.replicas) for c, t in setting.clusters.items() for p, pool in t.pools.items()]
        self.planes = [(c, t.control_plane) for c, t in setting.clusters.items()]

    def time(self) -> Time:
        """A moment of the story."""
        return Time(round(self.random.uniform(0.0, self.hours * 3600.0), 1))

    def lasting(self, low: float, high: float) -> Time:
        """A duration; short ones are as likely as long ones."""
        return Time(round(low * (high / low) ** self.random.random(), 1))

    def server(self) -> str:
        """Any server."""
        return self.random.choice(self.servers)

    def several(self) -> tuple[str, ...]:
        """One server, mostly; or a rack of them; or any number, up to all."""
        kind = self.random.random()
        if kind < 0.7 or len(self.servers) < 3:
            return (self.server(),)
        size = max(2, len(self.servers) // 8) if kind < 0.9 else self.random.randint(2, len(self.servers))
        return tuple(self.random.sample(self.servers, min(size, len(self.servers))))

    def machine(self) -> str:
        """Any node, mostly a worker."""
        owner, count = self.random.choice(self.planes if self.random.random() < 0.25 else self.pools)
        return f"{owner}/{self.random.randrange(count)}"

    def worker(self) -> str:
        """Any worker."""
        owner, count = self.random.choice(self.pools)
        return f"{owner}/{self.random.randrange(count)}"


def _values(place: Any) -> tuple[str, ...]:
    return () if place is None else (place,) if isinstance(place, str) else tuple(place)


# --- what goes wrong ----------------------------------------------------------------------------------------------

Trouble = Callable[[_Dice, Time], list[AnyAction]]


def _power(d: _Dice, at: Time) -> list[AnyAction]:
    name, again = d.server(), Time(at + d.lasting(60, 4 * 3600))
    return [do.PowerOff(server=name, at=at), do.PowerOn(server=name, at=again)]


def _feed(d: _Dice, at: Time) -> list[AnyAction]:
    places = [("rack", r) for r in d.racks] + d.feeds
    if not places:
        return _power(d, at)
    label, value = d.random.choice(places)
    return [do.LosePower(place=f"{label}={value}", at=at, for_=d.lasting(30, 2 * 3600))]


def _reboot(d: _Dice, at: Time) -> list[AnyAction]:
    name, returns = d.server(), d.random.random() < 0.7
    found: list[AnyAction] = [do.Reboot(server=name, returns=returns, at=at)]
    return found if returns else [*found, do.Repair(server=name, at=Time(at + d.lasting(1800, 6 * 3600)))]


def _hang(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.Hang(server=d.server(), guests_run_on=d.random.random() < 0.5, at=at, for_=d.lasting(5, 3600))]


def _libvirt(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.HangLibvirt(server=d.server(), at=at, for_=d.lasting(10, 3600))]


def _agent(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.KillAgent(server=d.server(), at=at, for_=d.lasting(1, 600), returns=d.random.random() < 0.9)]


def _management(d: _Dice, at: Time) -> list[AnyAction]:
    lost: Any = d.random.choice(["both", "both", "up", "down"])
    return [do.Cut(servers=d.several(), lost=lost, at=at, for_=d.lasting(1, 3600))]


def _storage(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.Cut(servers=d.several(), network="storage", at=at, for_=d.lasting(2, 3600))]


def _guests(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.Cut(servers=d.several(), network="guests", at=at, for_=d.lasting(2, 3600))]


def _partition(d: _Dice, at: Time) -> list[AnyAction]:
    names, seconds = d.several(), d.lasting(5, 3600)
    found: list[AnyAction] = []
    for network in ("storage", "guests", "management"):
        if network != "guests" or d.random.random() < 0.7:
            found.append(do.Cut(servers=names, network=network, at=at, for_=seconds))  # type: ignore[arg-type]
    if d.random.random() < 0.5:
        for name in names:
            found.append(do.BmcChange(server=name, reachable=False, at=at))
            found.append(do.BmcChange(server=name, reachable=True, at=Time(at + seconds)))
    return found


def _bmc(d: _Dice, at: Time) -> list[AnyAction]:
    name, end = d.server(), Time(at + d.lasting(600, 12 * 3600))
    bad, good = d.random.choice(
        [
            ({"reachable": False}, {"reachable": True}),
            ({"seconds": 5.0}, {"seconds": 0.2}),
            ({"lies": "on"}, {"lies": ""}),
            ({"deaf": True}, {"deaf": False}),
        ]
    )
    first: Any = do.BmcChange(server=name, at=at, **bad)  # type: ignore[arg-type]
    return [first, do.BmcChange(server=name, at=end, **good)]  # type: ignore[arg-type]


def _hardware(d: _Dice, at: Time) -> list[AnyAction]:
    name, end = d.server(), Time(at + d.lasting(600, 12 * 3600))
    severity: Any = d.random.choice(["warning", "critical"])
    return [do.Ails(server=name, severity=severity, at=at), do.Ails(server=name, severity="", at=end)]


def _dead_bmc_and_server(d: _Dice, at: Time) -> list[AnyAction]:
    name = d.server()
    return [
        do.BmcChange(server=name, reachable=False, at=at),
        do.PowerOff(server=name, at=Time(at + d.lasting(1, 600))),
        do.PowerOn(server=name, at=Time(at + 600 + d.lasting(60, 2 * 3600))),
        do.BmcChange(server=name, reachable=True, at=Time(at + 4 * 3600)),
    ]


def _disk(d: _Dice, at: Time) -> list[AnyAction]:
    pool = d.random.choice(sorted(d.setting.pools))
    server = "" if d.setting.pools[pool] == "shared" else d.server()
    change: dict[str, Any] = d.random.choice([{"gone": True}, {"full": True}, {"slow": 3.0}, {"slow": 20.0}])
    return [do.DiskPoolChange(pool=pool, server=server, at=at, for_=d.lasting(2, 3600), **change)]


def _guest_ends(d: _Dice, at: Time) -> list[AnyAction]:
    if d.random.random() < 0.2:
        return [do.EndMachine(machine=d.worker(), at=at, lose_disk=True, undefine=d.random.random() < 0.5)]
    return [do.EndMachine(machine=d.machine(), at=at)]


def _guest_hangs(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.HangGuest(machine=d.machine(), at=at)]


def _kubelet(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.StopKubelet(machine=d.machine(), at=at, broken=d.random.random() < 0.5)]


def _api(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.StopApi(cluster=d.random.choice(d.planes)[0], at=at, for_=d.lasting(10, 3600))]


def _move(d: _Dice, at: Time) -> list[AnyAction]:
    fault: Any = d.random.choice(["fails", "arrives unknown", "stays unknown", "paused"])
    return [do.NextMove(fault=fault, at=at, times=d.random.randint(1, 4))]


_STEPS = (
    "StartDomain", "DefineDomain", "CreateVolume", "RemoveDomain", "DeleteVolume", "RetainVolume", "StopDomain",
    "ForgetDomain", "ReceiveDomain", "MigrateDomain", "PowerOff", "ReadPower", "MarkOutOfService", "ClearOutOfService",
    "DrainNode", "DeleteNode", "RemoveEtcdMember", "Bootstrap", "PowerOn", "BootMedia", "BootDisk", "InspectServer",
    "RunTests", "WriteImage", "EraseDisks", "RestartKubelet", "ForgetNode", "UncordonNode",
)  # fmt: skip


def _step(d: _Dice, at: Time) -> list[AnyAction]:
    fault: Any = d.random.choice(["lost reply", "lost command", "done twice", "half done", "failed"])
    return [do.NextStep(step=d.random.choice(_STEPS), fault=fault, times=d.random.randint(1, 3), at=at)]


def _clock(d: _Dice, at: Time) -> list[AnyAction]:
    seconds = d.random.choice([-1.0, 1.0]) * float(d.lasting(1, 120))
    return [do.JumpClock(seconds=seconds, server=d.server() if d.random.random() < 0.6 else "", at=at)]


def _controller(d: _Dice, at: Time) -> list[AnyAction]:
    kind = d.random.random()
    if kind < 0.5:
        return [do.KillController(at=at, for_=d.lasting(1, 1800))]
    if kind < 0.8:
        return [do.KillController(at=at, before=d.random.randint(1, 60))]
    return [do.StartController(at=at)]


def _store(d: _Dice, at: Time) -> list[AnyAction]:
    return [do.BreakStore(at=at, for_=d.lasting(2, 900))]


def _maintain(d: _Dice, at: Time) -> list[AnyAction]:
    name, end = d.server(), Time(at + d.lasting(30, 4 * 3600))
    found: list[AnyAction] = [do.Maintain(server=name, at=at)]
    if d.random.random() < 0.5:
        found.append(do.Reboot(server=name, at=Time(at + d.lasting(60, 1800)), returns=d.random.random() < 0.9))
        found.append(do.Repair(server=name, at=end))
    return [*found, do.Unmaintain(server=name, at=end)]


def _pause(d: _Dice, at: Time) -> list[AnyAction]:
    what = d.random.choice(["", f"cluster/{d.random.choice(d.planes)[0]}", f"server/{d.server()}"])
    return [do.Pause(object=what, at=at), do.Resume(object=what, at=Time(at + d.lasting(60, 2 * 3600)))]


def _scale(d: _Dice, at: Time) -> list[AnyAction]:
    pool, replicas = d.random.choice(d.pools)
    more = [-2, -1, 1] if not pool.endswith(METAL) else [-2, -1]  # there may be no bare server to spare
    wanted = max(1, replicas + d.random.choice(more))
    return [do.Scale(pool=pool, replicas=wanted, at=at), do.Scale(pool=pool, replicas=replicas, at=d.time())]


def _bare(d: _Dice, at: Time) -> list[AnyAction]:
    """Something with a bare server, where there is one."""
    if not d.bare:
        return _scale(d, at)
    name = d.random.choice(d.bare)
    kind: float = d.random.random()
    to: Any
    if kind < 0.3:
        return [bare_actions.Bare(server=name, silent_boots=d.random.randint(1, 3), at=at)]
    if kind < 0.5:
        return [bare_actions.Bare(server=name, stubborn="1", at=at)]
    if kind < 0.6:
        return [bare_actions.Bare(server=name, failing="2", at=at)]
    if kind < 0.75 and d.shared:
        begin, end = sorted([at, d.time()])
        role, to = bare_actions.Role, d.random.choice(["hypervisor", "auto"])
        return [role(server=name, to=to, at=begin), role(server=name, to="free", at=end)]
    if kind < 0.87:
        begin, end = sorted([at, d.time()])
        rescue = bare_actions.Rescue
        return [rescue(server=name, at=begin), rescue(server=name, undo=True, at=end)]
    what: Any = d.random.choice(["inspect", "test", "erase"])
    return [bare_actions.Ask(server=name, to=what, at=at)]


WEIGHTS: dict[Trouble, float] = {
    _power: 6,  # the failure of servers is what all is about
    _feed: 2,
    _reboot: 1,
    _hang: 3,
    _libvirt: 2,
    _agent: 4,
    _management: 6,  # networks fail more often than servers, and mend faster
    _storage: 2,
    _guests: 2,
    _partition: 4,
    _bmc: 4,  # the least kept parts of a datacentre
    _hardware: 1,
    _dead_bmc_and_server: 2,
    _disk: 3,
    _guest_ends: 5,
    _guest_hangs: 3,
    _kubelet: 2,
    _api: 2,
    _move: 3,
    _step: 6,
    _clock: 1,
    _controller: 5,
    _store: 1,
    _maintain: 6,
    _pause: 2,
    _scale: 2,
    _bare: 3,
}


# --- the world ----------------------------------------------------------------------------------------------------


def setting_of(seed: int, servers: int) -> Setting:
    """A world of so many servers in racks and on feeds, filled to about a half, on shared disks, local ones or both."""
    r = random.Random(f"{seed}/world")
    racks = tuple(f"r{n}" for n in range(1, max(2, min(12, servers // 4)) + 1))
    place: dict[str, str | tuple[str, ...]] = {"rack": racks}
    feeds = r.random()
    if feeds < 0.3:
        place["power"] = ("a", "b")
    elif feeds < 0.6:
        place |= {"power-a": "a", "power-b": "b"}
    kinds: Any = r.choice(
        [{"shared": "shared"}, {"shared": "shared"}, {"local": "local"}, {"shared": "shared", "local": "local"}]
    )
    bmc = r.random() < 0.85
    # Dice of their own: the worlds of seeds that are known stay as they were, but for that.
    generations = random.Random(f"{seed}/cpus").random()
    mixed = generations < 0.3
    group = Servers(count=servers, place=place, bmc=bmc, cpu=("new", "old") if mixed else "new")
    clusters: dict[str, Tenant] = {}
    budget = int(servers * 65_536 * r.uniform(0.3, 0.55))
    for n in range(max(1, servers // 12)):
        tenant, used = _tenant(r, budget // max(1, servers // 12), servers, list(kinds))
        budget -= used
        clusters[f"c{n + 1}"] = tenant
    shared = tuple(name for name, type_ in kinds.items() if type_ == "shared")
    groups = (group, *_bare_servers(r, servers, place, clusters, shared))
    machines = {f"vm{n + 1}": Vm(disk_pool=r.choice([*kinds, ""])) for n in range(max(1, servers // 10))}
    return Setting(
        seed=seed,
        servers=groups,
        pools=kinds,
        clusters=clusters,
        machines=machines,
        image_locks=r.random() < 0.5,
        fleet={"cpuModel": "host-passthrough"} if generations < 0.15 else {},
    )


def _bare_servers(
    r: random.Random,
    servers: int,
    place: dict[str, str | tuple[str, ...]],
    clusters: dict[str, Tenant],
    shared: tuple[str, ...],
) -> tuple[Servers, ...]:
    """In two worlds of five: bare servers, and a pool of the first cluster on them, with or without one to spare."""
    if r.random() < 0.6:
        return ()
    count = max(2, servers // 6)
    replicas = max(1, count - r.choice([0, 1, 2]))
    clusters["c1"].pools[METAL] = Pool(replicas=replicas, memory="8Gi", substrate="metal")
    # What lies on a hypervisor's own disks may be a person's to move before it is given back: none is there.
    return (Servers(name="bm", count=count, place=place, bare=True, pools=shared),)


def _tenant(r: random.Random, mib: int, servers: int, kinds: list[str]) -> tuple[Tenant, int]:
    planes = r.choice([1, 3]) if servers >= 3 else 1
    memory = r.choice([8, 16, 24])
    replicas = max(1, min(12, (mib - planes * 2048) // (memory * 1024)))
    spread = r.choice(["", "rack"])
    pool = Pool(
        replicas=replicas,
        memory=f"{memory}Gi",
        disk_pool=r.choice([*kinds, ""]),
        spread=spread,
        drain_timeout=Time(r.choice([60, 600])),
    )
    apps = (
        Application(name="web", replicas=min(4, replicas), min_available=r.choice([0, max(0, min(4, replicas) - 1)])),
        Application(name="db", stateful=True, volume=True),
    )
    plane_pool = r.choice([*kinds, ""])
    tenant = Tenant(control_plane=planes, disk_pool=plane_pool, pools={"web": pool}, apps=apps)
    return tenant, replicas * memory * 1024 + planes * 2048


def story_of(seed: int, *, servers: int, hours: float) -> Scenario:
    """The whole story of a seed."""
    setting = setting_of(seed // SHARED, servers)
    d = _Dice(seed, setting, hours)
    count = max(FEWEST, round(d.random.gauss(hours * PER_HOUR, (hours * PER_HOUR) ** 0.5)))
    troubles = d.random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    events = [event for trouble in troubles for event in trouble(d, d.time())]
    end = Time(max(hours * 3600.0, 600.0))
    events = [e for e in events if e.at < end]
    events.sort(key=lambda e: float(e.at))
    events.append(do.Mended(at=end))
    calm = CALM_WITH_METAL if d.bare else CALM_AFTER
    return Scenario(
        name=f"seed_{seed}",
        story=f"# Seed {seed}\nA random story of {servers} servers and {hours:g} hours.",
        setting=setting,
        script=Script(
            lasts=Time(end + calm),
            events=tuple(events),
            chance=seed,
            lenient=True,
        ),
        expect=(f"finally {LIVE}",),
    )


def shortened(scenario: Scenario, events: tuple[AnyAction, ...]) -> Scenario:
    """The same with fewer events; the end comes when they are over."""
    script = msgspec.structs.replace(scenario.script, events=events)
    return msgspec.structs.replace(scenario, script=script)
