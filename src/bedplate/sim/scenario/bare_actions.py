"""What people do with bare servers in a script, and what is wrong with these. As `actions`."""

from __future__ import annotations

from typing import Literal

from bedplate.model.ids import key
from bedplate.model.kinds.infrastructure import Metal
from bedplate.model.policy import REQUESTS
from bedplate.model.times import timestamp
from bedplate.sim.scenario.acting import OnServer
from bedplate.sim.scenario.cast import Cast
from bedplate.sim.scenario.editing import annotate, edit_spec
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.simulator import Simulator


class Bare(OnServer, frozen=True, kw_only=True, tag="bare"):
    """A bare server is as said from now on."""

    silent_boots: int | None = None
    """So many of its next boots from a medium lead to nothing."""
    speed: float | None = None
    """Its parts do so much of what its like do; 1: as they."""
    stubborn: str = ""
    """The number of a disk (from 1) that can't be erased, whatever it says."""
    failing: str = ""
    """The number of a disk that says of itself that it fails."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        server = sim.world.servers[cast.server(self.server)]
        if server.bare is None:
            raise ScenarioError(f"script.yaml: {server.name} is no bare server")
        if self.silent_boots is not None:
            server.bare.silent_boots = self.silent_boots
        if self.speed is not None:
            server.bare.speed = self.speed
        disks = list(server.bare.disks.values())
        if self.stubborn:
            disks[int(self.stubborn) - 1].stubborn = True
        if self.failing:
            disks[int(self.failing) - 1].health = "failing"


class Accept(OnServer, frozen=True, kw_only=True, tag="accept"):
    """A person accepts a bare server."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        edit_spec(sim, key("server", cast.server(self.server)), accepted=True)


class Role(OnServer, frozen=True, kw_only=True, tag="role"):
    """A person gives a server another role."""

    to: Literal["free", "hypervisor", "auto"]

    def act(self, sim: Simulator, cast: Cast) -> None:
        edit_spec(sim, key("server", cast.server(self.server)), role=self.to)


class Retire(OnServer, frozen=True, kw_only=True, tag="retire"):
    """A person retires a bare server."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        edit_spec(sim, key("server", cast.server(self.server)), metal=Metal(retired=True))


class Rescue(OnServer, frozen=True, kw_only=True, tag="rescue"):
    """A person wants a bare server in rescue, or is done with it."""

    undo: bool = False

    def act(self, sim: Simulator, cast: Cast) -> None:
        edit_spec(sim, key("server", cast.server(self.server)), metal=Metal(rescue=not self.undo))


class Ask(OnServer, frozen=True, kw_only=True, tag="ask"):
    """A person asks something of a bare server that nobody uses."""

    to: Literal["inspect", "test", "erase"]

    def act(self, sim: Simulator, cast: Cast) -> None:
        annotate(sim, key("server", cast.server(self.server)), REQUESTS[self.to], timestamp(sim.now))
