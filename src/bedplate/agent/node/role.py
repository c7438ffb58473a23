"""The node role as the connection sees it: the one machine that this server is, told as a hypervisor tells its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bedplate.agent.board import plain_view
from bedplate.agent.bootstrap_word import BootstrapStatus
from bedplate.agent.faults import OutOfDate
from bedplate.agent.measuring import Measurer, answered
from bedplate.agent.node.machine import CallFailed, LocalMachine
from bedplate.agent.role import Send
from bedplate.agent.state import AgentState, Identity
from bedplate.agent.streams import Ends
from bedplate.agent.telling import Telling
from bedplate.model.agent_protocol import Command, GuestExecute, GuestReply, GuestWrite, Measure, MeasureReply, Pool
from bedplate.model.drift import Drift
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import AnyView, DomainView, ServerView
from bedplate.model.metal_protocol import NodeIdentity
from bedplate.model.steps import Failed, StepResult

log = logging.getLogger("bedplate.agent")

LOOK_SECONDS = 1.0
"""Between looks at the bootstrap unit's files: a read of memory."""


class NodeRole:
    """Implements `role.Role`."""

    def __init__(
        self, state: AgentState, who: Identity, node: NodeIdentity, machine: LocalMachine, measurer: Measurer
    ) -> None:
        self._state = state
        self._store = who.store
        self._node = node
        self._machine = machine
        self._measurer = measurer
        self._server = msgspec.structs.replace(plain_view(who.server, who.host_uuid), system="node")
        self._bootstrap = BootstrapStatus()
        self._started = time.time() - _uptime()
        self._telling = Telling(self._views)

    def _views(self) -> list[AnyView]:
        record = self._state.record(self._node.uid)
        bootstrap = self._bootstrap
        domain = DomainView(
            server=self._server.server,
            uid=self._node.uid,
            generation=max(self._node.generation, record.generation),
            state="running",
            boot=1,
            volume=True,
            guest_agent=True,
            started=self._started,
            bootstrap=bootstrap.state,
            bootstrap_up=bootstrap.up,
            bootstrap_began=bootstrap.began,
            bootstrap_ended=bootstrap.ended,
            detail=bootstrap.detail,
        )
        return [self._server, domain]

    async def watch(self) -> None:
        """Look at the bootstrap unit's word and tell its changes, until cancelled."""
        while True:
            await self.resync()
            await asyncio.sleep(LOOK_SECONDS)

    # --- the connection -------------------------------------------------------------------------------------------

    async def server_view(self) -> ServerView:
        """The server as it is now."""
        return self._server

    def reached_from(self, address: str) -> None:
        """The connection goes out from this address."""
        self._server = msgspec.structs.replace(self._server, address=address)

    def spoken(self) -> None:
        """Nothing hangs on it here."""

    async def configure(self, pools: Sequence[Pool]) -> None:
        """A node serves no disk pools."""

    async def attach(self, send: Send) -> None:
        """Tell everything, then changes."""
        self._bootstrap = await asyncio.to_thread(self._machine.bootstrap)
        await self._telling.attach(send)

    def detach(self) -> None:
        """The controller is gone."""
        self._telling.detach()

    async def drifted(self, found: Drift) -> None:
        """It was looked at whether this system is as deployed."""
        self._server = msgspec.structs.replace(self._server, drift=found)
        await self._telling.tell()

    async def resync(self) -> None:
        """Look and tell what changed."""
        self._bootstrap = await asyncio.to_thread(self._machine.bootstrap)
        await self._telling.tell()

    async def run(self, command: Command) -> StepResult:
        """No step is a node's."""
        message = f"{self._server.server} is itself the node {self._node.name}: it can't do {command.step.name}"
        return Failed(reason="RunsANode", message=message)

    async def console(self, uid: MachineUid) -> Ends:
        """Its console is its BMC's. Raises `OSError`."""
        raise ConnectionRefusedError("the machine is bare metal: its console is its BMC's")

    async def measure(self, call: Measure) -> MeasureReply:
        """Run a benchmark in this machine, which is this server; never raises."""
        return await answered(call, self._measure(call), expected=(OutOfDate,))

    async def _measure(self, call: Measure) -> MeasureReply:
        await self._admit(call)
        return await self._measurer.run(msgspec.structs.replace(call, machine=None, disk_pool=""))

    async def guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        """Do a call in this machine; never raises."""
        try:
            await self._admit(call)
            if isinstance(call, GuestExecute):
                return await self._machine.execute(call)
            await asyncio.to_thread(self._machine.write, call)
            return GuestReply(call=call.call)
        except TimeoutError:
            return GuestReply(call=call.call, error=f"it did not end within {call.deadline:.0f} s")
        except (OutOfDate, CallFailed, OSError) as error:
            return GuestReply(call=call.call, error=str(error))
        except Exception as error:  # a fault of ours must not leave the controller without an answer
            log.exception("call into the node")
            return GuestReply(call=call.call, error=f"the agent failed: {type(error).__name__}")

    async def _admit(self, call: GuestWrite | GuestExecute | Measure) -> None:
        if call.store != self._store:
            raise OutOfDate(f"this agent belongs to store {self._store}, not {call.store}")
        if call.machine is None:
            raise OutOfDate(
                f"this server is the node {self._node.name}, no hypervisor: measure machine/{self._node.name}"
            )
        if call.machine.uid != self._node.uid:
            raise OutOfDate(f"this server is machine {self._node.uid}, not {call.machine.uid}")
        if call.machine.generation < self._node.generation:
            raise OutOfDate(f"generation {call.machine.generation} is over: the disk has {self._node.generation}")
        await asyncio.to_thread(self._state.admit_epoch, call.epoch)
        await asyncio.to_thread(self._state.admit_generation, call.machine.uid, call.machine.generation)


def _uptime(path: Path = Path("/proc/uptime")) -> float:
    return float(path.read_text().split()[0])
