"""Published figures held against the simulated world: each is measured in a story over many seeds, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from bedplate.advise.comparing import Shown
from bedplate.sim.scenario import folder, plain, sentences
from bedplate.sim.scenario.plain import Plain, ScenarioError
from bedplate.sim.scenario.play import Play
from bedplate.sim.scenario.script import FILE as SCRIPT
from bedplate.sim.scenario.sentences import Roll

FILE = "figures.yaml"


class Published(Plain, frozen=True):
    """A figure, and how it is measured here. Times in seconds."""

    name: str
    story: str
    """Folder of the scenario."""
    from_: str
    to: str
    published: tuple[float, float]
    origin: str
    slack: float = 0.0
    """By so much more may be taken here, for what the published figure does not count."""
    of: str = ""
    """What that is."""
    beside: bool = False
    """It is of a system that is not reproduced: shown, not judged."""


class Held(Shown, frozen=True, kw_only=True):
    """What came of one."""

    name: str
    published: tuple[float, float]
    origin: str
    verdict: Literal["within", "outside", "beside"]
    median: float
    low: float
    high: float
    seeds: int
    slack: float = 0.0
    of: str = ""


def figures() -> tuple[Published, ...]:
    """All of them, as the project keeps them."""
    raw: Any = yaml.safe_load((_place() / FILE).read_text())
    return plain.read(raw, tuple[Published, ...], FILE)


def hold(seeds: Sequence[int], found: Sequence[Published] | None = None) -> Iterator[Held]:
    """Tell the stories with these seeds and hold each figure against what was seen.

    Raises:
        ScenarioError: a story went wrong, or what is measured did not happen.
    """
    wanted = figures() if found is None else found
    told: dict[tuple[str, int], Play] = {}
    for figure in wanted:
        times: list[float] = []
        for seed in seeds:
            play = told.get((figure.story, seed)) or _told(figure.story, seed)
            told[figure.story, seed] = play
            times.append(_time(figure, play))
        yield judge(figure, times)


def judge(figure: Published, times: Sequence[float]) -> Held:
    """Within, where the median is what was published, with the slack."""
    low, high = figure.published
    median = float(np.median(times))
    fits = low <= median <= high + figure.slack
    return Held(
        name=figure.name,
        published=figure.published,
        origin=figure.origin,
        verdict="beside" if figure.beside else "within" if fits else "outside",
        median=median,
        low=min(times),
        high=max(times),
        seeds=len(times),
        slack=figure.slack,
        of=figure.of,
    )


def _place() -> Path:
    return Path(str(resources.files("bedplate.advise") / "published"))


def _told(story: str, seed: int) -> Play:
    play = Play(folder.load(_place() / story), seed=seed)
    outcome = play.run()
    if outcome.broken:
        raise ScenarioError(*(f"{story}, seed {seed}: {v.text}: {v.wrong}" for v in outcome.broken))
    return play


def _time(figure: Published, play: Play) -> float:
    """Seconds from the one to the other, each the first time that it happens."""
    begun = _first(figure.from_, play, 0.0)
    return _first(figure.to, play, begun) - begun


def _first(text: str, play: Play, after: float) -> float:
    roll = Roll(bound=play.cast.bound, machines=play.history.machines, servers=frozenset(play.sim.world.servers))
    wanted = sentences.read(text, play.scenario.known(), SCRIPT)
    for event in play.history.events:
        if event.time >= after and wanted.matches(event, roll):
            return event.time
    raise ScenarioError(f"{play.scenario.name}, seed {play.seed}: {text}: it did not happen")
