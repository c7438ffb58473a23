"""Steps on disks: images, machines' volumes, retained disks. Checks that no domain is left where a disk is to go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import msgspec

from bedplate.agent.enrol import ControllerConnection
from bedplate.agent.faults import AgentFault
from bedplate.agent.observer import Observer
from bedplate.agent.state import AgentState
from bedplate.agent.volumes import DiskPool
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, MachineUid
from bedplate.model.steps import DeleteRetained, Done, DropImage, PullImage


class DiskSteps:
    """The disks of this server's machines. Every method raises `AgentFault`, `OutOfDate` or `OSError`."""

    def __init__(self, state: AgentState, observer: Observer, connect: Callable[[], ControllerConnection]) -> None:
        self._state = state
        self._observer = observer
        self._connect = connect

    def pool(self, name: str) -> DiskPool:
        """The pool of that name."""
        pools = self._observer.disks.pools
        if name not in pools:
            served = ", ".join(sorted(pools)) or "none"
            raise AgentFault("PoolMissing", f"disk pool {name} is not served here: served are {served}")
        return pools[name]

    async def pull(self, step: PullImage) -> Done:
        """Have an image's files in a pool."""
        await self.have(self.pool(step.disk_pool), (step.image.disk, step.image.kernel, step.image.initrd))
        await self._observer.refresh_server()
        return Done(message=f"image {step.image.name} is in disk pool {step.disk_pool}")

    async def have(self, pool: DiskPool, digests: tuple[Digest, ...]) -> None:
        """Fetch what is missing of some files."""
        stop = threading.Event()
        try:
            for digest in digests:
                if digest and not await pool.io.call(pool.images.claim, digest):
                    await pool.io.transfer(pool.images.fetch, digest, self._connect, stop)
        finally:
            stop.set()  # a thread can't be cancelled; it looks here

    async def drop_image(self, step: DropImage) -> Done:
        """Delete an image's file that nothing needs."""
        pool = self.pool(step.disk_pool)
        stop = threading.Event()
        try:
            message = await pool.io.transfer(pool.drop_image, step.digest, stop)
        finally:
            stop.set()
        await self._observer.refresh_server()
        return Done(message=message)

    async def create(self, machine: MachineEntry) -> str:
        """Make the machine's disk; one that was made on another server is taken over and never made anew."""
        pool = self.pool(machine.disk_pool)
        if machine.carried:
            await pool.io.call(pool.take_over, machine)
            message = "the disk was taken over"
        else:
            await self.have(pool, (machine.image.disk,))
            message = await pool.io.transfer(pool.create, machine)
        await self.belongs(machine)
        return message

    async def belongs(self, machine: MachineEntry) -> None:
        """Write down in which pool the machine's disk is."""
        record = self._state.record(machine.uid)
        if record.disk_pool != machine.disk_pool:
            record = msgspec.structs.replace(record, disk_pool=machine.disk_pool)
            await asyncio.to_thread(self._state.keep, record)

    async def delete(self, machine: MachineEntry) -> str:
        """Delete the machine's disk."""
        await self._must_be_gone(machine)
        pool = self.pool(machine.disk_pool)
        await pool.io.transfer(pool.delete, machine.uid, machine.generation)
        await self.end_record(machine.uid)
        return "the disk is gone"

    async def retain(self, machine: MachineEntry) -> str:
        """Move the machine's disk to the retained ones."""
        await self._must_be_gone(machine)
        pool = self.pool(machine.disk_pool)
        await pool.io.call(pool.retain, machine)
        await self._observer.retained_changed(machine.uid, machine.disk_pool, True)
        await self.end_record(machine.uid)
        return "the disk is kept"

    async def delete_retained(self, step: DeleteRetained) -> Done:
        """Delete a retained disk."""
        pool = self.pool(step.disk_pool)
        await pool.io.transfer(pool.delete_retained, step.uid, step.generation)
        return Done(views=(await self._observer.retained_changed(step.uid, step.disk_pool, False),))

    async def end_record(self, uid: MachineUid) -> None:
        """The machine is none of this server's any more; what comes late for it is still refused."""
        record = msgspec.structs.replace(self._state.record(uid), ended=time.time(), source="")
        await asyncio.to_thread(self._state.keep, record)

    async def _must_be_gone(self, machine: MachineEntry) -> None:
        if await self._observer.facts(machine.uid) is not None:
            raise AgentFault("DomainPresent", f"the domain of {machine.name} is still there: remove it first")
