"""Before a story: the world is made, all is declared, and it is waited until it is Ready and calm."""

from __future__ import annotations

from bedplate.sim.durations import Durations, Ranges
from bedplate.sim.scenario import setting
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.scenario.setting import Setting
from bedplate.sim.simulator import Simulator
from bedplate.sim.store import SimStore
from bedplate.sim.story import Story

LOOK = 60.0
"""Seconds of virtual time between two looks at whether all is Ready."""
CALM = 60.0
"""Seconds between Ready and the story's beginning, in which pods start."""


def simulator(
    world: Setting, *, seed: int, store: SimStore | None = None, keep: bool = True, ranges: Ranges | None = None
) -> Simulator:
    """The simulator of a setting's world; `ranges`: how long things take there. Raises `ScenarioError`."""
    return Simulator(
        setting.world_of(world),
        store=store or SimStore(),
        seed=seed,
        policy=setting.policy_of(world),
        durations=Durations(seed, ranges),
        keep=keep,
    )


def begin(sim: Simulator, world: Setting, *, within: float) -> None:
    """Bring the world to where a story can begin; times count from then on.

    Raises:
        ScenarioError: it does not become Ready within so many seconds.
    """
    story = Story(sim)
    sim.apply(*setting.objects_of(world))
    for _ in range(world.controllers):
        sim.start_controller()
    end = sim.now + within
    while story.unready() or not story.settled():
        if sim.now >= end:
            raise ScenarioError(story.tell("before the story, not everything became Ready"))
        let_pass(sim, LOOK)
    for name, tenant in world.clusters.items():
        if tenant.apps:
            sim.deploy(f"{setting.NAMESPACE}/{name}", *setting.apps_of(name, tenant))
    let_pass(sim, CALM)
    sim.start = sim.now
    sim.trace.clear()


def take_chances(sim: Simulator, chance: int | None) -> None:
    """Let chance be a story's own from now on."""
    if chance is not None:
        sim.world.durations.begin_anew(chance)
        sim.chance.seed(f"{chance}/chance")


def let_pass(sim: Simulator, seconds: float, *, events: int = 10_000_000) -> None:
    """Let time pass, whether anything happens or not; at most so many events."""
    end = sim.now + seconds
    sim.run(seconds=seconds, quiet=float("inf"), events=events)
    sim.now = sim.world.now = max(sim.now, end)
