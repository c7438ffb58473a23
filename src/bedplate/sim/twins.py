"""The simulated world behind `bedplate.ports`, with asyncio: it passes the same contract tests as the real drivers.

Virtual time runs as fast as steps are awaited: a step takes no real time, and what it set going (a boot, kubeadm) has
happened when it returns, unless `TwinWorld.hold` is set. For tests and trials, not for the simulator.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Mapping, Sequence

import msgspec

from bedplate.model.blueprint import BmcRef, MachineEntry
from bedplate.model.ids import ClusterKey, Key, MachineUid, OperationId, ServerName
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.steps import (
    BmcStep,
    BootstrapStep,
    Done,
    HypervisorStep,
    KubernetesStep,
    Step,
    StepResult,
    Ticket,
    Unknown,
)
from bedplate.ports import ClusterAccess, Duplex, GuestError, GuestFile, GuestOutput, Sink
from bedplate.sim import leases, react, views
from bedplate.sim.drivers import perform
from bedplate.sim.durations import Durations
from bedplate.sim.things import Process, SimDomain, SimServer
from bedplate.sim.world import World


class TwinWorld:
    """A world with a virtual clock that runs by itself, told of to a sink."""

    def __init__(self, world: World, sink: Sink, seed: int = 0) -> None:
        self.world = world
        self.hold = False
        """True: what goes on by itself stands still until `settle`."""
        self.hurry = True
        """After a step, all that it set going happens at once; False: only as much as while the step ran."""
        self.followed: set[ClusterKey] = set()
        self.files: dict[MachineUid, dict[str, bytes]] = {}
        self.durations = Durations(seed)
        self._sink = sink
        self._told: dict[Key, AnyView] = {}
        self._processes: list[tuple[float, int, Process]] = []
        self._count = 0
        self.watched: set[ServerName] = set()
        """Servers whose BMCs are followed."""
        world.spawn = self._spawn
        world.linked = self._linked

    def _spawn(self, process: Process) -> None:
        self._count += 1
        heapq.heappush(self._processes, (self.world.now, self._count, process))

    def settle(self, seconds: float = 3600.0) -> None:
        """Let virtual time pass until nothing goes on any more, or so many seconds have."""
        end = self.world.now + seconds
        while self._processes and self._processes[0][0] <= end:
            at, number, process = heapq.heappop(self._processes)
            self.world.now = max(self.world.now, at)
            with contextlib.suppress(StopIteration):
                heapq.heappush(self._processes, (self.world.now + next(process), number, process))
            self.tell()

    def connect(self, name: ServerName) -> None:
        """The server's agent connects and tells everything."""
        server = self.world.servers[name]
        server.connected = True
        self._deliver(f"agent/{name}", views.everything_on(self.world, server), full=True)

    def follow(self, clusters: Mapping[ClusterKey, ClusterAccess]) -> None:
        """Watch exactly these clusters."""
        fresh = set(clusters) - self.followed
        self.followed = set(clusters)
        for key in sorted(fresh):
            cluster = self.world.cluster(key)
            if self.world.api(cluster):
                self._deliver(f"cluster/{key}", views.everything_in(self.world, cluster), full=True)
            else:
                self._deliver(f"cluster/{key}", [views.cluster_view(self.world, cluster)], full=False)

    def _linked(self, server: SimServer) -> None:
        """An agent's connection came or went."""
        source = f"agent/{server.name}"
        if server.connected:
            leases.spoken(self.world, server)
            self._deliver(source, views.everything_on(self.world, server), full=True)
            return
        down = msgspec.structs.replace(views.server_view(self.world, server), error="its agent is not connected")
        self._deliver(source, [down], full=False)

    def tell(self) -> None:
        """Deliver what changed."""
        for k in react.settle(self.world):
            view = views.view(self.world, k)
            source = self._source(k)
            if source and view is not None and self._told.get(k) != view:
                self._deliver(source, [view], full=False)

    def _source(self, k: Key) -> str:
        """Who tells of it now; nobody: empty."""
        kind, *rest = k.split("/")
        if kind in {"node", "cluster-view"}:
            key = ClusterKey("/".join(rest[:2]))
            return f"cluster/{key}" if key in self.followed else ""
        name = ServerName(rest[2] if kind == "lease" else rest[0])
        if kind == "bmc":
            return f"bmc/{name}" if name in self.watched else ""
        return f"agent/{name}" if self.world.servers[name].connected else ""

    def _deliver(self, source: str, views: Sequence[AnyView], *, full: bool) -> None:
        self._told.update((v.key, v) for v in views)
        self._sink(source, [Observation(value=v, time=self.world.now, source=source) for v in views], full=full)

    async def run(self, step: Step, ticket: Ticket) -> StepResult:
        """Run a step to its end, or to its deadline."""
        running = perform(self.world, self.durations, step, ticket)
        end = self.world.now + ticket.deadline
        while True:
            await asyncio.sleep(0)
            try:
                seconds = next(running)
            except StopIteration as result:
                self.tell()
                if self.hurry and not self.hold:
                    self.settle()
                return result.value
            if self.world.now + seconds > end:
                return Unknown(message=f"{step.name} did not end within {ticket.deadline:.0f} s")
            goes_on = self.world.now + seconds
            if not self.hold:
                self.settle(seconds)
            self.world.now = max(self.world.now, goes_on)


