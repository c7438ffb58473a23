"""A machine's image on a bare server's disk: real loop devices, the real listener with its certificates."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bare_disks import METAL1, MIB, Image, Loop, image, loops, machine, on_esp, short_folder
from memory_store import FileImages, MemorySecrets

from bedplate.agent.enrol import ControllerConnection, enrol, tls_context
from bedplate.agent.faults import AgentFault
from bedplate.agent.ram import gpt, writing
from bedplate.agent.ram.deployment import Deployment, of_host, of_machine
from bedplate.agent.ram.devices import Device
from bedplate.agent.ram.esp import esp_of, marker
from bedplate.agent.state import AgentState
from bedplate.drivers.agents.server import AgentServer
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import Host, MachineEntry
from bedplate.model.ids import Digest, Epoch, Generation, MachineUid, StoreId
from bedplate.model.metal import Written
from bedplate.model.metal_protocol import MARKER_PATH, NodeIdentity

pytestmark = [pytest.mark.lab]

STORE = StoreId("5f0a2b9e-3f3c-4c55-9e0a-000000000001")
BOARD = "11111111-0000-4000-8000-000000000000"
ENROL = b'{"a": "one-time secret"}'


class Bare:
    """A bare server with two disks, and a controller that has an image for it."""

    def __init__(self, folder: Path, disks: dict[str, Loop], made: Image, connect: Callable[[], ControllerConnection]):
        self.folder, self.disks, self.image, self.connect = folder, disks, made, connect
        self.root, self.other = disks["root"], disks["other"]
        self.seen: list[float] = []
        self.stop = threading.Event()
        self.devices: list[Device] = [d.device() for d in disks.values()]

    @property
    def machine(self) -> MachineEntry:
        return machine(self.image.ref)

    async def write(self, entry: MachineEntry | None = None, serial: str = "root") -> Written:
        return await self.deploy(of_machine(entry or self.machine, METAL1), serial)

    async def deploy(self, what: Deployment, serial: str = "root") -> Written:
        writer = writing.ImageWriter(self.folder, self.connect, self.seen.append, self.stop, lambda: self.devices)
        return await asyncio.to_thread(writer.run, what, serial, ENROL)

    def root_is_the_image(self) -> bool:
        """All of the image but its first piece and its EFI system partition is on the disk, byte for byte."""
        return self.root.content(41 * MIB, 70 * MIB) == self.image.raw.read_bytes()[41 * MIB : 111 * MIB]


@asynccontextmanager
async def bare_server() -> AsyncIterator[Bare]:
    folder = short_folder()
    try:
        made = image(folder)
        server = AgentServer(
            listen=["127.0.0.1:0"], store=STORE, epoch=lambda: Epoch(1), secrets=MemorySecrets(),
            sink=lambda *_, **__: None, images=FileImages(made.files), pools_for=lambda _: (),
        )  # fmt: skip
        await server.start()
        try:
            state = AgentState(folder / "state")
            file = msgspec.json.decode(await server.enrolment(METAL1), type=EnrolFile)
            await asyncio.to_thread(enrol, state, file, BOARD)

            def connect() -> ControllerConnection:
                return ControllerConnection(file.controller, tls_context(file.ca, state))

            with loops(folder, {"root": 160 * MIB, "other": 96 * MIB}) as disks:
                yield Bare(folder, disks, made, connect)
        finally:
            await server.stop()
    finally:
        shutil.rmtree(folder)


async def test_the_image_is_on_the_named_disk_with_all_that_makes_it_the_machine() -> None:
    async with bare_server() as bare:
        bare.root.fill(os.urandom(160 * MIB))
        written = await bare.write()
        assert written == Written(
            uid=bare.machine.uid, generation=Generation(3), digest=bare.image.ref.metal, serial="root"
        )
        assert bare.root_is_the_image(), "holes of the image are zero, whatever was there"
        assert not any(bare.other.content()), "no other disk is touched"
        assert bare.seen == sorted(bare.seen)
        assert bare.seen[-1] == 1.0
        table = table_of(Path(bare.root.path))
        assert [(p.start, p.size) for p in table] == [(MIB, 40 * MIB), (41 * MIB, 70 * MIB)]
        assert bare.root.content(160 * MIB - 512, 8) == b"EFI PART", "its copy is at the disk's own end"
        assert not {p.id for p in table} & {p.id for p in table_of(bare.image.raw)}, (
            "disks of one image can be told apart"
        )
        said = {n: on_esp(bare.root, f"loader/credentials/{n}.cred") for n in CREDENTIALS}
        assert b"Address=10.0.0.9/24" in (said["network.network.10-bedplate"] or b"")
        assert said["ssh.authorized_keys.root"] == b"ssh-ed25519 AAAA me\n"
        assert said["system.hostname"] == b"shop-db-1"
        assert said["bedplate.root"] == str(table[1].id).encode()
        assert said["bedplate.enrol"] == ENROL
        identity = msgspec.json.decode(said["bedplate.machine"] or b"", type=NodeIdentity)
        assert identity == NodeIdentity(uid=bare.machine.uid, generation=Generation(3), name="shop-db-1", server=METAL1)
        assert marker(bare.root.device()) == written
        before = bare.root.content()
        assert await bare.write() == written, "what stands there is not written again"
        assert bare.root.content() == before


def table_of(path: Path) -> tuple[gpt.Partition, ...]:
    with path.open("rb") as disk:
        return gpt.partitions(disk.fileno(), os.lseek(disk.fileno(), 0, os.SEEK_END))


CREDENTIALS = (
    *("network.network.10-bedplate", "ssh.authorized_keys.root", "system.hostname"),
    *("bedplate.root", "bedplate.enrol", "bedplate.machine"),
)


async def test_a_hypervisor_has_its_card_in_the_networks_bridge_and_is_no_machine() -> None:
    async with bare_server() as bare:
        host = Host(uid=MachineUid("h-2"), image=bare.image.ref)
        nic = msgspec.structs.replace(bare.machine.nic, mac="52:54:00:00:00:01", address="10.0.0.7")
        written = await bare.deploy(of_host(host, METAL1, nic))
        assert written == Written(
            uid=MachineUid("h-2"), generation=Generation(1), digest=bare.image.ref.metal, serial="root"
        )
        assert marker(bare.root.device()) == written

        def said(name: str) -> str:
            return (on_esp(bare.root, f"loader/credentials/{name}.cred") or b"").decode()

        assert said("system.hostname") == METAL1
        assert f"Name={nic.bridge}" in said("network.netdev.10-bedplate")
        card, bridge = said("network.network.10-bedplate"), said("network.network.20-bedplate")
        assert f"MACAddress={nic.mac}" in card
        assert "Address=10.0.0.7" not in card
        assert f"Bridge={nic.bridge}" in card
        assert f"Address=10.0.0.7/{nic.prefix}" in bridge
        assert said("bedplate.enrol").encode() == ENROL
        assert not said("bedplate.machine")


async def test_another_machine_or_generation_replaces_what_is_there() -> None:
    async with bare_server() as bare:
        first = await bare.write()
        second = await bare.write(machine(bare.image.ref, uid="99999999-2222-4333-8444-555555555555"))
        assert marker(bare.root.device()) == second != first
        newer = await bare.write(machine(bare.image.ref, generation=Generation(4)))
        assert marker(bare.root.device()) == newer
        assert newer.generation == 4


async def test_it_goes_on_after_a_break_and_leaves_no_marker_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bare_server() as bare:
        await bare.write(machine(bare.image.ref, uid="99999999-2222-4333-8444-555555555555"))
        real, starts = writing.PieceStream, list[int]()

        class Breaking(real):
            """Each connection gives three pieces and breaks."""

            def __init__(self, manifest: object, first: int, connect: object) -> None:
                super().__init__(manifest, first, connect)  # type: ignore[arg-type]
                starts.append(first)
                self.left = 3

            def read(self, buffer: memoryview) -> object:  # type: ignore[override]
                assert marker(bare.root.device()) is None, "half a disk is no machine's"
                self.left -= 1
                if self.left < 0:
                    self._unpack.kill()
                return super().read(buffer)

        monkeypatch.setattr(writing, "PieceStream", Breaking)
        monkeypatch.setattr(writing, "PAUSE", 0.01)
        written = await bare.write()
        assert starts == list(range(0, len(bare.image.manifest.pieces), 3)), "what was whole is not fetched again"
        assert marker(bare.root.device()) == written
        assert bare.root_is_the_image()


async def test_who_is_told_to_stop_goes_on_from_there_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "NOTE_EVERY", 1)
    async with bare_server() as bare:
        bare.seen = Halting(bare.stop, 0.3)
        with pytest.raises(writing.Stopped):
            await bare.write()
        assert marker(bare.root.device()) is None
        assert bare.root.content(0, 4 * MIB) == bytes(4 * MIB), "a disk that is written in part has no table"
        firsts: list[int] = []
        real = writing.PieceStream
        monkeypatch.setattr(writing, "PieceStream", lambda m, n, c: (firsts.append(n), real(m, n, c))[1])
        bare.stop.clear()
        bare.seen = []
        await bare.write()
        assert firsts[0] > 0
        assert bare.root_is_the_image()


class Halting(list[float]):
    """Sets the event once the progress is so far."""

    def __init__(self, stop: threading.Event, limit: float) -> None:
        super().__init__()
        self._stop, self._limit = stop, limit

    def append(self, value: float) -> None:
        super().append(value)
        if value >= self._limit:
            self._stop.set()


async def test_what_is_not_the_image_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PAUSE", 0.01)
    async with bare_server() as bare:
        data = bare.image.files[bare.image.manifest.data]
        pieces = bare.image.manifest.pieces
        good = data.read_bytes()
        with data.open("r+b") as file:  # two pieces in each other's place: sound frames, wrong content
            first, second = pieces[-3], pieces[-2]
            ends = {first: second.start, second: pieces[-1].start}
            assert ends[first] - first.start != 0
            swapped = good[second.start : ends[second]] + good[first.start : ends[first]]
            file.seek(first.start)
            file.write(swapped)
        with pytest.raises(AgentFault, match="digest") as fault:
            await bare.write()
        assert fault.value.reason == "ImageCorrupt"
        assert marker(bare.root.device()) is None
        data.write_bytes(good)
        await bare.write()
        assert bare.root_is_the_image()


async def test_another_manifest_than_the_one_that_is_named_is_not_taken() -> None:
    async with bare_server() as bare:
        path = bare.image.files[bare.image.ref.metal]
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(AgentFault) as fault:
            await bare.write()
        assert fault.value.reason == "ImageCorrupt"
        assert not any(bare.root.content())


async def test_a_disk_that_does_not_keep_what_is_written_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bare_server() as bare:
        verify = writing.ImageWriter._verify  # type: ignore[reportPrivateUsage]

        def spoilt(self: object, raw: object, manifest: object) -> None:
            with bare.root.file.open("r+b") as medium:  # under the disk's own surface
                medium.seek(60 * MIB)
                medium.write(b"rot")
                os.fsync(medium.fileno())
            verify(self, raw, manifest)  # type: ignore[arg-type]

        monkeypatch.setattr(writing.ImageWriter, "_verify", spoilt)
        with pytest.raises(AgentFault) as fault:
            await bare.write()
        assert fault.value.reason == "VerifyFailed"
        assert marker(bare.root.device()) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("twins", "DiskAmbiguous"),
        ("gone", "DiskMissing"),
        ("mounted", "DiskInUse"),
        ("held", "DiskInUse"),
        ("small", "DiskTooSmall"),
        ("4k", "DiskSectors"),
        ("read-only", "DiskReadOnly"),
    ],
)
async def test_a_disk_that_may_not_be_written_is_left_alone(change: str, reason: str) -> None:
    async with bare_server() as bare:
        root, other = bare.root.device(), bare.other.device()
        held = -1
        match change:
            case "twins":
                bare.devices = [root, msgspec.structs.replace(other, serial="root")]
            case "gone":
                bare.devices = [other]
            case "mounted":
                bare.devices = [bare.root.device(used="mounted at /mnt"), other]
            case "held":
                held = os.open(bare.root.path, os.O_RDONLY | os.O_EXCL)
            case "small":
                bare.devices = [msgspec.structs.replace(other, serial="root")]
            case "4k":
                bare.devices = [bare.root.device(sector=4096), other]
            case _:
                bare.devices = [bare.root.device(read_only=True), other]
        try:
            with pytest.raises(AgentFault) as fault:
                await bare.write()
        finally:
            if held >= 0:
                os.close(held)
        assert fault.value.reason == reason
        assert not any(bare.root.content())
        assert not any(bare.other.content())


async def test_an_image_for_virtual_machines_only_says_so() -> None:
    async with bare_server() as bare:
        ref = msgspec.structs.replace(bare.image.ref, metal=Digest(""))
        with pytest.raises(AgentFault, match="bedplate image register") as fault:
            await bare.write(machine(ref))
        assert fault.value.permanent


async def test_a_controller_that_is_away_for_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PAUSE", 0.001)
    monkeypatch.setattr(writing, "LONGEST_PAUSE", 0.001)
    async with bare_server() as bare:

        def away() -> ControllerConnection:
            raise ConnectionRefusedError("nobody listens")

        bare.connect = away
        began = time.monotonic()
        with pytest.raises(AgentFault) as fault:
            await bare.write()
        assert fault.value.reason == "ImageFetchFailed"
        assert time.monotonic() - began < 60


def test_a_marker_of_another_disk_or_half_a_marker_is_none(tmp_path: Path) -> None:
    made = image(tmp_path)
    with loops(tmp_path, {"root": 160 * MIB}) as disks:
        loop = disks["root"]
        with open(loop.path, "wb") as disk:
            disk.write(made.raw.read_bytes())
        assert marker(loop.device()) is None
        written = Written(uid=machine(made.ref).uid, generation=Generation(1), digest=made.ref.metal, serial="another")
        esp = esp_of(loop.device())
        esp.write(MARKER_PATH, msgspec.json.encode(written))
        assert marker(loop.device()) is None, "the disk was copied from another"
        right = msgspec.structs.replace(written, serial="root")
        esp.write(MARKER_PATH, msgspec.json.encode(right)[:-7])
        assert marker(loop.device()) is None
        esp.write(MARKER_PATH, msgspec.json.encode(right))
        assert marker(loop.device()) == right
