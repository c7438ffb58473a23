"""`script.yaml`: who is who, what happens when, and how long the story lasts."""

from __future__ import annotations

from bedplate.sim.scenario.actions import AnyAction
from bedplate.sim.scenario.plain import Plain, Time

FILE = "script.yaml"


class Kills(Plain, frozen=True):
    """The story is told again and again, with the controller killed before its n-th command after a moment."""

    after: str
    """A sentence about an event."""
    commands: int
    """n goes from 1 to this."""
    step: int = 1
    """Every so many of them only."""


class Script(Plain, frozen=True):
    """The whole file."""

    lasts: Time
    """From the moment at which all that was declared is Ready."""
    names: dict[str, str] = {}
    """Servers and machines by expressions, bound at the beginning."""
    events: tuple[AnyAction, ...] = ()
    chance: int | None = None
    """A seed for what happens by chance from the story's beginning on; not given: it goes on as it began."""
    lenient: bool = False
    """Actions whose server or machine is not there then are passed over."""
    kills: Kills | None = None
    ready_within: Time = Time(7200)
    """The world must be Ready so soon."""

    def event_names(self) -> frozenset[str]:
        """Names that were given to events."""
        return frozenset(e.name for e in self.events if e.name)


def last(script: Script) -> float:
    """Seconds at which the last event with a fixed time happens."""
    return max((float(e.at) for e in script.events if not e.when), default=0.0)
