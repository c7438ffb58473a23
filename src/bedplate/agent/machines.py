"""Carries out steps: checks what entitles to them, acts on libvirt and disks, reads back what came of it.

One step at a time per machine. A step asked again under the same operation is answered, not repeated. Chooses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import libvirt
import msgspec

from bedplate.agent.domains import METADATA_PREFIX, METADATA_URI, DomainFiles, domain_xml, mark_of, mark_xml, read_mark
from bedplate.agent.enrol import ControllerConnection
from bedplate.agent.faults import AgentFault, HypervisorDown, OutOfDate
from bedplate.agent.guest import GuestChannel, GuestUnreachable
from bedplate.agent.observer import Facts, Observer
from bedplate.agent.seed import Seeds
from bedplate.agent.state import AgentState
from bedplate.agent.volumes import DiskPool
from bedplate.agent.worker import Worker
from bedplate.model.agent_protocol import Command, GuestExecute, GuestReply, GuestWrite
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, Epoch, MachineUid, OperationId, StoreId
from bedplate.model.inventory import AnyView
from bedplate.model.steps import (
    CreateVolume,
    DefineDomain,
    DeleteRetained,
    DeleteVolume,
    Done,
    Failed,
    HypervisorStep,
    PullImage,
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
PRESS_AGAIN_SECONDS = 10.0
"""A guest that is still starting misses the first press of its power button."""
CUT_MARGIN_SECONDS = 5.0
"""Of a step's time kept for cutting the power after the grace."""


