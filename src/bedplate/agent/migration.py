"""Live migration, seen from the source and from the target. Both sides' libvirt does it; who runs where is read back.

Rule 1: what is not known is said to be unknown. Nothing here resumes or starts a guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any
from xml.etree import ElementTree

import libvirt
import msgspec

from bedplate.agent import libvirt_domains
from bedplate.agent.certificates import MoveCertificates
from bedplate.agent.disk_steps import DiskSteps
from bedplate.agent.domains import METADATA_URI
from bedplate.agent.facts import Facts
from bedplate.agent.faults import AgentFault, HypervisorDown, OutOfDate
from bedplate.agent.host import Host
from bedplate.agent.lease_keeper import LeaseKeeper
from bedplate.agent.observer import Observer
from bedplate.agent.passage import Passage
from bedplate.agent.state import AgentState, MachineRecord
from bedplate.agent.volumes import DiskPool
from bedplate.agent.worker import Worker, WorkerPool
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid, ServerName, StoreId
from bedplate.model.steps import Done, Failed, StepResult, Unknown

log = logging.getLogger("bedplate.agent.moves")

ABORT_SECONDS = 10.0
"""Of a step's time kept for calling a move off: libvirt stops the transfer and lets the guest run on."""
LEAST_SECONDS = 5.0
ATTACH_SECONDS = 1.0
"""Between looks at a move that an agent before this one has begun."""
AWAIT_SECONDS = 3600.0
"""A machine that has not come after so long is not let in any more: its move was called off without a word."""
CLAIM_AGAIN_SECONDS = 2.0

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER  # a target that dies is noticed; without it the call hangs
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    # libvirt knows only some file systems as shared; this pool is declared to be, and both agents see the same disk.
    | libvirt.VIR_MIGRATE_UNSAFE
)


