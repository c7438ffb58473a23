"""Drives the real engine, planner and checks against the simulated world, on an event heap with a virtual clock.

The same seed gives the same history, line by line (`trace`). Nothing here decides what the engine should.

A script calls: `run`, `at`, `after` (`stage`); `apply`, `edit`, `delete`, `maintain`, `pause`, `deploy` (`people`);
`cut`, `power_off`, `lose_power`, `hang`, `bmc`, `pool`, `end_domain` ... (`happenings`); and of this class
`start_controller`, `kill_controller`, `break_store`, `measure` for load. It reads `world`, `store`, `engine`, `trace`,
`steps`, `commits`, `world.violations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from bedplate.checks.blueprint import Checker, Finding
from bedplate.engine import messages as msg
from bedplate.engine.engine import Engine
from bedplate.model.blueprint import Delta
from bedplate.model.ids import OperationId, Revision
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.journal import OperationRecord
from bedplate.model.policy import Policy
from bedplate.model.steps import Step, Ticket
from bedplate.planner.plan import PlanInput, PlanResult
from bedplate.sim import drivers, truth
from bedplate.sim.controller import SimController
from bedplate.sim.delivery import Attempted
from bedplate.sim.durations import Durations, Range
from bedplate.sim.faults import Fault, Faults
from bedplate.sim.happenings import Happenings
from bedplate.sim.load import Loads
from bedplate.sim.store import SimStore
from bedplate.sim.world import World


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was begun, when."""

    time: float
    operation: OperationRecord


class Simulator(Happenings):
    """A world, a store, and controllers that come and go.

    Args:
        world: What is real. Its `spawn`, `say` and `linked` are taken over.
        store: What controllers find; a new one where it is None.
        kills: Numbers of commands (counted over all controllers from 1) before which the controller is killed.
        verify: Look at the world's truths after each change.
        keep: Keep history, steps and commits. Not for years of a large fleet.
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
        keep: bool = True,
        restart_after: float = 1.0,
    ) -> None:
        super().__init__(
            world,
            store or SimStore(world.store),
            durations or Durations(seed),
            seed=seed,
            start=start,
            verify=verify,
        )
        self.policy = policy or Policy()
        self.telling = self.keeping = self.store.keeping = keep
        self.steps: list[Begun] = []
        self.commits: list[Delta] = []
        self.refused: dict[str, float] = {}
        """Findings for which plans were not committed, and when each was first made (seconds after the beginning)."""
        self.commands = 0
        self.loads: Loads | None = None
        self._seed = seed
        self._faults = faults or Faults()
        self._spoilt: dict[str, list[Fault]] = {}
        self._kills = set(kills)
        self._restart_after = restart_after
        self._run_steps = 0
        self._journalled: set[OperationId] = set()
        world.linked = self._linked

    # --- controllers ----------------------------------------------------------------------------------------------

    def start_controller(self, known: Iterable[AnyView] = ()) -> SimController:
        """Start a controller; it takes the lead with a new epoch, whatever others do, once the store can be written.

        `known`: what it knows beforehand.
        """
        engine = Engine(self.policy, self._seed, self._checker())
        controller = SimController(self, engine, len(self.controllers) + 1)
        self.controllers.append(controller)
        seen = tuple(Observation(value=v, time=self.now, source="step") for v in known)
        engine.handle(msg.Observed(source="step", observations=seen), self.now)
        self.say(controller.name, "starts")
        self._take_lead(controller)
        return controller

    def _checker(self) -> Callable[[PlanInput, PlanResult], tuple[Finding, ...]]:
        """What checks a controller's plans, as in production; what it refuses is kept."""
        checker = Checker()

        def check(inp: PlanInput, result: PlanResult) -> tuple[Finding, ...]:
            found = checker(inp, result)
            for finding in found:
                said = f"rule {finding.rule}: {finding.key}: {finding.sentence}"
                self.refused.setdefault(said, self.now - self.start)
            return found

        return check

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
        self.after(self._restart_after, lambda: None if self.led() else void(self.start_controller()))
        return True

    def led(self) -> bool:
        """True where a controller is there that leads: one that was overtaken only believes so."""
        return any(c.alive and not c.halted and c.epoch == self.store.epoch for c in self.controllers)

    def kill_controller(self, controller: SimController | None = None) -> None:
        """`kill -9`."""
        victim = controller or self.controller
        self.say(victim.name, "is killed")
        victim.die()

    def kill_before(self, command: int) -> None:
        """Kill whichever controller is about to give its n-th command from now on (1: the very next)."""
        self._kills.add(self.commands + command)

    def spoil(self, step: str, fault: Fault, times: int = 1) -> None:
        """Something goes wrong with the next steps of that name."""
        self._spoilt.setdefault(step, []).extend([fault] * times)

    def committed(self, controller: SimController, number: Revision, delta: Delta) -> None:
        """A blueprint was committed."""
        self.active = self.now
        if not self.keeping:
            return
        self.commits.append(delta)
        changes = ", ".join(f"{'-' if e is None else ''}{k}" for k, e in delta.changes.items())
        self.say(controller.name, f"blueprint {number}: {changes}")

    def begun(self, controller: SimController, operation: OperationRecord) -> None:
        """A step was journalled."""
        self.active = self.now
        self._journalled.add(operation.id)
        if self.keeping:
            self.steps.append(Begun(time=self.now, operation=operation))

    # --- steps ----------------------------------------------------------------------------------------------------

    def run_step(self, controller: SimController, step: Step, ticket: Ticket) -> None:
        """Run a step in the world, with what goes wrong with it."""
        self.active = self.now
        spoilt = self._spoilt.get(step.name)
        fault = spoilt.pop(0) if spoilt else self._faults.of(self._run_steps)
        if self._verify:
            truth.journalled(self.world, ticket.operation in self._journalled, f"{step.name} {step.target}")
        self._journalled.discard(ticket.operation)
        self._run_steps += 1
        Attempted(self, controller, step, ticket, fault).begin()

    # --- the store ----------------------------------------------------------------------------------------------------

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

    # --- load -----------------------------------------------------------------------------------------------------

    def measure(self, *, every: float = 600.0) -> Loads:
        """Have agents measure load from now on, looked at so often (seconds); give what makes it, to be set."""
        if self.loads is None:
            self.loads = Loads(self.world, seed=self._seed, start=self.now)
            self._measure(self.loads, every)
        return self.loads

    def _measure(self, loads: Loads, every: float) -> None:
        loads.look()
        self.after(every, lambda: self._measure(loads, every), idle=True)

    # --- helpers --------------------------------------------------------------------------------------------------

    def perform(self, step: Step, ticket: Ticket) -> drivers.Running:
        """Give the running step."""
        return drivers.perform(self.world, self._durations, step, ticket)

    def dawdle(self, between: Range = (0.2, 3.0)) -> float:
        """A while."""
        return self._durations.draw(between)


def void(_: object) -> None:
    """Nothing."""
