"""The event heap on a virtual clock that drives the real engine, planner and checks against the simulated world.

The same seed gives the same history, line by line (`trace`). Nothing here decides what the engine should.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

import msgspec

from bedplate.checks.blueprint import Finding
from bedplate.checks.blueprint import check as check_plan
from bedplate.engine import messages as msg
from bedplate.engine.engine import Engine
from bedplate.model.blueprint import Delta
from bedplate.model.ids import Key, MachineUid, Revision, ServerName
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.policy import Policy
from bedplate.model.steps import Step, Ticket
from bedplate.planner.plan import PlanInput, PlanResult
from bedplate.sim import clusters, drivers
from bedplate.sim.controller import SimController
from bedplate.sim.delivery import Attempted
from bedplate.sim.durations import Durations
from bedplate.sim.faults import Faults
from bedplate.sim.store import SimStore
from bedplate.sim.truth import check
from bedplate.sim.world import Process, SimServer, World


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was begun, when."""

    time: float
    operation: OperationRecord


class Simulator:
    """A world, a store, and controllers that come and go.

    Args:
        world: What is real. Its `spawn` is taken over.
        store: What controllers find; a new one where it is None.
        kills: Numbers of commands (counted over all controllers from 1) before which the controller is killed.
        verify: Look at the world's truths after each change.
    """

    def __init__(
        self,
        world: World,
        *,
        store: SimStore | None = None,
        seed: int = 0,
        policy: Policy | None = None,
        durations: Durations | None = None,
        faults: Faults | None = None,
        kills: Iterable[int] = (),
        start: float = 1_000_000.0,
        verify: bool = True,
        restart_after: float = 1.0,
    ) -> None:
        self.world = world
        self.store = store or SimStore(world.store)
        self.now = start
        self.policy = policy or Policy()
        self.trace: list[str] = []
        self.steps: list[Begun] = []
        self.commits: list[Delta] = []
        self.controllers: list[SimController] = []
        self.commands = 0
        self.active = start
        """When something last happened but time passing."""
        self._seed = seed
        self._durations = durations or Durations(seed)
        self._faults = faults or Faults()
        self._kills = set(kills)
        self._verify = verify
        self._restart_after = restart_after
        self._heap: list[tuple[float, int, Callable[[], None], bool]] = []
        self._sequence = 0
        self._run_steps = 0
        self._silence_due = float("inf")
        self._broken: set[str] = set()
        self._waiting: dict[ServerName, list[Callable[[], None]]] = {}
        self._start = start
        world.now = start
        world.spawn = self._spawn

    # --- the clock ------------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], None], *, idle: bool = False) -> None:
        """Do something at a time. `idle`: it is no activity by itself."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now), self._sequence, action, idle))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in a while."""
        self.at(self.now + seconds, action)

    def say(self, who: str, what: str) -> None:
        """Add a line to the history."""
        self.trace.append(f"{self.now - self._start:9.2f}  {who}: {what}")

    def run(
        self,
        stop: Callable[[], bool] | None = None,
        *,
        seconds: float = 86_400.0,
        quiet: float = 4_000.0,
        events: int = 1_000_000,
    ) -> bool:
        """Let time pass until `stop`, or nothing has happened for `quiet` seconds, or a bound is reached.

        Returns:
            True where `stop` came true (or, without one, all fell quiet).
        """
        end = self.now + seconds
        for _ in range(events):
            if stop is not None and stop():
                return True
            if not self._heap or self._heap[0][0] > self.active + quiet:
                return stop is None
            if self._heap[0][0] > end:
                self.now = self.world.now = end
                return False
            self._next()
        return False

    def _next(self) -> None:
        time, _, action, idle = heapq.heappop(self._heap)
        self.now = self.world.now = time
        if not idle:
            self.active = time
        action()
        dirty = self.world.take_dirty()
        if not dirty:
            return
        self.active = time
        if self._verify:
            self._look()
        for controller in self.controllers:
            if controller.alive:
                controller.observe(dirty)
        if self._silence_due == float("inf"):
            self._silence_due = time + clusters.NODE_GRACE
            self.at(self._silence_due, self._silence, idle=True)

    def _silence(self) -> None:
        self._silence_due = float("inf")
        clusters.silence(self.world)

    def _look(self) -> None:
        found = set(check(self.world))
        for sentence in sorted(found - self._broken):
            self.world.violation("truth", sentence)
            self.say("world", f"BROKEN: {sentence}")
        self._broken = found

    def _spawn(self, process: Process) -> None:
        def go() -> None:
            try:
                delay = next(process)
            except StopIteration:
                return
            self.at(self.now + delay, go, idle=True)

        go()

    # --- users ----------------------------------------------------------------------------------------------------

    def apply(self, *objects: Object) -> None:
        """A user declares objects."""
        for obj in objects:
            self.say("user", f"declares {type(obj).__name__} {obj.metadata.name}")
            self._tell_spec(self.store.put(obj, self.now))

    def delete(self, k: Key) -> None:
        """A user deletes an object."""
        self.say("user", f"deletes {k}")
        kind, *rest = k.split("/")
        if kind == "cluster":
            for cluster in self.world.clusters.values():
                cluster.going |= cluster.key == "/".join(rest)
        self._tell_spec(self.store.delete(k, self.now))

    def _tell_spec(self, changes: dict[Key, Object | None]) -> None:
        self.active = self.now
        for controller in self.controllers:
            if controller.alive and changes:
                controller.tell(msg.SpecChanged(changes=changes))

    # --- controllers ----------------------------------------------------------------------------------------------

    def start_controller(self, known: Iterable[AnyView] = ()) -> SimController:
        """Start a controller; it takes the lead with a new epoch, whatever others do, once the store can be written.

        `known`: what it knows beforehand.
        """
        engine = Engine(self.policy, self._seed, _checked)
        controller = SimController(self, engine, len(self.controllers) + 1)
        self.controllers.append(controller)
        seen = tuple(Observation(value=v, time=self.now, source="step") for v in known)
        engine.handle(msg.Observed(source="step", observations=seen), self.now)
        self.say(controller.name, "starts")
        self._take_lead(controller)
        return controller

    def _take_lead(self, controller: SimController) -> None:
        self.active = self.now
        if self.store.broken:
            self.after(1.0, lambda: self._take_lead(controller))
        else:
            controller.lead()

    @property
    def controller(self) -> SimController:
        """The controller that leads, or was the last to."""
        return max(self.controllers, key=lambda c: (c.alive and not c.halted, c.epoch))

    @property
    def engine(self) -> Engine:
        """The leading controller's engine."""
        return self.controller.engine

    def dies_here(self, controller: SimController) -> bool:
        """Count a command; True where the controller is killed before it."""
        self.commands += 1
        if self.commands not in self._kills:
            return False
        self.kill_controller(controller)
        self.after(self._restart_after, lambda: None if self._led() else void(self.start_controller()))
        return True

    def _led(self) -> bool:
        return any(c.alive for c in self.controllers)

    def kill_controller(self, controller: SimController | None = None) -> None:
        """`kill -9`."""
        victim = controller or self.controller
        self.say(victim.name, "is killed")
        victim.die()

    def committed(self, controller: SimController, number: Revision, delta: Delta) -> None:
        """A blueprint was committed."""
        self.active = self.now
        self.commits.append(delta)
        changes = ", ".join(f"{'-' if e is None else ''}{k}" for k, e in delta.changes.items())
        self.say(controller.name, f"blueprint {number}: {changes}")

    def begun(self, controller: SimController, operation: OperationRecord) -> None:
        """A step was journalled."""
        self.active = self.now
        self.steps.append(Begun(time=self.now, operation=operation))

    # --- steps ----------------------------------------------------------------------------------------------------

    def run_step(self, controller: SimController, step: Step, ticket: Ticket) -> None:
        """Run a step in the world, with what goes wrong with it."""
        self.active = self.now
        fault = self._faults.of(self._run_steps)
        self._run_steps += 1
        Attempted(self, controller, step, ticket, fault).begin()

    # --- what happens to the world --------------------------------------------------------------------------------

    def cut(self, name: str, seconds: float | None = None) -> None:
        """Cut an agent's connection; heal it after so many seconds, if any are given."""
        server = self.world.servers[ServerName(name)]
        if not server.connected:
            return
        self.say("world", f"{name} loses its connection")
        server.connected = False
        for controller in self.controllers:
            if controller.alive:
                controller.agent_lost(server.name)
        if seconds is not None:
            self.after(seconds, lambda: self.heal(name))

    def heal(self, name: str) -> None:
        """Connect an agent again, where its server is on."""
        server = self.world.servers[ServerName(name)]
        if server.connected or not server.powered:
            return
        if server.host_uuid != server.enrolled:
            self.say("world", f"{name} is refused: it has another identity")
            for controller in self.controllers:
                controller.agent_refused(server.name)
            return
        self.say("world", f"{name} is connected again")
        self.active = self.now
        server.connected = True
        for reply in self._waiting.pop(server.name, []):
            reply()
        for controller in self.controllers:
            controller.agent_connected(server.name)

    def break_store(self, seconds: float) -> None:
        """The store's disk is full for a while: nothing can be written."""
        self.say("world", "the store's disk is full")
        self.store.broken = True

        def heal() -> None:
            self.say("world", "the store's disk has room again")
            self.store.broken = False
            self.active = self.now
            for controller in self.controllers:
                if controller.alive:
                    controller.store_healed()

        self.after(seconds, heal)

    def kill_agent(self, name: str, seconds: float = 2.0) -> None:
        """`kill -9` of an agent: what it was doing is not finished; it is back after a while."""
        server = self.world.servers[ServerName(name)]
        server.commands += 1
        self._waiting.pop(server.name, None)
        self.cut(name, seconds)

    def power_off(self, name: str) -> None:
        """A server dies with all that runs on it."""
        server = self.world.servers[ServerName(name)]
        self.kill_agent(name)
        self.say("world", f"{name} loses its power")
        server.powered = False
        for domain in server.domains.values():
            if domain.state == "running":
                self.world.set_state(server, domain, "shutoff")

    def power_on(self, name: str) -> None:
        """A server comes back; its domains do not start by themselves."""
        server = self.world.servers[ServerName(name)]
        server.powered = True
        server.boots += 1
        self.after(30.0, lambda: self.heal(name))

    def end_domain(self, uid: MachineUid, *, lose_disk: bool = False, undefine: bool = False) -> None:
        """A domain ends by itself or by somebody's hand; its disk may go with it."""
        for server in self.world.servers.values():
            domain = server.domains.get(uid)
            if domain is None:
                continue
            self.say("world", f"{domain.entry.name} on {server.name} ends{' with its disk' if lose_disk else ''}")
            self.active = self.now
            self.world.set_state(server, domain, "crashed")
            if undefine:
                self.world.drop_domain(server, uid)
            if lose_disk:
                self.world.drop_volume(server, uid)
        self._flush()

    def wait_for(self, server: SimServer, reply: Callable[[], None]) -> None:
        """Keep an answer until the agent's connection is back."""
        self._waiting.setdefault(server.name, []).append(reply)

    def _flush(self) -> None:
        self.at(self.now, lambda: None)

    def perform(self, step: Step, ticket: Ticket) -> drivers.Running:
        """Give the running step."""
        return drivers.perform(self.world, self._durations, step, ticket)

    def dawdle(self) -> float:
        """A short while."""
        return self._durations.draw((0.2, 3.0))


def _checked(inp: PlanInput, result: PlanResult) -> tuple[Finding, ...]:
    return check_plan(inp, result)


def void(_: object) -> None:
    """Nothing."""
