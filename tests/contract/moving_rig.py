"""Two real hypervisors with one shared disk pool, each with its agent: what moves, and what a lost lease ends."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import libvirt
import msgspec
import tiny_guest
from memory_store import FileImages, MemorySecrets

from bedplate.agent.kvm_probe import probe
from bedplate.drivers.agents.server import AgentServer
from bedplate.lab import Lab, processes
from bedplate.lab.hypervisor import SHARED_POOL
from bedplate.model.agent_protocol import Pool
from bedplate.model.blueprint import MachineEntry, Nic
from bedplate.model.ids import Epoch, Generation, Key, MachineUid, OperationId, ServerName, StoreId, key
from bedplate.model.inventory import AnyView, DomainView, LeaseView, Observation, ServerView
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

HV1, HV2 = ServerName("hv1"), ServerName("hv2")
SERVERS = (HV1, HV2)
POOL = "shared"
STORE = StoreId("sim")
PATIENCE = 300.0
"""Seconds for what takes one or two on an idle machine and was seen to take a hundred on a busy one."""
WATCHDOG = "/run/watchdog"
"""Inside each hypervisor."""


class News:
    """What all agents observed: a `ports.Sink` that one can wait on."""

    def __init__(self) -> None:
        self.latest: dict[Key, Observation[AnyView]] = {}
        self._change = asyncio.Event()

    def __call__(self, source: str, observations: Sequence[Observation[AnyView]], *, full: bool = False) -> None:
        if full:
            self.latest = {k: o for k, o in self.latest.items() if o.source != source}
        self.latest.update((o.value.key, o) for o in observations)
        self._change.set()

    async def until(self, true: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait for news that make it true."""
        async with asyncio.timeout(seconds):
            while not true():
                self._change.clear()
                await self._change.wait()

    def server(self, name: ServerName) -> ServerView:
        found = self.latest[key("server", name)].value
        assert isinstance(found, ServerView)
        return found

    def domain(self, server: ServerName, uid: MachineUid) -> DomainView | None:
        found = self.latest.get(key("domain", server, uid))
        assert found is None or isinstance(found.value, DomainView)
        return found.value if found is not None else None

    def lease(self, holder: ServerName, witness: ServerName) -> LeaseView | None:
        found = self.latest.get(key("lease", holder, POOL, witness))
        assert found is None or isinstance(found.value, LeaseView)
        return found.value if found is not None else None


