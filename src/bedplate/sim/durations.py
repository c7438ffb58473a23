"""How long things take in the simulated world: drawn from ranges by a seed, the same seed the same times.

The figures are what was seen in the lab under software emulation; they matter for the order of things, not as promises.
"""

from __future__ import annotations

import random

import msgspec

from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DeleteNode,
    DeleteRetained,
    DeleteVolume,
    DrainNode,
    InstallAddons,
    MakeSecrets,
    PullImage,
    StopDomain,
)

Range = tuple[float, float]


_STEPS: dict[str, Range] = {
    PullImage.__name__: (4.0, 20.0),
    CreateVolume.__name__: (0.1, 1.0),
    StopDomain.__name__: (2.0, 8.0),
    DeleteVolume.__name__: (0.05, 0.3),
    DeleteRetained.__name__: (0.05, 0.3),
    MakeSecrets.__name__: (0.3, 1.0),
    Bootstrap.__name__: (1.0, 4.0),
    InstallAddons.__name__: (1.0, 5.0),
    DrainNode.__name__: (1.0, 20.0),
    DeleteNode.__name__: (0.05, 0.3),
}


class Ranges(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, from and to."""

    boot: Range = (12.0, 30.0)
    """Start to guest agent."""
    init: Range = (90.0, 140.0)
    join: Range = (20.0, 45.0)
    kubelet: Range = (3.0, 12.0)
    """From a joined machine's user space to a Ready node."""
    step: Range = (0.05, 0.6)
    """A step that has no range of its own."""
    steps: dict[str, Range] = msgspec.field(default_factory=lambda: dict(_STEPS))


class Durations:
    """Draws times."""

    def __init__(self, seed: int, ranges: Ranges | None = None, *, middle: bool = False) -> None:
        self._random = random.Random(seed)
        self.ranges = ranges or Ranges()
        self._middle = middle

    def draw(self, between: Range) -> float:
        """A time out of the range; its middle where nothing is to be left to chance."""
        return sum(between) / 2 if self._middle else self._random.uniform(*between)

    def step(self, name: str) -> float:
        """A time for a step of that kind."""
        return self.draw(self.ranges.steps.get(name, self.ranges.step))