class SimHypervisor:
    """`ports.Hypervisor`, `ports.Guests` and `ports.Dialer` of the simulated world."""

    def __init__(self, twin: TwinWorld) -> None:
        self._twin = twin
        self._running: dict[OperationId, asyncio.Future[StepResult]] = {}

    async def run(self, step: HypervisorStep, ticket: Ticket) -> StepResult:
        """Run the step; the same operation asked again is answered, not repeated."""
        known = self._running.get(ticket.operation)
        if known is None:
            known = asyncio.ensure_future(self._twin.run(step, ticket))
            self._running[ticket.operation] = known
        result = await asyncio.shield(known)
        if not isinstance(result, Done):
            self._running.pop(ticket.operation, None)
        return result

    async def write_files(
        self, machine: MachineEntry, files: Sequence[GuestFile], ticket: Ticket, timeout: float = 60
    ) -> None:
        """Write files into the guest; see `ports.Guests`."""
        self._guest(machine, ticket)
        await asyncio.sleep(0)
        self._twin.files.setdefault(machine.uid, {}).update((f.path, f.content) for f in files)

    async def execute(
        self,
        machine: MachineEntry,
        argv: Sequence[str],
        ticket: Ticket,
        stdin: bytes = b"",
        timeout: float = 60,
    ) -> GuestOutput:
        """Run one of the few commands that a simulated guest knows: `true`, `false`, `echo`, `cat`."""
        self._guest(machine, ticket)
        await asyncio.sleep(0)
        name, *rest = (argv[0].rsplit("/", 1)[-1], *argv[1:])
        match name:
            case "true" | "systemctl":
                return GuestOutput(exit_code=0)
            case "false":
                return GuestOutput(exit_code=1)
            case "echo":
                return GuestOutput(exit_code=0, stdout=" ".join(rest).encode() + b"\n")
            case "cat":
                found = [self._twin.files.get(machine.uid, {}).get(path) for path in rest]
                known = [f for f in found if f is not None]
                content = b"".join(known) if rest else stdin
                return GuestOutput(exit_code=int(len(known) < len(rest)), stdout=content)
            case _:
                return GuestOutput(exit_code=127, stderr=f"{name}: not found\n".encode())

    def _guest(self, machine: MachineEntry, ticket: Ticket) -> SimDomain:
        world = self._twin.world
        server = world.servers.get(machine.server)
        if server is None or not server.connected:
            raise GuestError(f"the agent of {machine.server} is not connected")
        record = server.records.get(machine.uid)
        if ticket.epoch < server.epoch or (record is not None and machine.generation < record.generation):
            raise GuestError(f"machine {machine.name}: a higher epoch or generation was seen")
        domain = server.domains.get(machine.uid)
        if domain is None or domain.state != "running" or not domain.guest_agent:
            raise GuestError(f"the guest agent of {machine.name} does not answer")
        return domain

    async def dial(self, server: ServerName, host: str, port: int, timeout: float = 10) -> Duplex:
        """Nothing listens in the simulated world."""
        await asyncio.sleep(0)
        if server not in self.connected():
            raise ConnectionError(f"the agent of {server} is not connected")
        raise ConnectionRefusedError(f"{host}:{port} refused the connection")

    async def console(self, server: ServerName, uid: MachineUid) -> Duplex:
        """A console that says one line and ends."""
        await asyncio.sleep(0)
        found = self._twin.world.servers.get(server)
        domain = found.domains.get(uid) if found is not None and found.connected else None
        if domain is None or domain.state != "running":
            raise ConnectionError(f"machine {uid} does not run on {server}")
        return _Console(domain.entry.name)

    def connected(self) -> Sequence[ServerName]:
        """Servers whose agents are connected now."""
        return sorted(s.name for s in self._twin.world.servers.values() if s.connected)


class SimBmcs:
    """`ports.Bmc` of the simulated world."""

    def __init__(self, twin: TwinWorld) -> None:
        self._twin = twin

    async def run(self, step: BmcStep, ticket: Ticket) -> StepResult:
        """Run the step."""
        return await self._twin.run(step, ticket)

    def follow(self, servers: Mapping[ServerName, BmcRef]) -> None:
        """Watch exactly these BMCs."""
        fresh, self._twin.watched = set(servers) - self._twin.watched, set(servers)
        for name in sorted(fresh & self._twin.world.servers.keys()):
            self._twin.world.touch_bmc(self._twin.world.servers[name])
        self._twin.tell()


class SimBootstrap:
    """`ports.ClusterBootstrap` of the simulated world."""

    def __init__(self, twin: TwinWorld) -> None:
        self._twin = twin

    async def run(self, step: BootstrapStep, ticket: Ticket) -> StepResult:
        """Run the step."""
        return await self._twin.run(step, ticket)


class SimKubernetes:
    """`ports.Kubernetes` of the simulated world."""

    def __init__(self, twin: TwinWorld) -> None:
        self._twin = twin

    async def run(self, step: KubernetesStep, ticket: Ticket) -> StepResult:
        """Run the step."""
        return await self._twin.run(step, ticket)

    def follow(self, clusters: Mapping[ClusterKey, ClusterAccess]) -> None:
        """Watch exactly these clusters."""
        self._twin.follow(clusters)


class _Console:
    def __init__(self, name: str) -> None:
        self._left = [f"{name} login: ".encode()]

    async def read(self) -> bytes:
        return self._left.pop() if self._left else b""

    async def write(self, data: bytes) -> None:
        del data

    async def close(self) -> None:
        self._left.clear()
