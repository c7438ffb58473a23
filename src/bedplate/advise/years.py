"""Years of a fleet, told by the production controllers in the simulated world: failures, repairs, patches.

One run is one history; `seed` decides its failures and how long things take. What people do (repair, patch, release a
repaired server) is done here as a careful operator would.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bedplate.advise import literature, trouble
from bedplate.advise.fleet import Profile, ServerModel
from bedplate.advise.packing import Layout
from bedplate.advise.trouble import YEAR, Failure
from bedplate.advise.twin import server_prefix
from bedplate.model.ids import ClusterKey, ServerName, key
from bedplate.model.policy import REQUESTS
from bedplate.model.times import timestamp
from bedplate.sim.scenario import opening
from bedplate.sim.scenario.editing import annotate, edit_spec
from bedplate.sim.scenario.setting import NAMESPACE
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story
from bedplate.sim.things import SimNode, SimServer
from bedplate.sim.world import LIVE

LOOK = 60.0
"""Seconds between an operator's looks at a server that is being patched."""
EMPTY_WITHIN, BACK_WITHIN = 7_200.0, 10_800.0
"""Seconds that an operator waits for an empty server, and for one that is rebooted."""
RELEASE_LOOKS = (0.0, 4 * 3600.0, 86_400.0)
"""Seconds after a bare server's repair at which a person looks whether it waits to be released."""
ADDED_WITHIN = 4 * 3_600.0
"""Seconds in which one more node has to be Ready."""
PATCHED_AT_ONCE = 40
"""One server of so many is patched at a time."""


Silences = dict[tuple[str, str], list[tuple[float, float]]]
"""Cluster and pod to the times in which it did not answer, from and to."""


class Downtime(msgspec.Struct, frozen=True, kw_only=True):
    """Of one workload in a run."""

    cluster: str
    workload: str
    replicas: int
    silent: float
    """Seconds in which replicas did not answer, added up over all."""
    outage: float
    """Seconds in which none answered."""
    interruptions: int
    """Times that a replica ceased to answer."""


class Struck(msgspec.Struct, frozen=True, kw_only=True):
    """What a server's failure did."""

    at: float
    server: str
    bare: bool
    clusters: int
    """That lost a worker or a control plane's machine."""
    share: float
    """Of its workers that the worst hit cluster lost."""
    pods: int
    recovered: float
    """Seconds until the last of the pods answered again."""


class Patched(msgspec.Struct, frozen=True, kw_only=True):
    """How a server was patched."""

    server: str
    bare: bool
    seconds: float
    interrupted: int
    """Pods that ceased to answer meanwhile on its nodes."""
    by_force: bool
    """It was not empty in time."""


class Blast(msgspec.Struct, frozen=True, kw_only=True):
    """What the failure of one server takes, over all servers that run something, as the fleet is at the beginning."""

    clusters: float
    """Clusters hit, on average."""
    share: float
    """Of its workers that the worst hit cluster loses, on average."""
    worst: float
    """The same, of the worst server."""
    pods: float
    """On average."""
    together: int
    """Clusters that share one server at most."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A history, summed up."""

    seed: int
    years: float
    downtimes: tuple[Downtime, ...] = ()
    struck: tuple[Struck, ...] = ()
    patched: tuple[Patched, ...] = ()
    outages: int = 0
    blast: Blast | None = None
    added: dict[str, float] = {}
    """Substrate to the seconds from an edit of a pool's replicas until one more node was Ready."""
    ready: bool = True
    """All was Ready at the end."""
    wrong: tuple[str, ...] = ()
    """Rules that were broken and plans that were refused: none, or a defect of Bedplate."""
    events: int = 0


class _Mark(msgspec.Struct):
    """What was on a server when something began to happen to it."""

    at: float
    server: str
    bare: bool
    pods: list[tuple[str, str]]
    clusters: int
    share: float
    until: float = 0.0
    by_force: bool = False


