"""The RAM role as the connection sees it: one step at a time, a view of what was found and done.

A step that is asked for again is attached to while it runs, under whichever operation, and answered from what is known
afterwards; another step has the running one given up. Past its deadline a step's outcome is unknown, and it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence

import msgspec

from bedplate.agent.board import plain_view
from bedplate.agent.faults import AgentFault, OutOfDate
from bedplate.agent.ram.devices import devices
from bedplate.agent.ram.esp import marker
from bedplate.agent.ram.shell import open_shell
from bedplate.agent.ram.tasks import Surroundings, answered, begun, identity, perform
from bedplate.agent.ram.writing import Stopped
from bedplate.agent.role import Send
from bedplate.agent.state import AgentState, Identity
from bedplate.agent.streams import Ends
from bedplate.agent.telling import Telling
from bedplate.model.agent_protocol import Command, GuestExecute, GuestReply, GuestWrite, Measure, MeasureReply, Pool
from bedplate.model.ids import Generation, MachineUid, OperationId
from bedplate.model.inventory import AnyView, MetalView, ServerView
from bedplate.model.metal import Written
from bedplate.model.steps import Done, Failed, RamStep, Refused, StepResult, Unknown

log = logging.getLogger("bedplate.agent")

PROGRESS_STEP = 20
"""Parts of a whole in which progress is told."""


class _Work:
    """A step at work."""

    def __init__(self, step: RamStep) -> None:
        self.identity = identity(step)
        self.stop = threading.Event()
        self.task: asyncio.Task[StepResult]


class RamRole:
    """Implements `role.Role`. `around`: what steps need; the server's address in it is set from the connection."""

    def __init__(self, state: AgentState, who: Identity, run: int, around: Surroundings) -> None:
        self._state = state
        self._store = who.store
        self._around = around
        self._server = msgspec.structs.replace(plain_view(who.server, who.host_uuid), system="ram", run=run)
        self._metal = MetalView(server=who.server, run=run)
        self._telling = Telling(self._views)
        self._work: _Work | None = None
        self._turn = asyncio.Lock()
        self._done: dict[OperationId, Done] = {}
        self._generation = Generation(0)
        self._tasks: set[asyncio.Task[None]] = set()

    def remember(self, written: Written | None) -> None:
        """What stands on a disk since an earlier boot."""
        self._metal = msgspec.structs.replace(self._metal, written=written)

    def _views(self) -> list[AnyView]:
        return [self._server, self._metal]

    # --- the connection -------------------------------------------------------------------------------------------

    async def server_view(self) -> ServerView:
        """The server as it is now."""
        return self._server

    def reached_from(self, address: str) -> None:
        """The connection goes out from this address."""
        self._server = msgspec.structs.replace(self._server, address=address)
        self._around = msgspec.structs.replace(self._around, address=address)

    def spoken(self) -> None:
        """Nothing hangs on it here."""

    async def configure(self, pools: Sequence[Pool]) -> None:
        """There are no disk pools on a bare server."""

    async def attach(self, send: Send) -> None:
        """Tell everything, then changes."""
        await self._telling.attach(send)

    def detach(self) -> None:
        """The controller is gone; what is at work goes on."""
        self._telling.detach()

    async def resync(self) -> None:
        """Tell what changed."""
        await self._telling.tell()

    async def guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        """There is no machine to do it in."""
        return GuestReply(call=call.call, error="this server runs the RAM system: no machine runs on it")

    async def measure(self, call: Measure) -> MeasureReply:
        """What would be measured is not what will run here."""
        said = "this server runs the RAM system: `bedplate server test` tests it, machines are measured once they run"
        return MeasureReply(call=call.call, error=said)

    async def console(self, uid: MachineUid) -> Ends:
        """A shell of the system itself (`uid` empty); there is no machine. Raises `OSError`."""
        if uid:
            raise ConnectionRefusedError("this server runs the RAM system: no machine runs on it")
        return await open_shell()

    # --- steps ----------------------------------------------------------------------------------------------------

    async def run(self, command: Command) -> StepResult:
        """Run a step, or wait for it where it runs, or answer what is known; never raises."""
        step = command.step
        if not isinstance(step, RamStep):
            message = f"{self._server.server} runs the RAM system, not a hypervisor that {step.name} needs"
            return Failed(reason="NotAHypervisor", message=message)
        try:
            await self._admit(command, step)
            async with asyncio.timeout(command.deadline):
                known = self._done.get(command.operation)
                return known or await self._result(step, command)
        except OutOfDate as error:
            return Refused(message=str(error))
        except TimeoutError:
            return Unknown(message=f"{step.name} did not end within {command.deadline:.0f} s; it goes on")
        except Exception as error:  # a fault of ours must not leave the controller without an answer
            log.exception("step %s", step.name)
            return Failed(reason="AgentFault", message=f"the agent failed in {step.name}: {error!r}")

    async def _admit(self, command: Command, step: RamStep) -> None:
        if command.store != self._store:
            raise OutOfDate(f"this agent belongs to store {self._store}, not {command.store}")
        await asyncio.to_thread(self._state.admit_epoch, command.epoch)
        entry = step.entry
        if entry.run != self._metal.run:
            raise OutOfDate(f"{step.name} is for boot {entry.run} of the RAM system, this is boot {self._metal.run}")
        if entry.generation < self._generation:
            raise OutOfDate(f"generation {entry.generation} of {entry.server} is over: {self._generation} was seen")
        self._generation = entry.generation

    async def _result(self, step: RamStep, command: Command) -> StepResult:
        async with self._turn:
            work = self._work
            if work is not None and work.identity != identity(step):
                log.warning("%s is given up for %s", work.identity[0], step.name)
                work.stop.set()
                await asyncio.wait({work.task})
                work = None
            if work is None or work.task.done():
                if answered(step, self._metal):
                    return Done(views=(self._metal,))
                work = self._work = _Work(step)
                work.task = asyncio.get_running_loop().create_task(self._perform(step, command.enrol, work))
        result = await asyncio.shield(work.task)
        if isinstance(result, Done):
            self._done[command.operation] = result
        return result

    async def _perform(self, step: RamStep, enrol: bytes, work: _Work) -> StepResult:
        self._metal = begun(step, self._metal)
        await self._telling.tell()
        loop = asyncio.get_running_loop()

        def progress(value: float) -> None:
            with contextlib.suppress(RuntimeError):  # the agent ends
                loop.call_soon_threadsafe(self._progressed, work, int(value * PROGRESS_STEP) / PROGRESS_STEP)

        message = ""
        try:
            made = await asyncio.to_thread(perform, step, enrol, self._around, self._metal, progress, work.stop)
            self._metal = msgspec.structs.replace(made, task="", progress=0.0)
            if made.erased is not None and not made.erased.proven:
                left = ", ".join(d.serial or d.model for d in made.erased.disks if not d.erased)
                message = f"not every disk is erased: {left or 'there was none'}"
            return Done(views=(self._metal,), message=message)
        except Stopped:
            return Failed(reason="GivenUp", message=f"{step.name} was given up for another step")
        except AgentFault as error:
            return Failed(reason=error.reason, message=str(error), permanent=error.permanent)
        except OSError as error:
            return Failed(reason="DiskFailed", message=str(error))
        except Exception as error:
            log.exception("step %s", step.name)
            return Failed(reason="AgentFault", message=f"the agent failed in {step.name}: {error!r}")
        finally:
            self._metal = msgspec.structs.replace(self._metal, task="", progress=0.0)
            await self._telling.tell()  # before the reply

    def _progressed(self, work: _Work, value: float) -> None:
        if self._work is work and not work.task.done() and self._metal.task and value > self._metal.progress:
            self._metal = msgspec.structs.replace(self._metal, progress=value)
            task = asyncio.get_running_loop().create_task(self._telling.tell())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is at work; a restarted agent goes on with it."""
        if self._work is not None and not self._work.task.done():
            self._work.stop.set()
            await asyncio.wait({self._work.task})


def written_before() -> Written | None:
    """What the disks' markers say, where exactly one disk has one. Blocking."""
    with contextlib.suppress(AgentFault, OSError):
        found = [m for m in map(marker, devices()) if m is not None]
        return found[0] if len(found) == 1 else None
    return None