class Two:
    """Use `two`."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.news = News()
        self.epoch = Epoch(1)
        self._numbers = itertools.count(1)
        files = tiny_guest.image_files()
        self.image = tiny_guest.image_ref(files)
        self.driver = AgentServer(
            listen=["127.0.0.1:0"],
            store=STORE,
            epoch=lambda: self.epoch,
            secrets=MemorySecrets(),
            sink=self.news,
            images=FileImages({tiny_guest.digest(path): path for path in files.values()}),
            pools_for=lambda _: [Pool(name=POOL, path=SHARED_POOL, type="shared")],
        )
        self._dogs: dict[ServerName, int] = {}

    async def up(self) -> None:
        await self.driver.start()
        port = int(self.driver.addresses[0].rpartition(":")[2])
        status = await asyncio.to_thread(self.lab.up, len(SERVERS), relays={port: port})
        use = "kvm" if (await asyncio.to_thread(probe)).works else "tcg"
        for server in SERVERS:
            self._set_dog(server)
            file = self.folder / f"{server}.enrol"
            file.touch(0o600)
            file.write_bytes(await self.driver.enrolment(server, controller=f"{status.network.gateway}:{port}"))
            argv = [sys.executable, "-m", "bedplate.cli.main", "agent", "--enrol-file", str(file), "--use", use]
            await asyncio.to_thread(self.lab.spawn_agent, server, [*argv, "--watchdog", WATCHDOG])
        try:
            await self.news.until(lambda: all(self._ready(s) for s in SERVERS))
        except TimeoutError:
            said = "\n".join(self.lab.log(s).read_text()[-3000:] for s in SERVERS if self.lab.log(s).exists())
            raise AssertionError(f"the agents did not connect; {self.news.latest}; they said:\n{said}") from None

    def _set_dog(self, server: ServerName) -> None:
        fifo = self.lab.folder / server / "run" / "watchdog"
        os.mkfifo(fifo, 0o600)
        self._dogs[server] = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    async def power_on(self, server: ServerName) -> None:
        """Power a server on again, and wait until its agent has told all."""
        await asyncio.to_thread(self.lab.power, server, "on")
        os.close(self._dogs.pop(server))
        self._set_dog(server)
        await self.news.until(lambda: self.news.server(server).connected and self._ready(server))

    def _ready(self, server: ServerName) -> bool:
        view = self.news.latest.get(key("server", server))
        lease = self.news.lease(server, server)
        connected = view is not None and isinstance(view.value, ServerView) and not view.value.error
        return connected and lease is not None and lease.held

    async def down(self) -> None:
        await self.driver.stop()
        await asyncio.to_thread(self.lab.down)
        for dog in self._dogs.values():
            os.close(dog)

    # --- steps ---

    async def run(self, step: HypervisorStep, *, deadline: float = 120) -> StepResult:
        """Run a step as a controller would."""
        name = OperationId(f"{self.epoch}-{next(self._numbers)}")
        return await self.driver.run(step, Ticket(operation=name, store=STORE, epoch=self.epoch, deadline=deadline))

    async def done(self, step: HypervisorStep, *, deadline: float = 120) -> Done:
        result = await self.run(step, deadline=deadline)
        assert isinstance(result, Done), (step.name, result, self.said())
        return result

    def said(self) -> str:
        """The ends of the agents' logs."""
        return "\n".join(f"{s}: {self.lab.log(s).read_text()[-2000:]}" for s in SERVERS)

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
            nic=Nic(
                network="lan",
                bridge="br0",
                mac=f"02:bd:00:00:01:{number:02x}",
                address=f"10.88.0.{100 + number}",
                prefix=24,
            ),
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
        for server in SERVERS:
            last = msgspec.structs.replace(m, generation=Generation(1000), server=server, source=ServerName(""))
            await self.done(RemoveDomain(machine=last))
        await self.done(DeleteVolume(machine=msgspec.structs.replace(m, generation=Generation(1000))))

    async def guest(self, m: MachineEntry, words: str) -> str:
        """What a shell command in the guest prints."""
        ticket = Ticket(operation=OperationId("guest"), store=STORE, epoch=self.epoch, deadline=30)
        out = await self.driver.execute(m, ["/bin/sh", "-c", words], ticket, timeout=30)
        assert out.exit_code == 0, out
        return out.stdout.decode().strip()

    # --- behind the agents' backs ---

    def connection(self, server: ServerName) -> Any:
        one = next(h for h in self.lab.status().hypervisors if h.name == server)
        return libvirt.open(one.uri)

    def runs(self, m: MachineEntry, server: ServerName) -> bool:
        """Whether a QEMU of the machine runs there."""
        return m.uid in [d.UUIDString() for d in self.connection(server).listAllDomains() if d.isActive()]

    def inside(self, server: ServerName, *argv: str) -> None:
        """Run a command inside a hypervisor."""
        ran = self.lab.exec(server, list(argv), timeout=60)
        assert ran.returncode == 0, ran

    def fed(self, server: ServerName) -> bytes:
        """What the watchdog was given since it was last asked."""
        try:
            return os.read(self._dogs[server], 1 << 16)
        except BlockingIOError:
            return b""

    def agent(self, server: ServerName) -> int:
        """The agent's process id, 0 where none runs."""
        file = str(self.folder / f"{server}.enrol").encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and file in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
            except OSError:
                continue
        return 0

    def kill_agent(self, server: ServerName, how: signal.Signals = signal.SIGKILL) -> None:
        """End it; the hypervisor starts it again."""
        pid = self.agent(server)
        assert pid
        os.kill(pid, how)


async def two() -> AsyncIterator[Two]:
    """A lab of two hypervisors in a folder of its own; all of it is gone afterwards."""
    assert os.geteuid() == 0, "the lab needs root"
    folder = Path(tempfile.mkdtemp(prefix="bpm-", dir="/var/tmp"))
    rig = Two(Lab("moving", root=folder / "lab"), folder)
    try:
        await rig.up()
        yield rig
    finally:
        try:
            await rig.down()
        finally:
            left = processes.marked(rig.lab.folder)
            shutil.rmtree(folder, ignore_errors=True)
    assert left == []
