"""Plays a random story fast: no history is kept; it ends as soon as all is well again after all was mended."""

from __future__ import annotations

import time

import msgspec

from bedplate.sim.scenario import ending, opening
from bedplate.sim.scenario.cast import Cast
from bedplate.sim.scenario.folder import Scenario
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

LONGEST = 300_000
"""Events after which a story is taken for endless."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a seed ended."""

    seed: int
    wrong: tuple[str, ...] = ()
    """What was broken, one sentence each; empty: nothing."""
    events: int = 0
    machines: int = 0
    hours: float = 0.0
    """Of virtual time."""
    seconds: float = 0.0
    """Of processor time."""


def prepare(scenario: Scenario) -> Simulator:
    """The world of a story, brought to its beginning. Raises `ScenarioError` where it does not become Ready."""
    sim = opening.simulator(scenario.setting, seed=scenario.setting.seed, keep=False)
    opening.begin(sim, scenario.setting, within=scenario.script.ready_within)
    return sim


def play(scenario: Scenario) -> Result:
    """Tell a story of faults and say what was wrong with it."""
    began = time.process_time()
    try:
        sim = prepare(scenario)
    except Exception as error:
        said = str(error).partition("\nhistory:")[0] if isinstance(error, ScenarioError) else _crash(error)
        return Result(seed=_seed(scenario), wrong=(said,))
    return tell(sim, scenario, began=began)


def tell(sim: Simulator, scenario: Scenario, *, began: float) -> Result:
    """Tell a story from where its world was brought."""
    wrong: list[str] = []
    try:
        wrong += _tell(sim, scenario)
    except Exception as error:
        wrong.append(_crash(error))
    wrong += sim.world.violations[:5]
    wrong += [f"a plan was refused at {at:g} s: {said}" for said, at in list(sim.refused.items())[:5]]
    return Result(
        seed=_seed(scenario),
        wrong=tuple(wrong),
        events=sim.events,
        machines=sum(1 for _ in sim.store.blueprint.machines()),
        hours=(sim.now - sim.start) / 3600.0,
        seconds=time.process_time() - began,
    )


def _seed(scenario: Scenario) -> int:
    return scenario.setting.seed if scenario.script.chance is None else scenario.script.chance


def _crash(error: Exception) -> str:
    return f"it crashed: {type(error).__name__}: {error} ({_where(error)})"


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def _tell(sim: Simulator, scenario: Scenario) -> list[str]:
    story = Story(sim)
    opening.take_chances(sim, scenario.script.chance)
    cast = Cast(sim, strict=False)
    for action in scenario.script.events:
        sim.after(action.at, lambda action=action: action.act(sim, cast))
    last = max((float(e.at) for e in scenario.script.events), default=0.0)
    opening.let_pass(sim, last + 1.0, events=LONGEST)
    if _until_well(sim, story, scenario.script.lasts - last):
        return []
    if sim.events >= LONGEST:
        return [f"it did not come to rest within {LONGEST} events"]
    return [f"not live: {said}" for said in ending.stuck(sim)[:5]]


def _until_well(sim: Simulator, story: Story, seconds: float) -> bool:
    """Let time pass until all is Ready and nothing is under way."""
    end = sim.now + seconds
    while sim.now < end and sim.events < LONGEST:
        opening.let_pass(sim, opening.LOOK, events=max(0, LONGEST - sim.events))
        if sim.controllers and not story.unready() and story.settled() and not ending.stuck(sim):
            return True
    return False
