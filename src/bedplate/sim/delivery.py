"""One step on its way from a controller through the world and back, with what goes wrong with it.

Commands for agents go over their connections, as in `drivers/agents/link.py`: what was sent into a connection that
turns out to be lost is sent again where that is back in time, and is of unknown outcome where it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bedplate.engine import messages as msg
from bedplate.model.ids import OperationId
from bedplate.model.steps import AgentStep, Done, Failed, Step, StepResult, Ticket, Unknown
from bedplate.sim import drivers
from bedplate.sim.controller import SimController
from bedplate.sim.faults import Fault

if TYPE_CHECKING:
    from bedplate.sim.simulator import Simulator

RESUME = 10.0
"""Seconds that a command waits for its agent to come back before its outcome counts as unknown."""

LATE = (10.0, 200.0)
"""Seconds by which a late reply is late; most steps are given 120."""

OBSERVED_FIRST = 0.001
"""Seconds by which an agent's observation of what a step did comes before its reply, as on the one connection."""


class Attempted:
    """One step on its way through the world and back."""

    def __init__(
        self, sim: Simulator, controller: SimController, step: Step, ticket: Ticket, fault: Fault | None
    ) -> None:
        self._sim = sim
        self._controller = controller
        self._step = step
        self._ticket = ticket
        self._fault = fault
        self._answered = False
        self._sent = False
        self._result: StepResult | None = None
        self._server = sim.world.servers.get(step.server) if isinstance(step, AgentStep) else None
        self._life = 0

    def begin(self) -> None:
        """Set it going."""
        what = f"{self._step.name} {_short(self._step)}" + (f" [{self._fault.value}]" if self._fault else "")
        self._sim.say(self._controller.name, what)
        self._sim.at(self._sim.now + self._ticket.deadline, self._late, idle=True)
        if self._fault is Fault.FAILED:
            self._answer(Failed(reason="Injected", message="it was refused on its way"))
        elif self._server is not None and self._server.name not in self._controller.linked:
            message = f"the agent of {self._server.name} is not connected"
            self._answer(Failed(reason="NotConnected", message=message))
        else:
            if self._server is not None:
                self._controller.in_flight.setdefault(self._server.name, []).append(self)
            if self._fault is not Fault.LOST_COMMAND:
                self._send()

    def _send(self) -> None:
        server = self._server
        if server is not None:
            if not (server.connected or server.half == "down"):
                return  # into a connection that is lost and not known to be
            self._life = server.commands
        self._sent = True
        self._go(self._sim.perform(self._step, self._ticket), first=True)

    def resume(self) -> None:
        """The agent's connection is back: what it has to say is said, what it does not know of is sent again."""
        if self._answered or self._fault in {Fault.LOST_COMMAND, Fault.LOST_REPLY}:
            return
        assert self._server is not None
        if self._result is not None and self._life == self._server.commands:
            result = self._result
            self._sim.after(OBSERVED_FIRST, lambda: self._answer(result))
        elif not self._sent or (self._life != self._server.commands and self._fault is not Fault.HALF):
            self._send()

    def give_up(self) -> None:
        """The agent's connection did not come back in time."""
        if not self._answered:
            self._answer(Unknown(message=f"the connection to {self._step.server} was lost"))

    def _go(self, running: drivers.Running, *, first: bool) -> None:
        try:
            delay = next(running)
        except StopIteration as end:
            self._ended(end.value, first=first)
            return
        life = self._life

        def resume() -> None:
            if self._dropped(life):
                running.close()
            else:
                self._go(running, first=first)

        self._sim.after(delay, resume)

    def _dropped(self, life: int) -> bool:
        """True where nobody carries it on: stopped half way, its agent died, or the controller that ran it did."""
        if self._fault is Fault.HALF:
            return True
        if self._server is not None:
            return self._server.commands != life
        # Steps on clusters and BMCs run in the controller; a request that is on its way goes on half of the time.
        return not self._controller.alive and sum(map(ord, self._ticket.operation)) % 2 == 0

    def _ended(self, result: StepResult, *, first: bool) -> None:
        if first and self._fault is Fault.TWICE:
            again = self._sim.perform(self._step, self._ticket)
            self._sim.after(self._sim.dawdle(), lambda: self._go(again, first=False))
        if not first or self._fault is Fault.LOST_REPLY:
            return
        if self._fault is Fault.LATE:
            self._sim.after(self._sim.dawdle(LATE), lambda: self._answer(result))
            return
        self._result = result
        if self._server is None or self._server.connected or self._server.half == "up":
            self._sim.after(OBSERVED_FIRST, lambda: self._answer(result))

    def _late(self) -> None:
        if not self._answered:
            self._answer(Unknown(message=f"{self._step.name} was not answered in time"))

    def _answer(self, result: StepResult) -> None:
        if self._answered:
            return
        self._answered = True
        if self._server is not None:
            on_their_way = self._controller.in_flight.get(self._server.name, [])
            if self in on_their_way:
                on_their_way.remove(self)
        if self._controller.alive and not isinstance(result, Done):
            self._sim.say(self._controller.name, f"{self._step.name} {_short(self._step)}: {result.message}")
        self._controller.heard(result)
        self._controller.tell(msg.StepEnded(operation=OperationId(self._ticket.operation), result=result))


def _short(step: Step) -> str:
    machine = getattr(step, "machine", None)
    name = machine.name if machine is not None else step.target
    return f"{name} on {step.server}" if step.server else name
