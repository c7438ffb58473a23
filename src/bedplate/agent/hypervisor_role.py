"""The hypervisor's role as the connection sees it: each part of the agent answers for what is its own."""

from __future__ import annotations

from collections.abc import Sequence

from bedplate.agent.consoles import open_console
from bedplate.agent.host import Host
from bedplate.agent.lease_keeper import LeaseKeeper
from bedplate.agent.machines import Machines
from bedplate.agent.observer import Observer
from bedplate.agent.role import Send
from bedplate.agent.streams import Ends
from bedplate.agent.worker import Worker
from bedplate.model.agent_protocol import Command, GuestExecute, GuestReply, GuestWrite, Measure, MeasureReply, Pool
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import ServerView
from bedplate.model.steps import StepResult


class HypervisorRole:
    """Implements `role.Role`."""

    def __init__(self, host: Host, observer: Observer, machines: Machines, worker: Worker, leases: LeaseKeeper) -> None:
        self._host = host
        self._observer = observer
        self._machines = machines
        self._worker = worker
        self._leases = leases

    async def server_view(self) -> ServerView:
        """The server as it is now."""
        return await self._observer.server_view()

    def reached_from(self, address: str) -> None:
        """Other hypervisors reach this one by the connection's address, unless another was given."""
        self._host.address = self._host.address or address

    def spoken(self) -> None:
        """The controller has taken the agent on."""
        self._leases.spoken()

    async def configure(self, pools: Sequence[Pool]) -> None:
        """Serve exactly these disk pools."""
        await self._observer.configure(pools)

    async def attach(self, send: Send) -> None:
        """Tell everything once, then changes."""
        await self._observer.attach(send)

    def detach(self) -> None:
        """The controller is gone."""
        self._observer.detach()

    async def resync(self) -> None:
        """Read everything anew and tell what changed."""
        await self._observer.resync()

    async def run(self, command: Command) -> StepResult:
        """Run a command."""
        return await self._machines.run(command)

    async def guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        """Do a call into a guest."""
        return await self._machines.guest(call)

    async def measure(self, call: Measure) -> MeasureReply:
        """Run a benchmark on this server or in a machine on it."""
        return await self._machines.measure(call)

    async def console(self, uid: MachineUid) -> Ends:
        """Attach to a machine's serial console. Raises `OSError`."""
        return await open_console(self._worker, uid)
