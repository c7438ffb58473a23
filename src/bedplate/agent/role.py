"""What the agent does on a server, as its connection to the controller sees it. Knows no libvirt: most have none.

Hypervisor, RAM system and node each implement it; the connection is the same for all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from bedplate.agent.streams import Ends
from bedplate.model.agent_protocol import Command, GuestExecute, GuestReply, GuestWrite, Measure, MeasureReply, Pool
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import AnyView, ServerView
from bedplate.model.steps import StepResult

Send = Callable[[Sequence[AnyView], bool], Awaitable[None]]
"""Tells views to the controller; True: this is all there is. Raises `ConnectionError`."""


class Role(Protocol):
    """One of the agent's roles."""

    async def server_view(self) -> ServerView:
        """The server as it is now."""
        ...

    def reached_from(self, address: str) -> None:
        """The connection goes out from this address of the server."""
        ...

    def spoken(self) -> None:
        """The controller has taken the agent on."""
        ...

    async def configure(self, pools: Sequence[Pool]) -> None:
        """Serve exactly these disk pools."""
        ...

    async def attach(self, send: Send) -> None:
        """A controller is there: it is to be told everything once, then changes."""
        ...

    def detach(self) -> None:
        """The controller is gone."""
        ...

    async def resync(self) -> None:
        """Read everything anew and tell what changed."""
        ...

    async def run(self, command: Command) -> StepResult:
        """Run a command to its end, or wait for it where it runs, or answer what it was answered; never raises."""
        ...

    async def guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        """Do a call into a machine; never raises."""
        ...

    async def measure(self, call: Measure) -> MeasureReply:
        """Run a benchmark on this server or in a machine on it; never raises."""
        ...

    async def console(self, uid: MachineUid) -> Ends:
        """Attach to a machine's serial console. Raises `OSError`."""
        ...