class Machines:
    """The machines of this server."""

    def __init__(
        self,
        state: AgentState,
        store: StoreId,
        worker: Worker,
        observer: Observer,
        guests: GuestChannel,
        seeds: Seeds,
        accelerator: str,
        connect: Callable[[], ControllerConnection],
    ) -> None:
        self._state = state
        self._store = store
        self._worker = worker
        self._observer = observer
        self._guests = guests
        self._seeds = seeds
        self._accelerator = accelerator
        self._connect = connect
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
        except TimeoutError:
            return Unknown(message=f"{step.name} did not end within {command.deadline:.0f} s")
        except libvirt.libvirtError as error:
            return _libvirt_failure(error)
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
                return await self._pull(step)
            case DeleteRetained():
                return await self._delete_retained(step)
            case _:
                pass
        machine = step.machine
        await asyncio.to_thread(self._state.admit_generation, machine.uid, machine.generation)
        match step:
            case CreateVolume():
                message = await self._create_volume(machine)
            case DefineDomain():
                message = await self._define(machine, command.user_data)
            case StartDomain():
                message = await self._start(machine, command.user_data)
            case StopDomain():
                message = await self._stop(machine, min(step.grace, command.deadline - CUT_MARGIN_SECONDS))
            case RemoveDomain():
                message = await self._remove(machine)
            case DeleteVolume():
                message = await self._delete_volume(machine)
            case RetainVolume():
                message = await self._retain(machine)
        view = await self._observer.refresh(machine.uid)
        views: tuple[AnyView, ...] = (view,) if view is not None else ()
        return Done(views=views, message=message)

    # --- disks --------------------------------------------------------------------------------------------------

    def _pool(self, name: str) -> DiskPool:
        pool = self._observer.pools.get(name)
        if pool is None:
            raise AgentFault("PoolMissing", f"disk pool {name} is not served here: {self._observer_error()}")
        return pool

    def _observer_error(self) -> str:
        served = ", ".join(sorted(self._observer.pools)) or "none"
        return f"served are {served}"

    async def _pull(self, step: PullImage) -> StepResult:
        pool = self._pool(step.disk_pool)
        await self._have(pool, (step.image.disk, step.image.kernel, step.image.initrd))
        await self._observer.refresh_server()
        return Done(message=f"image {step.image.name} is in disk pool {step.disk_pool}")

    async def _have(self, pool: DiskPool, digests: tuple[Digest, ...]) -> None:
        stop = threading.Event()
        try:
            for digest in digests:
                if digest and not await asyncio.to_thread(pool.images.has, digest):
                    await asyncio.to_thread(pool.images.fetch, digest, self._connect, stop)
        finally:
            stop.set()  # a thread can't be cancelled; it looks here

    async def _create_volume(self, machine: MachineEntry) -> str:
        pool = self._pool(machine.disk_pool)
        await self._have(pool, (machine.image.disk,))
        message = await pool.create(machine)
        record = self._state.record(machine.uid)
        if record.disk_pool != machine.disk_pool:
            record = msgspec.structs.replace(record, disk_pool=machine.disk_pool)
            await asyncio.to_thread(self._state.keep, record)
        return message

    async def _delete_volume(self, machine: MachineEntry) -> str:
        await self._must_be_gone(machine)
        pool = self._pool(machine.disk_pool)
        await asyncio.to_thread(pool.delete, machine.uid, machine.generation)
        await self._end_record(machine.uid)
        return "the disk is gone"

    async def _retain(self, machine: MachineEntry) -> str:
        await self._must_be_gone(machine)
        pool = self._pool(machine.disk_pool)
        await asyncio.to_thread(pool.retain, machine)
        await self._observer.retained_changed(machine.uid, machine.disk_pool, True)
        await self._end_record(machine.uid)
        return "the disk is kept"

    async def _delete_retained(self, step: DeleteRetained) -> StepResult:
        pool = self._pool(step.disk_pool)
        await asyncio.to_thread(pool.delete_retained, step.uid, step.generation)
        return Done(views=(await self._observer.retained_changed(step.uid, step.disk_pool, False),))

    async def _must_be_gone(self, machine: MachineEntry) -> None:
        if await self._observer.facts(machine.uid) is not None:
            raise AgentFault("DomainPresent", f"the domain of {machine.name} is still there: remove it first")

    async def _end_record(self, uid: MachineUid) -> None:
        record = msgspec.structs.replace(self._state.record(uid), ended=time.time())
        await asyncio.to_thread(self._state.keep, record)

    # --- domains ------------------------------------------------------------------------------------------------

    async def _define(self, machine: MachineEntry, user_data: bytes) -> str:
        pool = self._pool(machine.disk_pool)
        await self._have(pool, (machine.image.kernel, machine.image.initrd))
        files = DomainFiles(
            disk=str(pool.disk(machine.uid)),
            console_log=str(pool.console_log(machine.uid)),
            nvram=str(pool.nvram(machine.uid)),
            kernel=str(pool.images.path(machine.image.kernel)) if machine.image.kernel else "",
            initrd=str(pool.images.path(machine.image.initrd)) if machine.image.initrd else "",
            seed=self._seeds.path(machine) if machine.image.bootstrap == "cloud-init" else "",
            direct=pool.direct,
        )
        accelerator = "kvm" if self._accelerator == "kvm" else "tcg"
        xml = domain_xml(machine, store=self._store, accelerator=accelerator, files=files)
        store, uid = self._store, machine.uid

        def work(connection: Any) -> str:
            domain = _lookup(connection, uid)
            if domain is not None:
                _check_ours(domain, store)
                return _redefine(connection, domain, xml)
            connection.defineXML(xml)
            return "the domain was defined"

        return await self._worker.call(work)

    async def _start(self, machine: MachineEntry, user_data: bytes) -> str:
        facts = await self._defined(machine)
        record = self._state.record(machine.uid)
        if facts.state in {"running", "paused"}:
            if record.boot < machine.boot:
                kept = msgspec.structs.replace(record, boot=machine.boot, started=record.started or time.time())
                await asyncio.to_thread(self._state.keep, kept)
            return "the domain runs"
        if record.boot >= machine.boot:
            return f"boot {record.boot} was started before and has ended; each is started once"
        pool = self._pool(machine.disk_pool)
        if await asyncio.to_thread(pool.volume, machine.uid) is None:
            raise AgentFault("VolumeMissing", f"the disk of {machine.name} is not in disk pool {machine.disk_pool}")
        if machine.image.bootstrap == "cloud-init":
            await asyncio.to_thread(self._seeds.write, machine, user_data if record.boot == 0 else b"")
        begun = msgspec.structs.replace(record, boot=machine.boot, started=time.time(), disk_pool=machine.disk_pool)
        await asyncio.to_thread(_rotate, str(pool.console_log(machine.uid)))
        await asyncio.to_thread(self._state.keep, begun)
        try:
            await self._worker.call(lambda c: c.lookupByUUIDString(machine.uid).create(), timeout=60)
        except HypervisorDown as error:
            if not error.begun:
                await asyncio.to_thread(self._state.keep, record)
            raise
        except libvirt.libvirtError:
            # libvirt says that it did not start: the boot number is not spent.
            facts = await self._observer.facts(machine.uid)
            if facts is None or facts.state not in {"running", "paused"}:
                await asyncio.to_thread(self._state.keep, record)
            raise
        return f"boot {machine.boot} was started"

    async def _defined(self, machine: MachineEntry) -> Facts:
        facts = await self._observer.facts(machine.uid)
        if facts is None:
            raise AgentFault("DomainMissing", f"the domain of {machine.name} is not defined here")
        if facts.mark.generation < machine.generation:
            raise AgentFault(
                "DomainOutdated",
                f"the domain of {machine.name} is of generation {facts.mark.generation}: define it first",
            )
        return facts

    async def _stop(self, machine: MachineEntry, grace: float) -> str:
        end = time.monotonic() + grace
        pressed = float("-inf")
        while (facts := await self._observer.facts(machine.uid)) is not None and facts.state == "running":
            now = time.monotonic()
            if now >= end:
                break
            if now - pressed >= PRESS_AGAIN_SECONDS:
                pressed = now
                await self._worker.call(lambda c: _press(c, machine.uid))
            await self._observer.wait_for_event(machine.uid, min(end - now, PRESS_AGAIN_SECONDS))
        if facts is None or facts.state not in {"running", "paused"}:
            await asyncio.to_thread(self._seeds.remove, machine.uid)
            return "it ended"
        await self._worker.call(lambda c: _cut(c, machine.uid), timeout=60)
        await asyncio.to_thread(self._seeds.remove, machine.uid)
        return f"it did not end within {grace:.0f} s and was cut"

    async def _remove(self, machine: MachineEntry) -> str:
        store, uid = self._store, machine.uid

        def work(connection: Any) -> str:
            domain = _lookup(connection, uid)
            if domain is None:
                return "the domain was gone"
            _check_ours(domain, store)
            _cut(connection, uid)
            flags = (
                libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            )
            domain.undefineFlags(flags)
            return "the domain is gone"

        message = await self._worker.call(work, timeout=60)
        await asyncio.to_thread(self._seeds.remove, uid)
        return message

    # --- guests -------------------------------------------------------------------------------------------------

    async def guest(self, call: GuestWrite | GuestExecute) -> GuestReply:
        """Do a guest call; never raises."""
        try:
            self._admit(call.store, call.epoch)
            record = self._state.record(call.machine.uid)
            if call.machine.generation < record.generation:
                raise OutOfDate(
                    f"generation {call.machine.generation} of {call.machine.name} is over: {record.generation} was seen"
                )
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
            self._observer.files_written(uid)
        return GuestReply(call=call.call)


