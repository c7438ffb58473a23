"""What every action of a script is: something that happens at its time, perhaps to one server or machine."""

from __future__ import annotations

from bedplate.sim.scenario.cast import Cast
from bedplate.sim.scenario.plain import Plain, Time
from bedplate.sim.simulator import Simulator


class Action(Plain, frozen=True, tag_field="do"):
    """Base of all actions. When it happens is said beside it."""

    at: Time = Time(0)
    """After the story's beginning; with `when`, after that."""
    when: str = ""
    """An event's sentence: it happens each first time that this does."""
    name: str = ""
    """Statements may speak of it as `event NAME`."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        """Let it happen."""
        raise NotImplementedError


class OnServer(Action, frozen=True, kw_only=True):
    """Of one server."""

    server: str


class OnMachine(Action, frozen=True, kw_only=True):
    """Of one machine."""

    machine: str
