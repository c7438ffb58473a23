"""A bare server on this machine: the real agent in its RAM or node role, a process on loop devices, no libvirt."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bare_disks import METAL1, MIB, Image, Loop, image, listed, loops, machine, short_folder
from memory_store import FileImages, MemorySecrets

from bedplate.agent.ram.devices import Device
from bedplate.drivers.agents.server import AgentServer
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import BmcRef, MachineEntry, MetalEntry, Nic
from bedplate.model.ids import Epoch, Generation, Key, MachineUid, OperationId, StoreId, key
from bedplate.model.inventory import AnyView, DomainView, MetalView, Observation, ServerView
from bedplate.model.metal import Hardware
from bedplate.model.metal_protocol import RamSettings
from bedplate.model.steps import AgentStep, StepResult, Ticket
from bedplate.ports import GuestError, GuestFile

STORE = StoreId("5f0a2b9e-3f3c-4c55-9e0a-000000000001")
BOARD = "11111111-0000-4000-8000-000000000000"
PATIENCE = 240.0
"""Seconds for what takes a few on an idle machine."""


class Images(FileImages):
    """Gives only a part of the image's data while it is `halted`, so that a write stands still in its middle."""

    def __init__(self, made: Image, folder: Path) -> None:
        super().__init__(made.files)
        self.whole = dict(self.files)
        self.part = folder / "part"
        data = made.files[made.manifest.data].read_bytes()
        self.part.write_bytes(data[: made.manifest.pieces[10].start + 100])
        self._data = made.manifest.data

    def halt(self, yes: bool = True) -> None:
        self.files[self._data] = self.part if yes else self.whole[self._data]