def _lookup(connection: Any, uid: MachineUid) -> Any:
    try:
        return connection.lookupByUUIDString(uid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _mark(domain: Any) -> Any:
    try:
        return read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, 0))
    except libvirt.libvirtError:
        return None


def _check_ours(domain: Any, store: StoreId) -> None:
    mark = _mark(domain)
    if mark is None or mark.store != store:
        raise AgentFault(
            "NotOurs", f"domain {domain.name()} was not made by this store; it is left alone", permanent=True
        )


def _redefine(connection: Any, domain: Any, xml: str) -> str:
    wanted = mark_of(xml)
    mark = _mark(domain)
    if mark == wanted:
        return "the domain was as it is to be"
    assert wanted is not None
    connection.defineXML(xml)
    if domain.isActive():
        # The running guest keeps its hardware until it next starts; its mark is raised at once.
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            mark_xml(wanted, bare=True),
            METADATA_PREFIX,
            METADATA_URI,
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )
    return "the domain was redefined"


def _press(connection: Any, uid: MachineUid) -> None:
    """Press the power button; a guest that is just ending is not an error."""
    with contextlib.suppress(libvirt.libvirtError):
        connection.lookupByUUIDString(uid).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def _cut(connection: Any, uid: MachineUid) -> None:
    domain = connection.lookupByUUIDString(uid)
    if not domain.isActive():
        return
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def _rotate(log_file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.replace(log_file, f"{log_file}.1")


def _libvirt_failure(error: libvirt.libvirtError) -> Failed:
    text = error.get_error_message() or str(error)
    reason = "LibvirtError"
    if 'Failed to get "write" lock' in text or "Failed to get shared" in text:
        reason = "DiskInUse"
    elif os.strerror(errno.ENOSPC) in text:
        reason = "DiskFull"
    elif "Cannot allocate memory" in text or "cannot set up guest memory" in text:
        reason = "OutOfMemory"
    elif error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        reason = "DomainMissing"
    return Failed(reason=reason, message=f"libvirt: {text}")
