"""Hypervisors with a shared pool, a virtual clock and nobody in charge: a test runs the steps itself."""

from __future__ import annotations

from typing import Any

import msgspec

from bedplate.model.blueprint import BmcRef, ClusterEntry, ImageRef, MachineEntry, Nic, ServerEntry
from bedplate.model.ids import ClusterKey, Digest, Epoch, Generation, MachineUid, OperationId, ServerName, key
from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DefineDomain,
    Done,
    MakeSecrets,
    MigrateDomain,
    PowerOff,
    PullImage,
    ReadPower,
    ReceiveDomain,
    StartDomain,
    Step,
    StepResult,
    Ticket,
)
from bedplate.sim import fleet
from bedplate.sim.drivers import perform
from bedplate.sim.simulator import Simulator
from bedplate.sim.things import SimDomain, SimServer

IMAGE = ImageRef(name="node", disk=Digest("sha256:aa"))
SHOP = ClusterEntry(
    cluster=ClusterKey("default/shop"),
    uid="shop",
    version="1.35.3",
    network="lan",
    endpoint="10.0.0.100",
    pod_cidr="10.1.0.0/16",
    service_cidr="10.2.0.0/16",
)


class Scene:
    """A simulator without a controller."""

    def __init__(self, servers: int = 3, *, shared: bool = True, seed: int = 1) -> None:
        self.world = fleet.world(servers, shared=shared, local=True)
        self.sim = Simulator(self.world, seed=seed)
        self.pool = "shared" if shared else "local"
        self._steps = 0

    def wait(self, seconds: float) -> None:
        self.sim.run(seconds=seconds, quiet=float("inf"))
        self.sim.now = self.world.now = max(self.sim.now, self.world.now)

    def do(self, step: Step, *, epoch: int = 1, deadline: float = 120.0) -> StepResult:
        """Run a step to its end, while all else goes on."""
        self._steps += 1
        name = OperationId(f"1-{self._steps}")
        ticket = Ticket(operation=name, store=self.world.store, epoch=Epoch(epoch), deadline=deadline)
        running = perform(self.world, self.world.durations, step, ticket)
        found: list[StepResult] = []

        def go() -> None:
            try:
                seconds = next(running)
            except StopIteration as end:
                found.append(end.value)
            else:
                self.sim.after(seconds, go)

        self.sim.after(0.0, go)
        assert self.sim.run(lambda: bool(found), quiet=float("inf"))
        return found[0]

    def done(self, *steps: Step) -> None:
        for step in steps:
            result = self.do(step)
            assert isinstance(result, Done), (step.name, result)

    # --- machines ---

    def machine(self, number: int = 1, server: str = "hv1", **changes: Any) -> MachineEntry:
        entry = MachineEntry(
            uid=MachineUid(f"u{number}"),
            name=f"m{number}",
            namespace="default",
            owner=key("nodepool", "default", "web"),
            cluster=SHOP.cluster,
            role="worker",
            server=ServerName(server),
            cpu=2,
            memory_mib=2048,
            disk_mib=1000,
            disk_pool=self.pool,
            image=IMAGE,
            nic=Nic(network="lan", bridge="br0", mac=f"m{number}", address=f"10.0.0.{number}", prefix=24),
        )
        return msgspec.structs.replace(entry, **changes)

    def up(self, m: MachineEntry) -> MachineEntry:
        """Bring a machine up from nothing and let it boot."""
        pull = PullImage(server=m.server, disk_pool=m.disk_pool, image=IMAGE)
        self.done(pull, CreateVolume(machine=m), DefineDomain(machine=m), StartDomain(machine=m))
        self.wait(60)
        return m

    def node(self, m: MachineEntry, mode: str = "join") -> MachineEntry:
        """Have a machine that is up join the cluster."""
        self.done(Bootstrap(cluster=SHOP, machine=m, mode=mode))  # type: ignore[arg-type]
        self.wait(200)
        assert self.world.cluster(SHOP.cluster).nodes[m.name].ready
        return m

    def cluster(self, workers: int = 2) -> tuple[MachineEntry, list[MachineEntry]]:
        """One control-plane machine on hv1, workers on hv2, hv3 ..."""
        self.done(MakeSecrets(cluster=SHOP))
        plane = self.node(self.up(self.machine(100, role="control-plane")), "init")
        found = [self.node(self.up(self.machine(n, f"hv{n + 1}"))) for n in range(1, workers + 1)]
        return plane, found

    def domain(self, m: MachineEntry) -> SimDomain:
        [found] = self.world.live[m.uid]
        return found

    def server(self, name: str) -> SimServer:
        return self.world.servers[ServerName(name)]

    # --- moves and power ---

    def moving(self, m: MachineEntry, target: str) -> MachineEntry:
        """The machine's entry while it moves."""
        return newer(m, server=ServerName(target), source=m.server)

    def move(self, m: MachineEntry, target: str, **more: Any) -> StepResult:
        entry = self.moving(m, target)
        self.done(ReceiveDomain(machine=entry))
        return self.do(MigrateDomain(machine=entry), **more)

    def bmc(self, name: str) -> ServerEntry:
        ref = BmcRef(address=f"redfish+https://{name}", secret="default/bmc")
        return ServerEntry(server=ServerName(name), standing="suspect", since=1.0, bmc=ref)

    def read(self, name: str) -> StepResult:
        return self.do(ReadPower(entry=self.bmc(name)))

    def fence(self, name: str, **more: Any) -> StepResult:
        return self.do(PowerOff(entry=self.bmc(name)), **more)


def newer(m: MachineEntry, **changes: Any) -> MachineEntry:
    """The entry's next generation."""
    return msgspec.structs.replace(m, generation=Generation(m.generation + 1), **changes)