class Bare:
    """The server, its disks and its controller."""

    def __init__(self, folder: Path, made: Image, disks: dict[str, Loop]) -> None:
        self.folder, self.image, self.disks = folder, made, disks
        self.root, self.other = disks["root"], disks["other"]
        self.images = Images(made, folder)
        self.epoch = Epoch(1)
        self.latest: dict[Key, Observation[AnyView]] = {}
        self.told: list[AnyView] = []
        self.server = AgentServer(
            listen=["127.0.0.1:0"], store=STORE, epoch=lambda: self.epoch, secrets=MemorySecrets(), sink=self._sink,
            images=self.images, pools_for=lambda _: (),
        )  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None
        self.said = folder / "agent.log"
        self._change = asyncio.Event()
        self._numbers = itertools.count(1)
        self._tools = folder / "tools"
        self._tools.mkdir()
        self.show([d.device() for d in disks.values()])
        # A server without a hypervisor has no libvirt: whoever imports it fails.
        (folder / "path").mkdir()
        for name in ("libvirt", "libvirt_qemu"):
            (folder / "path" / f"{name}.py").write_text("raise ImportError('there is no libvirt here')\n")

    # --- the world ------------------------------------------------------------------------------------------------

    def show(self, disks: Sequence[Device]) -> None:
        """These are all disks that the server shows, as lsblk tells them: loop devices have no serial numbers."""
        (self.folder / "lsblk.json").write_text(listed(list(disks)))
        self.tool("lsblk", f"cat {self.folder}/lsblk.json")

    def tool(self, name: str, script: str) -> None:
        """The server's tool of that name does this instead."""
        path = self._tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    async def start(self, run: int = 1, *, enrol: bool = True) -> None:
        """Boot the RAM system: its agent starts with the settings of its medium."""
        settings = self.folder / "settings.json"
        if enrol:
            file = msgspec.json.decode(await self.server.enrolment(METAL1), type=EnrolFile)
            settings.write_bytes(msgspec.json.encode(RamSettings(enrol=file, run=run)))
        await self._spawn(["--ram", str(settings)], "ram")

    async def start_node(self, credentials: Path, state: str = "node") -> None:
        """Boot the deployed disk: its agent starts with the disk's credentials."""
        await self._spawn(["--node"], state, CREDENTIALS_DIRECTORY=str(credentials), BEDPLATE_DIAL_OWN_ADDRESSES="1")

    async def _spawn(self, argv: list[str], state: str, **more: str) -> None:
        source = Path(__file__).parents[2] / "src"
        env = {
            **os.environ,
            "PATH": f"{self._tools}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'path'}:{source}",
            "BEDPLATE_AGENT_STATE": str(self.folder / state),
            "BEDPLATE_HOST_UUID": BOARD,
            **more,
        }
        with self.said.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bedplate.agent", *argv, env=env, stdout=log, stderr=log
            )

    async def end(self, number: int = signal.SIGKILL) -> int:
        """End the agent's process."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    async def lose_power(self) -> None:
        """The agent ends at once, and what was in memory is gone."""
        await self.end()
        shutil.rmtree(self.folder / "ram")

    # --- the controller -------------------------------------------------------------------------------------------

    def _sink(self, source: str, observations: Sequence[Observation[Any]], *, full: bool = False) -> None:
        assert source == f"agent/{METAL1}"
        if full:
            self.latest.clear()
        self.latest.update((o.value.key, o) for o in observations)
        self.told += [o.value for o in observations]
        self._change.set()

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait for news that make it true."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    self._change.clear()
                    await self._change.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come about; the agent said:\n{self.said.read_text()}") from None

    async def until_said(self, words: str) -> None:
        """Wait until the agent's log has these words."""
        async with asyncio.timeout(PATIENCE):
            while words not in self.said.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def use_node(self, m: MachineEntry) -> None:
        """Write a file, run a command and open a connection on the node, as bootstrapping and `bedplate ssh` do."""
        ticket = Ticket(operation=OperationId("use"), store=STORE, epoch=self.epoch, deadline=PATIENCE)
        path, content = self.folder / "new" / "file", os.urandom(3 * MIB + 5)
        await self.server.write_files(m, [GuestFile(path=str(path), content=content, mode=0o640)], ticket)
        await self.server.write_files(m, [GuestFile(path=str(path), content=content, mode=0o640)], ticket)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o7777 == 0o640
        said = await self.server.execute(m, ["/bin/sh", "-c", "cat; echo no >&2; exit 3"], ticket, stdin=b"yes")
        assert (said.exit_code, said.stdout, said.stderr) == (3, b"yes", b"no\n")
        with pytest.raises(GuestError, match="did not end within 1 s"):
            await self.server.execute(m, ["sleep", "60"], ticket, timeout=1)
        other = msgspec.structs.replace(m, uid=MachineUid("another"))
        with pytest.raises(GuestError, match="not another"):
            await self.server.execute(other, ["true"], ticket)
        host, _, port = self.server.addresses[0].rpartition(":")
        stream = await self.server.dial(METAL1, host, int(port))
        await stream.close()

    def view(self) -> ServerView:
        found = self.latest.get(key("server", METAL1))
        return found.value if found is not None else ServerView(server=METAL1, connected=False)  # type: ignore[return-value]

    def metal(self) -> MetalView:
        found = self.latest.get(key("metal", METAL1))
        return found.value if found is not None else MetalView(server=METAL1, run=0)  # type: ignore[return-value]

    def domain(self, uid: MachineUid) -> DomainView | None:
        found = self.latest.get(key("domain", METAL1, uid))
        return found.value if found is not None else None  # type: ignore[return-value]

    def is_up(self, system: str, run: int = 0) -> bool:
        view = self.view()
        return view.connected and view.system == system and view.run == run and bool(self.server.connected())

    async def run(self, step: AgentStep, *, operation: str = "", deadline: float = PATIENCE) -> StepResult:
        """Run a step as a controller would."""
        name = OperationId(operation or f"op-{next(self._numbers)}")
        return await self.server.run(step, Ticket(operation=name, store=STORE, epoch=self.epoch, deadline=deadline))

    def entry(self, **changes: Any) -> MetalEntry:
        made = MetalEntry(
            server=METAL1,
            uid="server-1",
            generation=Generation(5),
            state="deploying",
            since=0.0,
            bmc=BmcRef(address="redfish+https://10.0.0.7/redfish/v1/Systems/1", secret="default/bmc"),
            nic=Nic(network="lan", bridge="", mac="", address="", prefix=24),
            hardware=self.metal().hardware,
            machine=machine(self.image.ref).uid,
            root_disk="root",
        )
        return msgspec.structs.replace(made, **changes)

    def hardware(self) -> Hardware:
        found = self.metal().hardware
        assert found is not None
        return found


@asynccontextmanager
async def bare_server(*, filling: int = 64 * MIB) -> AsyncIterator[Bare]:
    """A server that is off, with two disks."""
    folder = short_folder()
    try:
        made = image(folder, filling=filling)
        with loops(folder, {"root": 160 * MIB, "other": 96 * MIB}) as disks:
            bare = Bare(folder, made, disks)
            await bare.server.start()
            try:
                yield bare
            finally:
                if bare.process is not None:
                    await bare.end()
                await bare.server.stop()
    finally:
        shutil.rmtree(folder)
