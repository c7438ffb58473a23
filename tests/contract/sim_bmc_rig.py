"""A simulated BMC under the contract of BMCs: its own virtual time, and the troubles that the simulated world knows."""

from __future__ import annotations

from typing import Literal

from redfish_rig import HV1, Clock, News, Rig, Trouble

from bedplate.model.blueprint import BmcRef
from bedplate.model.steps import BmcStep, StepResult, Ticket
from bedplate.sim.twins import SimBmcs, TwinWorld
from bedplate.sim.world import World


class _Told:
    """`News` that leaves out what agents tell."""

    def __init__(self, news: News) -> None:
        self._news = news

    def __call__(self, source: str, observations: object, *, full: bool = False) -> None:
        if source.startswith("bmc/"):
            self._news(source, observations, full=full)  # type: ignore[arg-type]


class _OnTheClock:
    """The simulated driver, whose time is the test's."""

    def __init__(self, twin: TwinWorld, clock: Clock) -> None:
        self._twin, self._clock = twin, clock
        self._bmcs = SimBmcs(twin)
        self.follow = self._bmcs.follow

    async def run(self, step: BmcStep, ticket: Ticket) -> StepResult:
        self._twin.world.now = self._clock()
        self._twin.hurry = False
        result = await self._bmcs.run(step, ticket)
        self._clock.spend(self._twin.world.now - self._clock())
        return result


class SimulatedBmc(Rig):
    """The simulated world's BMC of one server."""

    troubles = frozenset[Trouble]({"silent", "slow", "keeps-on"})

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.world = World()
        self.world.add_server(HV1)
        self.ref = BmcRef(address="redfish+https://hv1", secret="default/hv1-bmc")
        self.driver = _OnTheClock(TwinWorld(self.world, _Told(self.news)), clock)

    def set_power(self, power: Literal["on", "off"]) -> None:
        self.world.servers[HV1].powered = power == "on"

    def power(self) -> Literal["on", "off"]:
        return "on" if self.world.servers[HV1].powered else "off"

    def trouble(self, trouble: Trouble) -> None:
        bmc = self.world.servers[HV1].bmc
        match trouble:
            case "silent":
                bmc.reachable = False
            case "slow":
                bmc.seconds = 5.0
            case "keeps-on":
                bmc.deaf = True
            case _:
                raise AssertionError(trouble)

    async def stop(self) -> None:
        """There is nothing to end."""