class Migration:
    """Moves from and to this server."""

    def __init__(
        self,
        state: AgentState,
        store: StoreId,
        host: Host,
        worker: Worker,
        movers: WorkerPool,
        observer: Observer,
        disks: DiskSteps,
        leases: LeaseKeeper,
        passage: Passage,
        certificates: MoveCertificates,
    ) -> None:
        self._state = state
        self._store = store
        self._host = host
        self._worker = worker
        self._movers = movers
        self._observer = observer
        self._disks = disks
        self._leases = leases
        self._passage = passage
        self._certificates = certificates
        self._claims: set[asyncio.Task[None]] = set()
        observer.arrived = self.arrived

    def awaited(self, source: ServerName) -> bool:
        """Whether a machine is awaited from a server."""
        return bool(source) and any(r.source == source for r in self._expected())

    def _expected(self) -> list[MachineRecord]:
        oldest = time.time() - AWAIT_SECONDS
        return [r for r in self._state.live() if r.source and r.started > oldest]

    async def settle(self) -> None:
        """Listen for moves while a machine is awaited, and only then."""
        if self._expected():
            await self._passage.listen(self._host.address)
        else:
            self._passage.close()

    # --- the target ---------------------------------------------------------------------------------------------

    async def receive(self, machine: MachineEntry) -> str:
        """Make ready to take the machine over. Raises `AgentFault`, `OutOfDate`, `OSError`."""
        if not machine.source or machine.source == machine.server:
            raise AgentFault("NotMoving", f"{machine.name} moves from nowhere", permanent=True)
        pool = self._disks.pool(machine.disk_pool)
        await pool.io.call(_reached, pool, machine)
        self._leases.permit(pool.pool)
        facts = await self._observer.facts(machine.uid)
        if facts is not None and facts.active:
            if facts.mark.generation == machine.generation:
                return "it has come"
            raise AgentFault("DomainPresent", f"{machine.name} runs here already, of another generation")
        if facts is not None:  # its definition from an earlier stay would be in the way
            await self._worker.call(lambda c: libvirt_domains.remove(c, machine.uid, self._store), timeout=60)
        record = msgspec.structs.replace(
            self._state.record(machine.uid),
            generation=machine.generation,
            boot=machine.boot,
            disk_pool=machine.disk_pool,
            source=machine.source,
            started=time.time(),
            ended=0.0,
        )
        await asyncio.to_thread(self._state.keep, record)
        await self.settle()
        return f"{machine.name} is awaited from {machine.source}"

    async def arrived(self, uid: MachineUid) -> None:
        """A machine that was awaited runs here: its disk is this server's from now on."""
        record = self._state.record(uid)
        log.info("machine %s has come from %s", uid, record.source)
        if not await self._claim(uid):
            task = asyncio.get_running_loop().create_task(self._claim_later(uid))
            self._claims.add(task)
            task.add_done_callback(self._claims.discard)
        kept = msgspec.structs.replace(record, source=ServerName(""), started=time.time())
        await asyncio.to_thread(self._state.keep, kept)
        await self.settle()

    async def _claim(self, uid: MachineUid) -> bool:
        record = self._state.record(uid)
        try:
            pool = self._disks.pool(record.disk_pool)
            await pool.io.call(pool.claim, uid, record.generation)
        except (OSError, AgentFault) as error:
            log.warning("the disk of machine %s can't be marked as this server's yet: %s", uid, error)
            return False
        except OutOfDate as error:
            log.error("%s: it is another server's by now", error)
        return True

    async def _claim_later(self, uid: MachineUid) -> None:
        while True:
            await asyncio.sleep(CLAIM_AGAIN_SECONDS)
            if self._state.record(uid).ended or await self._claim(uid):
                await self._observer.refresh(uid)
                return

    async def stop(self) -> None:
        """End what waits."""
        for task in list(self._claims):
            task.cancel()
        await asyncio.gather(*self._claims, return_exceptions=True)

    # --- the source ---------------------------------------------------------------------------------------------

    async def migrate(self, machine: MachineEntry, address: str, deadline: float) -> StepResult:
        """Move the running machine to `machine.server`; gives how it ended, as read back."""
        end = time.monotonic() + max(LEAST_SECONDS, deadline - ABORT_SECONDS)
        facts = await self._observer.facts(machine.uid)
        if facts is None:
            return self._gone(machine)
        if facts.left:
            return await self._moved(machine, "it had moved before")
        if not facts.active or (facts.state == "paused" and not facts.moving):
            return Failed(
                reason="NotRunning", message=f"{machine.name} is {facts.state} here: only what runs moves live"
            )
        if await self._busy(machine.uid):
            complaint = await self._attend(machine.uid, end)
        else:
            complaint = await self._go(machine, address, end)
        return await self._outcome(machine, complaint)

    def _gone(self, machine: MachineEntry) -> StepResult:
        record = self._state.record(machine.uid)
        if record.ended and record.generation == machine.generation:
            return Done(message="it had moved before")
        return Unknown(
            message=f"{machine.name} is not known to this server's libvirt: see whether {machine.server} has it"
        )

    async def _go(self, machine: MachineEntry, address: str, end: float) -> str:
        """Begin the move and see it through, or call it off; gives libvirt's complaint, if it had one."""
        live, kept = await self._worker.call(lambda c: _definitions(c, machine))
        try:
            async with self._passage.to(machine.server, address) as path:
                order = self._order(machine, address, path, live, kept)
                call = asyncio.ensure_future(
                    self._movers.call(order, timeout=end - time.monotonic() + 2 * ABORT_SECONDS)
                )
                return await self._see_through(machine.uid, call, end)
        except OSError as error:
            return f"{machine.server} is not reached at {address}: {error}"

    async def _see_through(self, uid: MachineUid, call: asyncio.Future[None], end: float) -> str:
        called_off = ""
        try:
            done, _ = await asyncio.wait({call}, timeout=max(0.0, end - time.monotonic()))
            if not done:
                called_off = "it did not come to an end in time and was called off: its memory changes too fast; "
                await self._call_off(uid)
            await call
        except libvirt.libvirtError as error:
            return f"{called_off}libvirt: {error.get_error_message() or error}"
        except HypervisorDown as error:
            return f"{called_off}{error}"  # perhaps only the other server's libvirt; what became of it is read back
        except asyncio.CancelledError:
            if not call.done():
                await self._call_off(uid)
                call.cancel()
            raise
        return ""

    async def _call_off(self, uid: MachineUid) -> None:
        with contextlib.suppress(libvirt.libvirtError, HypervisorDown):
            await self._worker.call(lambda c: c.lookupByUUIDString(uid).abortJob(), timeout=ABORT_SECONDS / 2)

    def _order(self, machine: MachineEntry, address: str, path: str, live: str, kept: str) -> Any:
        host = f"[{address}]" if ":" in address else address
        parameters: dict[str, str] = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{host}",
            libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: address,
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: live,
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: kept,
        }
        flags = _FLAGS
        if self._certificates.ready:
            flags |= libvirt.VIR_MIGRATE_TLS
            parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = machine.server
        uri = f"qemu+unix:///system?socket={path}"

        def work(connection: Any) -> None:
            connection.lookupByUUIDString(machine.uid).migrateToURI3(uri, parameters, flags)

        return work

    async def _busy(self, uid: MachineUid) -> bool:
        """Whether it is on its way already, by an order of an agent before this one."""

        def work(connection: Any) -> bool:
            kind = connection.lookupByUUIDString(uid).jobStats().get("operation", 0)
            return kind == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT

        try:
            return await self._worker.call(work)
        except libvirt.libvirtError:
            return False

    async def _attend(self, uid: MachineUid, end: float) -> str:
        log.info("machine %s is on its way already", uid)
        while await self._busy(uid):
            if time.monotonic() >= end:
                await self._call_off(uid)
                end = float("inf")
            await asyncio.sleep(ATTACH_SECONDS)
        return "the move that an agent before this one had begun has ended"

    async def _outcome(self, machine: MachineEntry, complaint: str) -> StepResult:
        try:
            facts = await self._observer.facts(machine.uid)
            busy = facts is not None and facts.active and await self._busy(machine.uid)
        except HypervisorDown as error:
            return Unknown(message=f"{machine.name} was on its way: {complaint}; {error}")
        if busy:
            return Unknown(message=f"{machine.name} is still on its way: {complaint}")
        if facts is None:
            return self._gone(machine)
        if facts.left:
            return await self._moved(machine, await self._worker.call(lambda c: _told(c, machine)))
        if facts.active and not facts.moving:
            return _stays(machine, facts, complaint)
        return Unknown(message=f"the move of {machine.name} ended in between: {complaint or 'libvirt says no more'}")

    async def _moved(self, machine: MachineEntry, message: str) -> StepResult:
        """It runs on the target: nothing of it stays here but that it was here."""
        await self._worker.call(lambda c: libvirt_domains.remove(c, machine.uid, self._store), timeout=60)
        await self._disks.end_record(machine.uid)
        log.info("machine %s: %s", machine.uid, message)
        view = await self._observer.refresh(machine.uid)
        return Done(views=(view,) if view is not None else (), message=message)


