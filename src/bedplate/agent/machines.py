"""Carries out commands: checks what entitles to them, hands each step to who does it, reads back what came of it.

One step at a time per machine. A step asked again under the same operation is answered, not repeated. Chooses nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import OrderedDict

import libvirt

from bedplate.agent import libvirt_domains
from bedplate.agent.disk_steps import DiskSteps
from bedplate.agent.domain_steps import DomainSteps
from bedplate.agent.faults import AgentFault, HypervisorDown, OutOfDate
from bedplate.agent.guest import GuestChannel, GuestUnreachable
from bedplate.agent.measuring import Measurer, answered
from bedplate.agent.migration import Migration
from bedplate.agent.observer import Observer
from bedplate.agent.pool_io import StorageHung
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import Command, GuestExecute, GuestReply, GuestWrite, Measure, MeasureReply
from bedplate.model.ids import Epoch, OperationId, StoreId
from bedplate.model.inventory import AnyView
from bedplate.model.steps import (
    CreateVolume,
    DefineDomain,
    DeleteRetained,
    DeleteVolume,
    Done,
    DropImage,
    Failed,
    ForgetDomain,
    HypervisorStep,
    MigrateDomain,
    PullImage,
    RamStep,
    ReceiveDomain,
    Refused,
    RemoveDomain,
    RetainVolume,
    StartDomain,
    StepResult,
    StopDomain,
    Unknown,
)

log = logging.getLogger("bedplate.agent")

REMEMBERED = 512
"""Replies kept for repeated commands; far more than are in flight on one server."""
CUT_MARGIN_SECONDS = 5.0
"""Of a step's time kept for cutting the power after the grace."""


