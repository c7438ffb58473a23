"""Two simulated hypervisors with one shared disk pool: the twin of `moving_rig.Two`, for what is asked of both."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import msgspec
from moving_rig import HV1, HV2, POOL, STORE, News

from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Epoch, Generation, MachineUid, OperationId, ServerName, key
from bedplate.model.inventory import DomainView
from bedplate.model.steps import (
    CreateVolume,
    DefineDomain,
    DeleteVolume,
    Done,
    HypervisorStep,
    PullImage,
    RemoveDomain,
    StartDomain,
    StepResult,
    Ticket,
)
from bedplate.sim import leases, power
from bedplate.sim.things import SimPool
from bedplate.sim.twins import SimHypervisor, TwinWorld
from bedplate.sim.world import LINK, World


class SimulatedTwo:
    """Use it as it is; nothing is left of it."""

    def __init__(self) -> None:
        self.news = News()
        self.epoch = Epoch(1)
        self._numbers = itertools.count(1)
        self.world = World(STORE)
        pool = SimPool(POOL, shared=True)
        for name in (HV1, HV2):
            self.world.add_server(name, pools={POOL: pool})
        self.image = ImageRef(name="tiny", disk=Digest("sha256:" + "a" * 64), virtual_size=16 << 20)
        self.twin = TwinWorld(self.world, self.news)
        self.driver = SimHypervisor(self.twin)
        for name in (HV1, HV2):
            leases.assign(self.world, self.world.servers[name])
            self.twin.connect(name)

    # --- steps ---

    async def run(self, step: HypervisorStep, *, deadline: float = 120) -> StepResult:
        """Run a step as a controller would."""
        name = OperationId(f"{self.epoch}-{next(self._numbers)}")
        return await self.driver.run(step, Ticket(operation=name, store=STORE, epoch=self.epoch, deadline=deadline))

    async def done(self, step: HypervisorStep, *, deadline: float = 120) -> Done:
        result = await self.run(step, deadline=deadline)
        assert isinstance(result, Done), (step.name, result)
        return result

    def machine(self, server: ServerName = HV1, **changes: Any) -> MachineEntry:
        """A machine of its own for each call."""
        number = next(self._numbers) % 90
        entry = MachineEntry(
            uid=MachineUid(str(uuid.uuid4())),
            name=f"m{number}",
            namespace="default",
            owner=key("virtualmachine", "default", f"m{number}"),
            role="vm",
            server=server,
            cpu=1,
            memory_mib=128,
            disk_mib=32,
            disk_pool=POOL,
            image=self.image,
            nic=Nic(network="lan", bridge="br0", mac=f"02:{number:02x}", address=f"10.88.0.{number}", prefix=24),
        )
        return msgspec.structs.replace(entry, **changes)

    async def start(self, m: MachineEntry) -> None:
        """From nothing to a guest that answers."""
        await self.done(PullImage(server=m.server, disk_pool=POOL, image=m.image))
        for step in (CreateVolume, DefineDomain, StartDomain):
            await self.done(step(machine=m))
        await self.news.until(lambda: self.seen(m).guest_agent)

    def seen(self, m: MachineEntry, server: ServerName | None = None) -> DomainView:
        view = self.news.domain(server or m.server, m.uid)
        return view or DomainView(server=server or m.server, uid=m.uid)

    async def clear(self, m: MachineEntry) -> None:
        """Nothing is left of it anywhere."""
        self.world.link = LINK
        for server in (HV1, HV2):
            last = msgspec.structs.replace(m, generation=Generation(1000), server=server, source=ServerName(""))
            await self.done(RemoveDomain(machine=last))
        await self.done(DeleteVolume(machine=msgspec.structs.replace(m, generation=Generation(1000))))

    # --- behind the agents' backs ---

    def runs(self, m: MachineEntry, server: ServerName) -> bool:
        """Whether a QEMU of the machine runs there."""
        domain = self.world.servers[server].domains.get(m.uid)
        return domain is not None and domain.state == "running"

    def slow(self) -> None:
        """Its move does not end in the time of a test."""
        self.world.link = 1.0

    async def power(self, server: ServerName, state: str) -> None:
        """Cut a server's power, or power it on and wait until its agent has told all."""
        if state == "off":
            self.world.cut_power(self.world.servers[server], "the test cuts it")
            self.twin.tell()
            return
        power.on(self.world, self.world.servers[server])
        self.twin.settle()
        await self.news.until(lambda: self.news.server(server).connected)