def _stays(machine: MachineEntry, facts: Facts, complaint: str) -> Failed:
    reason = "MigrationTimeout" if "called off" in complaint else "MigrationFailed"
    return Failed(
        reason=reason, message=f"{machine.name} did not move and is {facts.state} here as before; {complaint}"
    )


def _reached(pool: DiskPool, machine: MachineEntry) -> None:
    """See that all that the running machine has open is reached from here. Blocking."""
    pool.see(machine)
    for digest in (machine.image.disk, machine.image.kernel, machine.image.initrd):
        if digest and not pool.images.has(digest):
            raise AgentFault(
                "ImageMissing", f"image file {digest} of {machine.name} is not in disk pool {pool.pool.name}"
            )


def _definitions(connection: Any, machine: MachineEntry) -> tuple[str, str]:
    """The running domain and the one to be kept, as the target is to know them: with the new generation's mark."""
    domain = connection.lookupByUUIDString(machine.uid)
    flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
    live = domain.XMLDesc(flags)
    kept = domain.XMLDesc(flags | libvirt.VIR_DOMAIN_XML_INACTIVE)
    return _marked(live, machine), _marked(kept, machine)


def _marked(xml: str, machine: MachineEntry) -> str:
    root = ElementTree.fromstring(xml)
    mark = root.find(f"./metadata/{{{METADATA_URI}}}machine")
    if mark is None:
        raise AgentFault("NotOurs", f"the domain of {machine.name} carries no mark of this store", permanent=True)
    mark.set("generation", str(machine.generation))
    mark.set("boot", str(machine.boot))
    return ElementTree.tostring(root, encoding="unicode")


def _told(connection: Any, machine: MachineEntry) -> str:
    """How long it took, from libvirt's record of the job."""
    try:
        stats = connection.lookupByUUIDString(machine.uid).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    except libvirt.libvirtError:
        stats = {}
    message = f"it moved to {machine.server}"
    if "time_elapsed" in stats:
        message += f" in {stats['time_elapsed'] / 1000:.1f} s"
    if "downtime" in stats:
        message += f", standing still for {stats['downtime']} ms"
    return message
