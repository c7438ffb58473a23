"""Steps on domains: define, start, stop, remove, forget. Each boot number is started once; on a shared disk pool only
while its lease is held."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import libvirt
import msgspec

from bedplate.agent import libvirt_domains
from bedplate.agent.disk_steps import DiskSteps
from bedplate.agent.domains import DomainFiles, domain_xml
from bedplate.agent.facts import Facts
from bedplate.agent.faults import AgentFault, HypervisorDown, OutOfDate
from bedplate.agent.lease_keeper import LeaseKeeper
from bedplate.agent.observer import Observer
from bedplate.agent.seed import Seeds
from bedplate.agent.state import AgentState
from bedplate.agent.volumes import DiskPool
from bedplate.agent.worker import Worker
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ServerName, StoreId

PRESS_AGAIN_SECONDS = 10.0
"""A guest that is still starting misses the first press of its power button."""


class DomainSteps:
    """The domains of this server's machines. Methods raise `AgentFault`, `OutOfDate`, `HypervisorDown`, `OSError` and
    `libvirt.libvirtError`, and give what was done as a message."""

    def __init__(
        self,
        state: AgentState,
        store: StoreId,
        server: ServerName,
        worker: Worker,
        observer: Observer,
        disks: DiskSteps,
        leases: LeaseKeeper,
        seeds: Seeds,
        accelerator: str,
    ) -> None:
        self._state = state
        self._store = store
        self._server = server
        self._worker = worker
        self._observer = observer
        self._disks = disks
        self._leases = leases
        self._seeds = seeds
        self._accelerator = accelerator

    # --- define -------------------------------------------------------------------------------------------------

    def definition(self, machine: MachineEntry, pool: DiskPool) -> str:
        """The domain's definition, the same on every server that serves the pool."""
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
        return domain_xml(machine, store=self._store, accelerator=accelerator, files=files)

    async def define(self, machine: MachineEntry) -> str:
        """Make the domain known; a disk that was made on another server is taken over first."""
        pool = self._disks.pool(machine.disk_pool)
        if machine.carried:
            await pool.io.call(pool.take_over, machine)
            await self._disks.belongs(machine)
        await self._disks.have(pool, (machine.image.kernel, machine.image.initrd))
        xml = self.definition(machine, pool)
        return await self._worker.call(lambda c: libvirt_domains.define(c, machine.uid, self._store, xml))

    # --- start and stop -----------------------------------------------------------------------------------------

    async def start(self, machine: MachineEntry, user_data: bytes) -> str:
        """Start the domain for its boot number."""
        facts = await self._defined(machine)
        record = self._state.record(machine.uid)
        if facts.active:
            if record.boot < machine.boot:
                kept = msgspec.structs.replace(record, boot=machine.boot, started=record.started or time.time())
                await asyncio.to_thread(self._state.keep, kept)
            return "the domain runs"
        if record.boot >= machine.boot:
            return f"boot {record.boot} was started before and has ended; each is started once"
        pool = self._disks.pool(machine.disk_pool)
        term = self._leases.permit(pool.pool)
        if await pool.io.call(pool.volume, machine.uid) is None:
            raise AgentFault("VolumeMissing", f"the disk of {machine.name} is not in disk pool {machine.disk_pool}")
        if machine.image.bootstrap == "cloud-init":
            await asyncio.to_thread(self._seeds.write, machine, user_data if record.boot == 0 else b"")
        begun = msgspec.structs.replace(record, boot=machine.boot, started=time.time(), disk_pool=machine.disk_pool)
        await pool.io.call(_rotate, str(pool.console_log(machine.uid)))
        await asyncio.to_thread(self._state.keep, begun)
        try:
            self._leases.confirm(pool.pool, term)
            await self._worker.call(lambda c: c.lookupByUUIDString(machine.uid).create(), timeout=60)
        except AgentFault:
            await asyncio.to_thread(self._state.keep, record)
            raise
        except HypervisorDown as error:
            if not error.begun:
                await asyncio.to_thread(self._state.keep, record)
            raise
        except libvirt.libvirtError:
            # libvirt says that it did not start: the boot number is not spent.
            after = await self._observer.facts(machine.uid)
            if after is None or not after.active:
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

    async def stop(self, machine: MachineEntry, grace: float) -> str:
        """Ask the guest to end, then cut its power."""
        end = time.monotonic() + grace
        pressed = float("-inf")
        while (facts := await self._observer.facts(machine.uid)) is not None and facts.state == "running":
            now = time.monotonic()
            if now >= end:
                break
            if now - pressed >= PRESS_AGAIN_SECONDS:
                pressed = now
                await self._worker.call(lambda c: libvirt_domains.press(c, machine.uid))
            await self._observer.wait_for_event(machine.uid, min(end - now, PRESS_AGAIN_SECONDS))
        if facts is None or not facts.active:
            await asyncio.to_thread(self._seeds.remove, machine.uid)
            return "it ended"
        await self._worker.call(lambda c: libvirt_domains.cut(c, machine.uid), timeout=60)
        await asyncio.to_thread(self._seeds.remove, machine.uid)
        return f"it did not end within {grace:.0f} s and was cut"

    # --- remove -------------------------------------------------------------------------------------------------

    async def remove(self, machine: MachineEntry) -> str:
        """End the domain and take it out of libvirt."""
        message = await self._worker.call(lambda c: libvirt_domains.remove(c, machine.uid, self._store), timeout=60)
        await asyncio.to_thread(self._seeds.remove, machine.uid)
        return message

    async def forget(self, machine: MachineEntry) -> str:
        """Know a machine no more that is another server's now; its disk is not touched."""
        if machine.server == self._server:
            raise OutOfDate(f"{machine.name} is this server's in generation {machine.generation}: it is not forgotten")
        message = await self.remove(machine)
        await self._disks.end_record(machine.uid)
        return message


def _rotate(log_file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.replace(log_file, f"{log_file}.1")
