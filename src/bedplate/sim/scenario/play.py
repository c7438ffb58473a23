"""Plays a scenario: makes its world, waits until all is Ready, lets happen what the script says, and judges.

The same scenario and seed give the same history.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bedplate.sim.history import Event, History, HistoryStore
from bedplate.sim.scenario import ending, expectation, opening, sentences
from bedplate.sim.scenario.acting import Action
from bedplate.sim.scenario.cast import Cast
from bedplate.sim.scenario.expectation import Seen
from bedplate.sim.scenario.folder import Scenario
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.scenario.script import FILE as SCRIPT
from bedplate.sim.scenario.sentences import Roll

VIOLATIONS = "violations: none"
REFUSALS = "plans that the checks refused: none"
"""A plan that its checks refuse changes nothing and is made again: planning and checks must be of one mind."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A statement and what is wrong with it; nothing where it holds."""

    text: str
    wrong: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a play ended."""

    seed: int
    kill: int
    """Before which command the controller was killed; 0: it was not."""
    verdicts: tuple[Verdict, ...]

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """Statements that do not hold."""
        return tuple(v for v in self.verdicts if v.wrong)


class Play:
    """One telling of a scenario.

    Args:
        kill: the controller is killed before so many commands after the moment that `kills` names; 0: it is not.
    """

    def __init__(self, scenario: Scenario, *, seed: int | None = None, kill: int = 0) -> None:
        self.scenario = scenario
        self.seed = scenario.setting.seed if seed is None else seed
        self.kill = kill
        self.store = HistoryStore()
        self.sim = opening.simulator(scenario.setting, seed=self.seed, store=self.store)
        self.history = History(self.sim, self.store)
        self.cast = Cast(self.sim, strict=not scenario.script.lenient)
        self.fault = ""
        """What in the script could not be done."""

    # --- the world before the story -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Declare all, and wait until it is Ready.

        Raises:
            ScenarioError: it does not become so.
        """
        opening.begin(self.sim, self.scenario.setting, within=self.scenario.script.ready_within)
        self.history.begin()
        opening.take_chances(self.sim, self.scenario.script.chance)
        known = self.scenario.known()
        for name, expression in self.scenario.script.names.items():
            self.cast.bind(name, expression, known.names[name])

    # --- the story ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Tell it to its end."""
        for _ in self.steps():
            pass
        return self.judge()

    def steps(self) -> Iterator[None]:
        """Tell it, pausing after each event that left a line."""
        self.prepare()
        sim, script = self.sim, self.scenario.script
        for action in script.events:
            self._plan(action)
        if self.kill and script.kills is not None:
            self._when(script.kills.after, lambda: sim.kill_before(self.kill))
        end = sim.now + script.lasts
        while sim.now < end:
            told = len(sim.trace)
            more = sim.run(lambda told=told: len(sim.trace) > told, seconds=end - sim.now, quiet=float("inf"))
            yield
            if not more:
                break

    def _plan(self, action: Action) -> None:
        if not action.when:
            self.sim.after(action.at, lambda: self._act(action))
        else:
            self._when(action.when, lambda: self.sim.after(action.at, lambda: self._act(action)))

    def _act(self, action: Action) -> None:
        try:
            action.act(self.sim, self.cast)
        except ScenarioError as error:
            self.fault = self.fault or str(error)
        if action.name:
            self.history.happened(action.name)

    def _when(self, text: str, then: object) -> None:
        """Do something the first time that an event happens."""
        assert callable(then)
        sentence = sentences.read(text, self.scenario.known(), SCRIPT)

        def heard(event: Event) -> None:
            if sentence.matches(event, self._roll()):
                self.history.listeners.remove(heard)
                then()

        self.history.listeners.append(heard)

    def _roll(self) -> Roll:
        names = frozenset(self.sim.world.servers)
        return Roll(bound=self.cast.bound, machines=self.history.machines, servers=names)

    # --- the end --------------------------------------------------------------------------------------------------

    def judge(self) -> Outcome:
        """What holds of what must be true."""
        broken = self.sim.world.violations
        verdicts = [Verdict(text=VIOLATIONS, wrong="; ".join(broken[:3]))]
        refused = [f"at {at:g} s: {said}" for said, at in self.sim.refused.items()]
        verdicts.append(Verdict(text=REFUSALS, wrong="; ".join(refused[:3])))
        if self.fault:
            verdicts.append(Verdict(text="the script can be told", wrong=self.fault))
        seen: Seen = expectation.seen(self.history, self.sim.world, self.cast.bound, ending.stuck(self.sim))
        for s in self.scenario.statements():
            verdicts.append(Verdict(text=s.text, wrong=s.judge(seen)))
        return Outcome(seed=self.seed, kill=self.kill, verdicts=tuple(verdicts))


def tellings(scenario: Scenario, seed: int | None = None) -> Iterator[Play]:
    """The play of a scenario, and one for each moment at which its controller is to be killed."""
    yield Play(scenario, seed=seed)
    kills = scenario.script.kills
    if kills is not None:
        for n in range(1, kills.commands + 1, max(1, kills.step)):
            yield Play(scenario, seed=seed, kill=n)
