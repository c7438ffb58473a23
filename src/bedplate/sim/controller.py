"""One simulated controller: the real engine, its commands carried out against the simulated store and world.

It dies before any command, and all of that turn's writes with it; what it knew is gone then, what it set going in the
world goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from bedplate.engine import messages as msg
from bedplate.engine.engine import Engine
from bedplate.model.ids import ClusterKey, Epoch, Key, OperationId, ServerName
from bedplate.model.inventory import AnyView, BmcView, Observation, ServerView
from bedplate.model.kinds.base import Object
from bedplate.model.steps import Done, StepResult, Unknown
from bedplate.ports import ClusterAccess, CommitConflict
from bedplate.sim import leases, power, views
from bedplate.sim.store import StoreCommand

if TYPE_CHECKING:
    from bedplate.sim.delivery import Attempted
    from bedplate.sim.simulator import Simulator

LATENCY = 0.003
"""Seconds between the store's or an agent's answer and the engine's hearing of it."""


class SimController:
    """A controller's life, from taking the lead to its death."""

    def __init__(self, sim: Simulator, engine: Engine, number: int) -> None:
        self.sim = sim
        self.engine = engine
        self.name = f"controller {number}"
        self.alive = True
        self.halted = ""
        self.epoch = Epoch(0)
        self.clock = 0.0
        """Seconds by which its clock is ahead."""
        self.linked: set[ServerName] = set()
        """Servers whose agents it takes for connected."""
        self.in_flight: dict[ServerName, list[Attempted]] = {}
        """Commands that agents have not answered."""
        self.followed: set[ClusterKey] = set()
        self.watched: set[ServerName] = set()
        """Servers whose BMCs it watches."""
        self._told: dict[Key, AnyView] = {}
        self._told_by: dict[ServerName, dict[Key, None]] = {}
        """Keys of what each agent told, but of its server itself."""
        self._answering: set[ClusterKey] = set()
        self._timer = 0
        self._refused: list[StoreCommand] = []

    def lead(self) -> None:
        """Take the lead; then agents connect and tell all that they know."""
        started = self.sim.store.lead()
        self.epoch = started.epoch
        self.handle(started)
        for server in self.sim.world.servers.values():
            if server.connected:
                self.sim.after(0.01, lambda name=server.name: self.agent_connected(name))

    def handle(self, event: msg.Event) -> None:
        """Give the engine an event and carry out what it says; what goes to the store goes in one transaction."""
        if not self.alive:
            return
        for_store: list[StoreCommand] = []
        for command in self.engine.handle(event, self.sim.now + self.clock):
            if self.sim.dies_here(self):
                return
            if isinstance(command, StoreCommand):
                for_store.append(command)
            else:
                self._carry_out(command)
        if for_store:
            self._write(for_store)

    def tell(self, event: msg.Event) -> None:
        """Queue an event."""
        self.sim.after(LATENCY, lambda: self.handle(event))

    def die(self) -> None:
        """`kill -9`."""
        self.alive = False

    # --- commands -------------------------------------------------------------------------------------------------

    def _carry_out(self, command: msg.Command) -> None:
        match command:
            case msg.Run():
                self.sim.run_step(self, command.step, command.ticket)
            case msg.SetTimer():
                self._set_timer(command.at)
            case msg.Follow():
                self._follow(command.clusters)
            case msg.FollowBmcs():
                self._follow_bmcs(set(command.servers))
            case msg.Halt():
                self.halted = command.message
                self.sim.say(self.name, f"stops acting: {command.message}")
            case _:
                raise AssertionError(f"not a command for the world: {command}")

    def _write(self, commands: list[StoreCommand]) -> None:
        if self.sim.store.broken or self._refused:
            if not self._refused:
                self.tell(msg.StoreFailed(message="no space left on device"))
            self._refused += commands
            return
        try:
            answers = self.sim.store.carry_out(commands, self._echo)
        except CommitConflict as conflict:
            self.tell(msg.CommitLost(message=str(conflict)))
            return
        numbers = iter([a.number for a in answers if isinstance(a, msg.Committed)])
        for command in commands:
            if isinstance(command, msg.Commit):
                self.sim.committed(self, next(numbers), command.delta)
            elif isinstance(command, msg.Begin):
                self.sim.begun(self, command.operation)
        for answer in answers:
            self.tell(answer)

    def store_healed(self) -> None:
        """The store takes writes again: those it refused come first."""
        refused, self._refused = self._refused, []
        if refused:
            self._write(refused)
        self.tell(msg.StoreHealed())

    def _echo(self, changes: Mapping[Key, Object | None]) -> None:
        if changes:
            self.tell(msg.SpecChanged(changes=changes))

    def _set_timer(self, at: float) -> None:
        self._timer += 1
        number = self._timer

        def tick() -> None:
            if number == self._timer:
                self.handle(msg.Ticked())

        when = at - self.clock
        while when + self.clock < at:  # rounded down, its own clock would never get there
            when = math.nextafter(when, math.inf)
        self.sim.at(when, tick, idle=True)

    # --- observations ---------------------------------------------------------------------------------------------

    def observe(self, dirty: Iterable[Key]) -> None:
        """Tell the engine what changed, as far as agents and watches can tell it."""
        for k in dirty:
            kind, *rest = k.split("/")
            if kind in {"server", "domain", "retained-disk-view", "load", "metal"}:
                self._agent_tells(ServerName(rest[0]), k)
            elif kind == "lease":
                self._agent_tells(ServerName(rest[2]), k)
            elif kind == "bmc":
                self._bmc_changed(ServerName(rest[0]))
            else:
                self._cluster_tells(ClusterKey(f"{rest[0]}/{rest[1]}"), k)

    def _agent_tells(self, name: ServerName, k: Key) -> None:
        server = self.sim.world.servers[name]
        if name not in self.linked or not (server.connected or server.half == "up"):
            return
        view = views.view(self.sim.world, k)
        if view is not None and self._told.get(k) != view:
            self._observed(f"agent/{name}", [view])

    def _follow_bmcs(self, names: set[ServerName]) -> None:
        fresh, self.watched = names - self.watched, names
        for name in sorted(fresh & self.sim.world.servers.keys()):
            self._bmc_changed(name)

    def _bmc_changed(self, name: ServerName) -> None:
        """Somebody looks about once a minute; silence is believed after three looks."""
        if name in self.watched:
            silent = not power.answers(self.sim.world.servers[name])
            seconds = self.sim.dawdle((2.0, power.LOOK)) + (power.LOOK if silent else 0.0)
            self.sim.after(seconds, lambda: self._bmc_tells(name), idle=True)

    def _bmc_tells(self, name: ServerName) -> None:
        view = power.bmc_view(self.sim.world.servers[name])
        if self.alive and name in self.watched and self._told.get(view.key) != view:
            self._observed(f"bmc/{name}", [view], full=True)

    def heard(self, result: StepResult) -> None:
        """What a step told counts as told."""
        if isinstance(result, Done):
            self._told.update((v.key, v) for v in result.views if isinstance(v, BmcView))

    def _cluster_tells(self, key: ClusterKey, k: Key) -> None:
        cluster = self.sim.world.clusters.get(key)
        if key not in self.followed or cluster is None:
            return
        if not self.sim.world.api(cluster):
            self._answering.discard(key)
            view = views.cluster_view(self.sim.world, cluster)
            if self._told.get(view.key) != view:
                self._observed(f"cluster/{key}", [view])
        elif key not in self._answering:
            self._answering.add(key)
            self._observed(f"cluster/{key}", views.everything_in(self.sim.world, cluster), full=True)
        else:
            view = views.view(self.sim.world, k)
            if view is not None and self._told.get(k) != view:
                self._observed(f"cluster/{key}", [view])

    def _observed(
        self, source: str, views: Sequence[AnyView], *, full: bool = False, until: float | None = None
    ) -> None:
        self._told.update((v.key, v) for v in views)
        kind, _, name = source.partition("/")
        if kind == "agent":
            of_agent = self._told_by.setdefault(ServerName(name), {})
            of_agent.update((v.key, None) for v in views if not isinstance(v, ServerView))
        good = float("inf") if until is None else until
        now = self.sim.now + self.clock
        seen = tuple(Observation(value=v, time=now, source=source, good_until=good) for v in views)
        self.tell(msg.Observed(source=source, observations=seen, full=full))

    def agent_connected(self, name: ServerName) -> None:
        """An agent is there: it tells everything once, and takes up the commands that it has not answered."""
        server = self.sim.world.servers[name]
        if not (self.alive and server.connected and server.epoch <= self.epoch):
            return
        self.linked.add(name)
        leases.assign(self.sim.world, server)
        for k in self._told_by.pop(name, ()):
            self._told.pop(k, None)  # what is not told now is not there
        self._observed(f"agent/{name}", views.everything_on(self.sim.world, server), full=True)
        for attempted in list(self.in_flight.get(name, ())):
            attempted.resume()

    def agent_lost(self, name: ServerName) -> None:
        """An agent is gone: what it told is known still, but no longer for what is."""
        server = self.sim.world.servers[name]
        self.linked.discard(name)
        source = f"agent/{name}"
        stale = [self._told[k] for k in self._told_by.get(name, ()) if k in self._told]
        down = ServerView(server=name, connected=False, host_uuid=server.host_uuid, error="its agent is not connected")
        known = self._told.get(down.key)
        if isinstance(known, ServerView):
            down = msgspec.structs.replace(known, connected=False, error="its agent is not connected")
        self._observed(source, [down])
        if stale:
            self._observed(source, stale, until=self.sim.now + self.clock)

    def give_up(self, name: ServerName) -> None:
        """An agent's connection did not come back in time: how its commands end is not known."""
        for attempted in list(self.in_flight.get(name, ())):
            attempted.give_up()

    def agent_refused(self, name: ServerName) -> None:
        """An agent calls that is not the one that was enrolled for this server."""
        server = self.sim.world.servers[name]
        said = f"server {name} comes back with another identity: host uuid {server.host_uuid}"
        view = ServerView(server=name, connected=False, host_uuid=server.enrolled, error=said)
        if self.alive:
            self._observed(f"agent/{name}", [view])

    def _follow(self, clusters: Mapping[ClusterKey, ClusterAccess]) -> None:
        for gone in self.followed - set(clusters):
            self._answering.discard(gone)
        fresh = set(clusters) - self.followed
        self.followed = set(clusters)
        for key in sorted(fresh):
            known = views.cluster_view(self.sim.world, self.sim.world.cluster(key)).key
            self._told.pop(known, None)
            self._cluster_tells(key, known)

    def lost(self, operation: OperationId, message: str) -> None:
        """A step's answer will not come."""
        self.tell(msg.StepEnded(operation=operation, result=Unknown(message=message)))
