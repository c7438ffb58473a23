"""One hypervisor under test: the simulated one, or a real agent with libvirt and QEMU in a lab of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import msgspec
import tiny_guest
from memory_store import FileImages, MemorySecrets

from bedplate.agent.domains import DomainMark, mark_xml
from bedplate.agent.kvm_probe import probe
from bedplate.drivers.agents.server import AgentServer
from bedplate.lab import Lab, processes
from bedplate.lab.hypervisor import LOCAL_POOL
from bedplate.model.agent_protocol import Pool
from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Epoch, Generation, Key, MachineUid, OperationId, ServerName, StoreId, key
from bedplate.model.inventory import AnyView, DomainView, Observation, RetainedDiskView, ServerView
from bedplate.model.steps import HypervisorStep, StepResult, Ticket
from bedplate.ports import Hypervisor
from bedplate.sim.twins import SimHypervisor, TwinWorld
from bedplate.sim.world import SimDomain, SimVolume, World

HV1 = ServerName("hv1")
POOL = "local"
STORE = StoreId("sim")
OTHER = StoreId("another")
PATIENCE = 300.0
"""Seconds for what takes one or two on an idle machine and was seen to take a hundred on a busy one."""


class News:
    """What was observed: a `ports.Sink` that one can wait on."""

    def __init__(self) -> None:
        self.latest: dict[Key, Observation[AnyView]] = {}
        self.full: list[tuple[AnyView, ...]] = []
        """Full reports, in their order."""
        self._change = asyncio.Event()

    def __call__(self, source: str, observations: Sequence[Observation[AnyView]], *, full: bool = False) -> None:
        assert source == f"agent/{HV1}"
        assert all(o.source == source for o in observations)
        if full:
            self.latest.clear()
            self.full.append(tuple(o.value for o in observations))
        self.latest.update((o.value.key, o) for o in observations)
        self._change.set()

    async def until(self, true: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait for news that make it true."""
        async with asyncio.timeout(seconds):
            while not true():
                self._change.clear()
                await self._change.wait()

    def server(self) -> ServerView:
        found = self.latest[key("server", HV1)].value
        assert isinstance(found, ServerView)
        return found

    def domain(self, uid: MachineUid) -> DomainView | None:
        found = self.latest.get(key("domain", HV1, uid))
        assert found is None or isinstance(found.value, DomainView)
        return found.value if found is not None else None

    def retained(self, uid: MachineUid) -> RetainedDiskView | None:
        found = self.latest.get(key("retained-disk-view", HV1, uid))
        assert found is None or isinstance(found.value, RetainedDiskView)
        return found.value if found is not None else None


class Rig(ABC):
    """What the contract's tests act on."""

    driver: Hypervisor
    image: ImageRef

    def __init__(self) -> None:
        self.news = News()
        self.epoch = Epoch(1)
        self._numbers = itertools.count(1)

    async def run(
        self,
        step: HypervisorStep,
        *,
        epoch: int = 0,
        store: StoreId = STORE,
        operation: str = "",
        deadline: float = 120,
    ) -> StepResult:
        """Run a step as a controller would; each call is an operation of its own unless one is named."""
        name = OperationId(operation or f"{self.epoch}-{next(self._numbers)}")
        ticket = Ticket(operation=name, store=store, epoch=Epoch(epoch or self.epoch), deadline=deadline)
        return await self.driver.run(step, ticket)

    def machine(self, **changes: Any) -> MachineEntry:
        """A machine of its own for each call."""
        number = next(self._numbers) % 90
        entry = MachineEntry(
            uid=MachineUid(str(uuid.uuid4())),
            name=f"m{number}",
            namespace="default",
            owner=key("virtualmachine", "default", f"m{number}"),
            role="vm",
            server=HV1,
            cpu=1,
            memory_mib=128,
            disk_mib=32,
            disk_pool=POOL,
            image=self.image,
            nic=Nic(
                network="lan",
                bridge="br0",
                mac=f"02:bd:00:00:00:{number:02x}",
                address=f"10.88.0.{100 + number}",
                prefix=24,
            ),
        )
        return msgspec.structs.replace(entry, **changes)

    @abstractmethod
    async def reconnect(self) -> tuple[AnyView, ...]:
        """Let the agent connect anew; give its full report."""

    @abstractmethod
    def end_guest(self, m: MachineEntry) -> None:
        """The guest ends by itself."""

    @abstractmethod
    def make_foreign(self, m: MachineEntry) -> None:
        """Another store has made a domain and a disk with this machine's identity."""

    @abstractmethod
    def foreign(self, m: MachineEntry) -> tuple[bool, bool]:
        """Whether that domain and that disk are there as they were made."""

    @abstractmethod
    def drop_foreign(self, m: MachineEntry) -> None: ...