class Machines:
    """The machines of this server."""

    def __init__(
        self,
        state: AgentState,
        store: StoreId,
        observer: Observer,
        disks: DiskSteps,
        domains: DomainSteps,
        migration: Migration,
        guests: GuestChannel,
        measurer: Measurer,
    ) -> None:
        self._state = state
        self._store = store
        self._observer = observer
        self._disks = disks
        self._domains = domains
        self._migration = migration
        self._guests = guests
        self._measurer = measurer
        self._locks: dict[str, asyncio.Lock] = {}
        self._running: dict[OperationId, asyncio.Task[StepResult]] = {}
        self._replies: OrderedDict[OperationId, StepResult] = OrderedDict()

    # --- commands -----------------------------------------------------------------------------------------------

    async def run(self, command: Command) -> StepResult:
        """Run a command to its end, or wait for it where it runs, or answer what it was answered."""
        known = self._replies.get(command.operation)
        if known is not None:
            return known
        task = self._running.get(command.operation)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._bounded(command))
            self._running[command.operation] = task
            task.add_done_callback(lambda t: self._ended(command.operation, t))
        return await asyncio.shield(task)

    def _ended(self, operation: OperationId, task: asyncio.Task[StepResult]) -> None:
        self._running.pop(operation, None)
        if task.cancelled() or task.exception() is not None:
            return
        # What failed or is unknown may be tried again by the same name; what is done is done.
        if isinstance(task.result(), Done):
            self._replies[operation] = task.result()
            while len(self._replies) > REMEMBERED:
                self._replies.popitem(last=False)

    async def _bounded(self, command: Command) -> StepResult:
        step = command.step
        if isinstance(step, RamStep):
            message = f"{step.server} runs a hypervisor, not the RAM system that {step.name} needs"
            return Failed(reason="NotTheRamSystem", message=message)
        try:
            self._admit(command.store, command.epoch)
            async with asyncio.timeout(command.deadline):
                async with self._lock(step):
                    return await self._step(step, command)
        except OutOfDate as error:
            return Refused(message=str(error))
        except AgentFault as error:
            return Failed(reason=error.reason, message=str(error), permanent=error.permanent)
        except HypervisorDown as error:
            if error.begun:
                return Unknown(message=str(error))
            return Failed(reason="LibvirtUnavailable", message=str(error))
        except StorageHung as error:
            if error.begun:
                return Unknown(message=str(error))
            return Failed(reason="StorageHung", message=str(error))
        except TimeoutError:
            return Unknown(message=f"{step.name} did not end within {command.deadline:.0f} s")
        except libvirt.libvirtError as error:
            return libvirt_domains.failure(error)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            return Failed(reason="DiskFull" if full else "DiskFailed", message=str(error))
        except Exception as error:  # a fault of ours must not leave the controller without an answer
            log.exception("step %s", step.name)
            return Failed(reason="AgentFault", message=f"the agent failed in {step.name}: {error!r}")

    def _admit(self, store: StoreId, epoch: Epoch) -> None:
        if store != self._store:
            raise OutOfDate(f"this agent belongs to store {self._store}, not {store}")
        self._state.admit_epoch(epoch)

    def _lock(self, step: HypervisorStep) -> asyncio.Lock:
        uid = getattr(step, "uid", "") or getattr(getattr(step, "machine", None), "uid", "")
        return self._locks.setdefault(uid or step.target, asyncio.Lock())

    async def _step(self, step: HypervisorStep, command: Command) -> StepResult:
        match step:
            case PullImage():
                return await self._disks.pull(step)
            case DeleteRetained():
                return await self._disks.delete_retained(step)
            case DropImage():
                return await self._disks.drop_image(step)
            case ReceiveDomain():
                # Its generation is written down only once all is ready: what is shown then says that it is.
                self._state.check_generation(step.machine.uid, step.machine.generation)
            case _:
                await asyncio.to_thread(self._state.admit_generation, step.machine.uid, step.machine.generation)
        if isinstance(step, MigrateDomain):
            return await self._migration.migrate(step.machine, step.address, command.deadline)
        message = await self._act(step, command)
        view = await self._observer.refresh(step.machine.uid)
        views: tuple[AnyView, ...] = (view,) if view is not None else ()
        return Done(views=views, message=message)

    async def _act(self, step: HypervisorStep, command: Command) -> str:
        match step:
            case CreateVolume(machine=machine):
                return await self._disks.create(machine)
            case DefineDomain(machine=machine):
                return await self._domains.define(machine)
            case StartDomain(machine=machine):
                return await self._domains.start(machine, command.user_data)
            case StopDomain(machine=machine):
                return await self._domains.stop(machine, min(step.grace, command.deadline - CUT_MARGIN_SECONDS))
            case RemoveDomain(machine=machine):
                return await self._domains.remove(machine)
            case DeleteVolume(machine=machine):
                return await self._disks.delete(machine)
            case RetainVolume(machine=machine):
                return await self._disks.retain(machine)
            case ReceiveDomain(machine=machine):
                return await self._migration.receive(machine)
            case ForgetDomain(machine=machine):
                message = await self._domains.forget(machine)
                await self._migration.settle()
                return message
            case MigrateDomain() | PullImage() | DeleteRetained() | DropImage():
                raise AssertionError(f"{step.name} is run elsewhere")

    # --- guests -------------------------------------------------------------------------------------------------

    async def guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        """Do a guest call; never raises."""
        try:
            self._admit(call.store, call.epoch)
            self._state.check_generation(call.machine.uid, call.machine.generation)
            async with asyncio.timeout(call.deadline):
                return await self._guest(call)
        except TimeoutError:
            return GuestReply(call=call.call, error=f"the guest did not answer within {call.deadline:.0f} s")
        except (OutOfDate, GuestUnreachable) as error:
            return GuestReply(call=call.call, error=str(error))
        except Exception as error:
            log.exception("guest call")
            return GuestReply(call=call.call, error=f"the agent failed: {type(error).__name__}")

    async def _guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        uid = call.machine.uid
        if isinstance(call, GuestExecute):
            out = await self._guests.execute(uid, call.argv, call.stdin, call.deadline)
            return GuestReply(call=call.call, exit_code=out.exit_code, stdout=out.stdout, stderr=out.stderr)
        await self._guests.write(uid, call.path, call.content, call.mode, first=call.first, timeout=call.deadline)
        if call.first:
            self._observer.guests.files_written(uid)
        return GuestReply(call=call.call)

    # --- measuring ----------------------------------------------------------------------------------------------

    async def measure(self, call: Measure) -> MeasureReply:
        """Run a benchmark on this server or in a machine on it; never raises."""
        return await answered(call, self._measure(call), expected=(OutOfDate, GuestUnreachable))

    async def _measure(self, call: Measure) -> MeasureReply:
        self._admit(call.store, call.epoch)
        if call.machine is not None:
            self._state.check_generation(call.machine.uid, call.machine.generation)
        return await self._measurer.run(call)