class Telling:
    """Tells one run in a world that was brought to its beginning.

    Args:
        years: How long it lasts.
    """

    def __init__(self, sim: Simulator, profile: Profile, layout: Layout, *, seed: int, years: float) -> None:
        self._sim = sim
        self._profile = profile
        self._layout = layout
        self._seed = seed
        self._years = years
        self._begin = sim.now
        self._models = _models(profile, layout)
        self._struck: list[_Mark] = []
        self._patched: list[_Mark] = []
        self._repairing: set[str] = set()
        self._outages = 0

    def tell(self) -> Run:
        """Let the years pass, and sum up."""
        sim = self._sim
        opening.take_chances(sim, self._seed)
        for failure in trouble.failures(self._profile, self._models.items(), self._seed, self._years):
            sim.at(self._begin + failure.at, lambda f=failure: self._fail(f))
        for o in trouble.outages(self._profile, self._seed, self._years):
            self._outages += 1
            sim.at(self._begin + o.at, lambda o=o: sim.lose_power(o.label, o.value, o.lasts))
        self._plan_patches()
        end = self._begin + self._years * YEAR
        blast = self._blast()
        opening.let_pass(sim, end - sim.now, events=100_000_000)
        summed = self._sum_up()
        return msgspec.structs.replace(summed, blast=blast, added=self._add_nodes())

    # --- failures -------------------------------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> None:
        self._struck.append(self._mark(failure.server))
        self._repairing.add(failure.server)
        self._sim.reboot(failure.server, returns=False)
        self._sim.after(failure.repair, lambda: self._repair(failure.server), idle=True)

    def _repair(self, name: str) -> None:
        self._repairing.discard(name)
        self._sim.repair(name)
        for later in RELEASE_LOOKS if self._server(name).bare is not None else ():
            self._sim.after(later, lambda: self._release(name), idle=True)

    def _release(self, name: str) -> None:
        """A person looks at a repaired bare server: what was replaced elsewhere meanwhile is given up on its disks."""
        entry = self._sim.store.blueprint.metal(ServerName(name))
        if entry is not None and entry.state == "quarantined":
            annotate(self._sim, key("server", name), REQUESTS["erase"], timestamp(self._sim.now))

    # --- patches --------------------------------------------------------------------------------------------------

    def _plan_patches(self) -> None:
        given = self._profile.operations.patches or literature.PATCHES.amount
        rounds = round(given.mid * self._years)
        for n in range(rounds):
            at = (n + 0.5) * self._years * YEAR / rounds
            self._sim.at(self._begin + at, self._begin_round)

    def _begin_round(self) -> None:
        """Patch every server that runs something, one after the other."""
        queue = [name for name in self._models if self._in_use(name)]
        for _ in range(max(1, len(queue) // PATCHED_AT_ONCE)):
            self._next_patch(queue)

    def _in_use(self, name: str) -> bool:
        server = self._server(name)
        return server.bare is None or any(d.state in LIVE for d in server.domains.values())

    def _next_patch(self, queue: list[str]) -> None:
        while queue:
            name = queue.pop(0)
            server = self._server(name)
            if name not in self._repairing and server.powered and server.connected:
                self._patch(name, lambda: self._next_patch(queue))
                return

    def _patch(self, name: str, then: Callable[[], None]) -> None:
        mark = self._mark(name)
        self._patched.append(mark)
        self._sim.maintain(name)
        self._wait(
            lambda: not any(d.state in LIVE for d in self._server(name).domains.values()),
            EMPTY_WITHIN,
            lambda empty: self._emptied(mark, empty, then),
        )

    def _emptied(self, mark: _Mark, empty: bool, then: Callable[[], None]) -> None:
        """Empty: rebooted, but for a bare server, whose next node comes from a patched image."""
        mark.by_force = not empty
        if mark.server in self._repairing or (mark.bare and empty):
            self._patched_now(mark, then)
            return
        self._sim.reboot(mark.server)
        self._wait(lambda: self._is_back(mark.server), BACK_WITHIN, lambda _: self._patched_now(mark, then))

    def _is_back(self, name: str) -> bool:
        """One that was not empty was fenced for its silence; whoever rebooted it switches it on again."""
        server = self._server(name)
        if not server.powered and name not in self._repairing:
            self._sim.power_on(name)
        return server.connected and server.booted

    def _patched_now(self, mark: _Mark, then: Callable[[], None]) -> None:
        mark.until = self._sim.now
        self._sim.unmaintain(mark.server)
        self._sim.after(LOOK, then, idle=True)

    def _wait(self, done: Callable[[], bool], within: float, then: Callable[[bool], None]) -> None:
        end = self._sim.now + within

        def look() -> None:
            if done() or self._sim.now >= end:
                then(done())
            else:
                self._sim.after(LOOK, look, idle=True)

        self._sim.after(LOOK, look, idle=True)

    # --- agility --------------------------------------------------------------------------------------------------

    def _add_nodes(self) -> dict[str, float]:
        """After the years, have the largest pool of each substrate grow by one node, and see how long it takes."""
        found: dict[str, float] = {}
        for substrate in ("vm", "metal"):
            pools = [g for g in self._layout.groups if g.substrate == substrate]
            if not pools:
                continue
            group = max(pools, key=lambda g: (g.nodes, g.cluster))
            cluster = f"{NAMESPACE}/{group.cluster}"
            pool, began, before = f"{group.cluster}-{group.name}", self._sim.now, self._ready(cluster)
            edit_spec(self._sim, key("nodepool", NAMESPACE, pool), replicas=group.nodes + 1)
            if self._sim.run(lambda c=cluster, b=before: self._ready(c) > b, seconds=ADDED_WITHIN, quiet=ADDED_WITHIN):
                found[substrate] = self._sim.now - began
        return found

    def _ready(self, cluster: str) -> int:
        return sum(1 for n in self._nodes(cluster) if n.ready)

    # --- looking --------------------------------------------------------------------------------------------------

    def _server(self, name: str) -> SimServer:
        return self._sim.server(name)

    def _mark(self, name: str) -> _Mark:
        server = self._server(name)
        lost: dict[str, int] = {}
        pods: list[tuple[str, str]] = []
        clusters: set[str] = set()
        for domain in server.domains.values():
            m = domain.entry
            if domain.state not in LIVE or not m.cluster:
                continue
            clusters.add(m.cluster)
            found = self._sim.world.nodes.get(m.uid)
            if found is not None and found[1].worker:
                lost[m.cluster] = lost.get(m.cluster, 0) + 1
                pods += [(m.cluster, p.name) for p in found[0].pods.values() if p.node == found[1].name]
        shares = [n / max(1, len(self._nodes(c))) for c, n in lost.items()]
        return _Mark(self._sim.now, name, server.bare is not None, pods, len(clusters), max(shares, default=0.0))

    def _nodes(self, cluster: str) -> list[SimNode]:
        """A cluster's workers."""
        return [n for n in self._sim.world.clusters[ClusterKey(cluster)].nodes.values() if n.worker]

    def _blast(self) -> Blast:
        marks = [m for name in self._models if (m := self._mark(name)).clusters]
        return Blast(
            clusters=sum(m.clusters for m in marks) / max(1, len(marks)),
            share=sum(m.share for m in marks) / max(1, len(marks)),
            worst=max((m.share for m in marks), default=0.0),
            pods=sum(len(m.pods) for m in marks) / max(1, len(marks)),
            together=max((m.clusters for m in marks), default=0),
        )

    # --- summing up -----------------------------------------------------------------------------------------------

    def _sum_up(self) -> Run:
        sim = self._sim
        silences: Silences = {
            (str(cluster.key), pod.name): self._silences(pod.history)
            for cluster in sim.world.clusters.values()
            for pod in cluster.pods.values()
        }
        return Run(
            seed=self._seed,
            years=self._years,
            downtimes=tuple(self._downtimes(silences)),
            struck=tuple(self._told(m, silences) for m in self._struck),
            patched=tuple(_patch_told(m, silences, sim.now) for m in self._patched),
            outages=self._outages,
            ready=not Story(sim).unready(),
            wrong=(*sim.world.violations[:5], *[f"a plan was refused: {said}" for said in list(sim.refused)[:5]]),
            events=sim.events,
        )

    def _silences(self, history: list[tuple[float, bool, str]]) -> list[tuple[float, float]]:
        """From when to when a pod did not answer, since the beginning."""
        found: list[tuple[float, float]] = []
        since: float | None = None
        for at, answers, _ in history:
            if at < self._begin:
                since = None if answers else self._begin
            elif answers and since is not None:
                found.append((since, at))
                since = None
            elif not answers and since is None:
                since = at
        if since is not None:
            found.append((since, self._sim.now))
        return found

    def _downtimes(self, silences: Silences) -> list[Downtime]:
        found: list[Downtime] = []
        for cluster in self._sim.world.clusters.values():
            apps: dict[str, list[str]] = {}
            for pod in cluster.pods.values():
                apps.setdefault(pod.app.name, []).append(pod.name)
            for app, pods in apps.items():
                mine = [silences[cluster.key, p] for p in pods]
                found.append(
                    Downtime(
                        cluster=cluster.key.partition("/")[2],
                        workload=app,
                        replicas=len(pods),
                        silent=sum(b - a for s in mine for a, b in s),
                        outage=_together(mine),
                        interruptions=sum(len(s) for s in mine),
                    )
                )
        return found

    def _told(self, m: _Mark, silences: Silences) -> Struck:
        ends = [b for p in m.pods for a, b in silences.get(p, ()) if m.at <= a <= m.at + LOOK]
        return Struck(
            at=m.at - self._begin,
            server=m.server,
            bare=m.bare,
            clusters=m.clusters,
            share=m.share,
            pods=len(m.pods),
            recovered=max((e - m.at for e in ends), default=0.0),
        )


def _patch_told(m: _Mark, silences: Silences, now: float) -> Patched:
    until = m.until or now
    return Patched(
        server=m.server,
        bare=m.bare,
        seconds=until - m.at,
        interrupted=sum(1 for p in m.pods if any(m.at <= a <= until for a, _ in silences.get(p, ()))),
        by_force=m.by_force,
    )


def _together(silences: list[list[tuple[float, float]]]) -> float:
    """Seconds in which all were silent."""
    common = silences[0] if silences else []
    for other in silences[1:]:
        common = [(max(a, c), min(b, d)) for a, b in common for c, d in other if max(a, c) < min(b, d)]
        if not common:
            return 0.0
    return sum(b - a for a, b in common)


def _models(profile: Profile, layout: Layout) -> dict[str, ServerModel]:
    """Every server of the layout by its name in the twin."""
    found: dict[str, ServerModel] = {}
    for model in profile.servers:
        for n in range(layout.servers.get(model.name, 0)):
            found[f"{server_prefix(model)}{n + 1}"] = model
    return found