class Simulated(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(STORE)
        self.world.add_server(HV1)
        self.world.lost_images.add(Digest("sha256:" + "0" * 64))
        self.image = ImageRef(
            name="tiny",
            disk=Digest("sha256:" + "a" * 64),
            kernel=Digest("sha256:" + "b" * 64),
            initrd=Digest("sha256:" + "c" * 64),
            virtual_size=16 << 20,
        )
        self.twin = TwinWorld(self.world, self.news)
        self.driver = SimHypervisor(self.twin)
        self.twin.connect(HV1)

    async def reconnect(self) -> tuple[AnyView, ...]:
        self.twin.connect(HV1)
        return self.news.full[-1]

    def end_guest(self, m: MachineEntry) -> None:
        domain = self.world.domain(m)
        assert domain is not None
        self.world.set_state(self.world.servers[HV1], domain, "shutoff")
        self.twin.tell()

    def make_foreign(self, m: MachineEntry) -> None:
        server = self.world.servers[HV1]
        server.domains[m.uid] = SimDomain(entry=m, store=OTHER, defined_boot=1)
        server.volumes[m.uid] = SimVolume(uid=m.uid, server=HV1, pool=server.pools[POOL], size_mib=1, store=OTHER)

    def foreign(self, m: MachineEntry) -> tuple[bool, bool]:
        server = self.world.servers[HV1]
        domain, volume = server.domains.get(m.uid), server.volumes.get(m.uid)
        whole = domain is not None and domain.store == OTHER and domain.state == "shutoff"
        return whole, volume is not None and volume.store == OTHER

    def drop_foreign(self, m: MachineEntry) -> None:
        del self.world.servers[HV1].domains[m.uid]
        del self.world.servers[HV1].volumes[m.uid]


class InLab(Rig):
    """Use `in_lab`."""

    def __init__(self, lab: Lab, enrol_file: Path) -> None:
        super().__init__()
        self.lab = lab
        self.enrol_file = enrol_file
        self._secrets = MemorySecrets()
        files = tiny_guest.image_files()
        self.image = tiny_guest.image_ref(files)
        self.images = FileImages({tiny_guest.digest(path): path for path in files.values()})
        self.server = self.driver = self._server("127.0.0.1:0")
        self.port = 0

    def _server(self, listen: str) -> AgentServer:
        return AgentServer(
            listen=[listen],
            store=STORE,
            epoch=lambda: self.epoch,
            secrets=self._secrets,
            sink=self.news,
            images=self.images,
            pools_for=lambda _: [Pool(name=POOL, path=LOCAL_POOL)],
            keepalive=1.0,
            silence=3.0,
        )

    async def up(self) -> None:
        """A hypervisor with an enrolled agent that is connected."""
        await self.server.start()
        self.port = int(self.server.addresses[0].rpartition(":")[2])
        status = await asyncio.to_thread(self.lab.up, 1, relays={self.port: self.port})
        controller = f"{status.network.gateway}:{self.port}"
        self.enrol_file.touch(0o600)
        self.enrol_file.write_bytes(await self.server.enrolment(HV1, controller=controller))
        use = "kvm" if (await asyncio.to_thread(probe)).works else "tcg"
        argv = [sys.executable, "-m", "bedplate.cli.main", "agent", "--enrol-file", str(self.enrol_file), "--use", use]
        await asyncio.to_thread(self.lab.spawn_agent, HV1, argv)
        try:
            await self.news.until(lambda: self.news.full and not self.news.server().error)
        except TimeoutError:
            said = self.lab.log(HV1).read_text() if self.lab.log(HV1).exists() else "nothing"
            raise AssertionError(f"the agent did not connect; {self.news.latest}; it said:\n{said[-4000:]}") from None

    async def down(self) -> None:
        await self.server.stop()
        await asyncio.to_thread(self.lab.down)

    async def reconnect(self) -> tuple[AnyView, ...]:
        count = len(self.news.full)
        await self.server.stop()
        self.server = self.driver = self._server(f"127.0.0.1:{self.port}")
        await self.server.start()
        await self.news.until(lambda: len(self.news.full) > count)
        return self.news.full[-1]

    # --- behind the agent's back ---

    def connection(self) -> Any:
        return libvirt.open(self.lab.status().hypervisors[0].uri)

    def pool_folder(self) -> Path:
        """The pool as the host sees it."""
        return self.lab.folder / HV1 / "bedplate" / "pools" / POOL

    def qemu(self, m: MachineEntry) -> int:
        """libvirt's number of the running guest: another one for each start; -1 where it does not run."""
        return self.connection().lookupByUUIDString(m.uid).ID()

    def end_guest(self, m: MachineEntry) -> None:
        self.connection().lookupByUUIDString(m.uid).destroy()

    def make_foreign(self, m: MachineEntry) -> None:
        mark = DomainMark(store=OTHER, uid=m.uid, generation=Generation(1), boot=1, disk_pool=POOL)
        root = ElementTree.fromstring(
            f"<domain type='qemu'><name>foreign-{m.uid[:8]}</name><uuid>{m.uid}</uuid><memory unit='MiB'>32</memory>"
            f"<metadata>{mark_xml(mark)}</metadata>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        )
        self.connection().defineXML(ElementTree.tostring(root, encoding="unicode"))
        folder = self.pool_folder() / "machines" / m.uid
        folder.mkdir()
        volume = {"store": OTHER, "uid": m.uid, "generation": 1, "server": HV1}
        (folder / "volume.json").write_bytes(msgspec.json.encode(volume))
        (folder / "disk.qcow2").write_text("precious")

    def foreign(self, m: MachineEntry) -> tuple[bool, bool]:
        domains = {d.UUIDString(): d for d in self.connection().listAllDomains()}
        domain = domains.get(m.uid)
        whole = domain is not None and domain.name().startswith("foreign-") and not domain.isActive()
        disk = self.pool_folder() / "machines" / m.uid / "disk.qcow2"
        return whole, disk.exists() and disk.read_text() == "precious"

    def drop_foreign(self, m: MachineEntry) -> None:
        self.connection().lookupByUUIDString(m.uid).undefine()
        shutil.rmtree(self.pool_folder() / "machines" / m.uid)

    def agent(self) -> int:
        """The agent's process id, 0 where none runs."""
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit():
                    argv = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"agent" in argv and str(self.enrol_file).encode() in argv:
                        return int(entry.name)
            except OSError:
                continue
        return 0

    def kill_agent(self) -> None:
        """`kill -9`; the hypervisor starts it again."""
        pid = self.agent()
        assert pid
        os.kill(pid, signal.SIGKILL)


async def poll(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Look often until something is so that tells nobody."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - a file in a hypervisor sets no event
            await asyncio.sleep(0.01)


async def in_lab() -> AsyncIterator[InLab]:
    """A lab of one hypervisor in a folder of its own; all of it is gone afterwards."""
    assert os.geteuid() == 0, "the lab needs root"
    folder = Path(tempfile.mkdtemp(prefix="bph-", dir="/var/tmp"))
    rig = InLab(Lab("contract", root=folder / "lab"), folder / "enrol.json")
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
