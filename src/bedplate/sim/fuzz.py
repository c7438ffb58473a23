"""Random stories on all cores: seed after seed is told, and one that goes wrong is made as short as can be.

`run` yields results as they come; `shrink` gives the shortest story found; `narrate` makes a scenario folder of it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from bedplate.sim import copying, fuzz_play
from bedplate.sim.fuzz_play import Result
from bedplate.sim.fuzz_story import SHARED, shortened, story_of
from bedplate.sim.scenario.actions import AnyAction, Mended
from bedplate.sim.scenario.folder import Scenario
from bedplate.sim.scenario.plain import Time
from bedplate.sim.scenario.setting import Servers, Setting
from bedplate.sim.simulator import Simulator

LOOKS = 400
"""Stories that shrinking tells at most."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One seed to be told."""

    seed: int
    servers: int
    hours: float

    def story(self) -> Scenario:
        """The story of the seed."""
        return story_of(self.seed, servers=self.servers, hours=self.hours)


def tell(job: Job) -> Result:
    """Tell the story of a seed."""
    return fuzz_play.play(job.story())


def run(seeds: Iterable[int], *, servers: int, hours: float, jobs: int) -> Iterator[Result]:
    """Tell the stories of seeds, so many at a time; results come in the order in which they end."""
    groups: dict[int, list[Job]] = {}
    for seed in seeds:
        groups.setdefault(seed // SHARED, []).append(Job(seed=seed, servers=servers, hours=hours))
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=20) as pool:
        for results in pool.imap_unordered(_tell_group, groups.values()):
            yield from results


def _tell_group(jobs: list[Job]) -> list[Result]:
    """Bring a world to its beginning once, and tell each story in a copy of it: a process of its own."""
    stories = [job.story() for job in jobs]
    began = time.process_time()
    try:
        sim = fuzz_play.prepare(stories[0])
    except Exception:
        return [fuzz_play.play(story) for story in stories]  # each says what is wrong with its beginning
    share = (time.process_time() - began) / len(jobs)
    with copying.frozen():
        return [_in_a_copy(sim, story, share) for story in stories]


def _in_a_copy(sim: Simulator, story: Scenario, share: float) -> Result:
    def told() -> Result:
        return fuzz_play.tell(sim, story, began=time.process_time() - share)

    crashed = Result(seed=story.script.chance or 0, wrong=("it crashed: its process ended without a word",))
    return copying.in_a_copy(told, Result) or crashed


# --- shrinking ----------------------------------------------------------------------------------------------------


def shrink(scenario: Scenario, wrong: Callable[[Scenario], bool] | None = None) -> Scenario:
    """The shortest story found that still goes wrong: fewer events first, then fewer servers, then less time.

    Args:
        wrong: says whether a story goes wrong in the way that is looked for; any way where it is not given.
    """
    still = _Still(wrong or (lambda s: bool(fuzz_play.play(s).wrong)))
    scenario = _fewer_events(scenario, still)
    scenario = _smaller(scenario, still)
    scenario = _fewer_events(scenario, still)
    return _sooner(scenario, still)


class _Still:
    """Whether a story still goes wrong, for so many looks; from then on nothing does."""

    def __init__(self, wrong: Callable[[Scenario], bool]) -> None:
        self._wrong = wrong
        self._left = LOOKS

    def __call__(self, scenario: Scenario) -> bool:
        self._left -= 1
        return self._left >= 0 and self._wrong(scenario)


def _fewer_events(scenario: Scenario, still: _Still) -> Scenario:
    """Leave events out, many at a time at first."""
    chunk = max(1, len(scenario.script.events) // 2)
    while chunk >= 1:
        at = 0
        while at < len(scenario.script.events):
            events = scenario.script.events
            tried = shortened(scenario, (*events[:at], *_kept(events[at : at + chunk]), *events[at + chunk :]))
            if len(tried.script.events) < len(events) and still(tried):
                scenario = tried
            else:
                at += chunk
        chunk //= 2
    return scenario


def _kept(events: Iterable[AnyAction]) -> tuple[AnyAction, ...]:
    """The end of all faults stays: without it every story with a fault would go wrong."""
    return tuple(e for e in events if isinstance(e, Mended))


def _smaller(scenario: Scenario, still: _Still) -> Scenario:
    """Fewer tenants, fewer machines, fewer servers."""
    for variant in (_without_clusters, _without_machines, _with_fewer_servers):
        for setting in variant(scenario.setting):
            tried = msgspec.structs.replace(scenario, setting=setting)
            if still(tried):
                scenario = tried
    return scenario


def _without_clusters(setting: Setting) -> Iterator[Setting]:
    for name in list(setting.clusters):
        if len(setting.clusters) > 1:
            left = {k: v for k, v in setting.clusters.items() if k != name}
            yield msgspec.structs.replace(setting, clusters=left)


def _without_machines(setting: Setting) -> Iterator[Setting]:
    if setting.machines:
        yield msgspec.structs.replace(setting, machines={})


def _with_fewer_servers(setting: Setting) -> Iterator[Setting]:
    groups = setting.groups
    count = groups[0].count
    for fewer in sorted({3, 4, 6, 9, 12, 20, 30} - {count}):
        if fewer < count:
            group: Servers = msgspec.structs.replace(groups[0], count=fewer)
            yield msgspec.structs.replace(setting, servers=(group, *groups[1:]))


def _sooner(scenario: Scenario, still: _Still) -> Scenario:
    """Cut the time before the first event and between the last one and the end."""
    for early in (True, False):
        events = scenario.script.events
        faults = [e for e in events if not isinstance(e, Mended)]
        if not faults:
            return scenario
        if early:
            moved = tuple(_at(e, float(e.at) - float(faults[0].at)) for e in events)
        else:
            end = float(faults[-1].at) + 3600.0
            moved = tuple(_at(e, min(float(e.at), end)) if isinstance(e, Mended) else e for e in events)
        tried = shortened(scenario, moved)
        if moved != events and still(tried):
            scenario = tried
    return scenario


def _at(event: AnyAction, at: float) -> AnyAction:
    return msgspec.structs.replace(event, at=Time(round(at, 1)))


# --- telling people -----------------------------------------------------------------------------------------------


def narrate(scenario: Scenario, result: Result) -> Scenario:
    """The story as a scenario that people can look at, with what was wrong in its README."""
    faults = [e for e in scenario.script.events if not isinstance(e, Mended)]
    lines = [
        f"# What fuzzing found with seed {result.seed}",
        f"{len(faults)} event{'' if len(faults) == 1 else 's'} on {scenario.setting.groups[0].count} servers lead to:",
        "",
        *(f"- {said}" for said in result.wrong),
        "",
        "Tell the story in words, name the folder after it, and say in `expect.yaml` what must be true.",
    ]
    return msgspec.structs.replace(scenario, story="\n".join(lines))
