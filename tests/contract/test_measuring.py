"""`bedplate measure` from the command line to the tools: real API, store, kit and programs, on this computer.

The one part that is not an agent's is the guest: its channel leads into this computer, as a bare node's own does.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import GROUP, ApiServer
from test_measuring_kit import call, stage
from test_measuring_kit import kit as kit

from bedplate.agent import measuring
from bedplate.agent.images import ImageCache
from bedplate.agent.measuring import Measurer, MeasuringFailed
from bedplate.agent.node.machine import LocalMachine
from bedplate.api.hooks import Hooks, NotAvailable
from bedplate.cli import main as cli
from bedplate.cli.errors import ApiError
from bedplate.cli.measurements import Measurements
from bedplate.drivers.artifacts.measuring_kit import MeasuringKit
from bedplate.model.agent_protocol import GuestExecute, GuestWrite, Measure
from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Epoch, MachineUid, ServerName, StoreId, key
from bedplate.model.kinds.measurement import Measurement
from bedplate.model.measuring import FACTS
from bedplate.model.steps import Ticket
from bedplate.ports import BenchmarkFailed, BenchmarkOutput, BenchmarkRun, GuestOutput

pytestmark = pytest.mark.lab  # minutes of real benchmarks

MEASUREMENTS = f"{GROUP}/namespaces/default/measurements"
GUEST = MachineEntry(
    uid=MachineUid("u"),
    name="a",
    namespace="default",
    owner=key("virtualmachine", "default", "a"),
    role="vm",
    server=ServerName("hv1"),
    cpu=1,
    memory_mib=128,
    disk_mib=32,
    disk_pool="local",
    image=ImageRef(name="i", disk=Digest("sha256:" + "a" * 64)),
    nic=Nic(network="n", bridge="br0", mac="", address="", prefix=24),
)


class Channel:
    """Into a guest; this computer is it."""

    def __init__(self) -> None:
        self._machine = LocalMachine()

    async def write(
        self, uid: MachineUid, path: str, content: bytes, mode: int, *, first: bool, timeout: float
    ) -> None:
        self._machine.write(GuestWrite(**_head(timeout), path=path, content=content, mode=mode, first=first))

    async def execute(self, uid: MachineUid, argv: Sequence[str], stdin: bytes, timeout: float) -> GuestOutput:
        found = await self._machine.execute(GuestExecute(**_head(timeout), argv=tuple(argv), stdin=stdin))
        return GuestOutput(exit_code=found.exit_code, stdout=found.stdout, stderr=found.stderr)


def _head(timeout: float) -> dict[str, Any]:
    return {"call": 1, "store": StoreId("s"), "epoch": Epoch(1), "deadline": timeout, "machine": GUEST}


class Native:
    """`ports.Benchmarks` by an agent's own measurer, without the connection between."""

    def __init__(self, folder: Path, images: Any) -> None:
        self.runs: list[tuple[str, str]] = []
        self.connected = True
        self.load = 0.0
        self.accelerator: Any = "kvm"
        self._folder, self._images = folder, images
        self._measurer: Measurer | None = None

    async def benchmark(self, run: BenchmarkRun, ticket: Ticket) -> BenchmarkOutput:
        if not self.connected:
            raise BenchmarkFailed(f"the agent of {run.server} is not connected")
        if self._measurer is None:
            pools = {"local": self._folder}
            self._measurer = Measurer(self._folder / "measure", _nobody, lambda: pools, Channel(), self.accelerator)
        cache = ImageCache(self._folder / "measure" / "archive")
        if not cache.has(run.kit):
            cache.folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._images.path(run.kit), cache.path(run.kit))
        asked = Measure(
            call=1, store=ticket.store, epoch=ticket.epoch, deadline=ticket.deadline, kit=run.kit,
            benchmark=run.benchmark, machine=run.machine, seconds=run.seconds, scratch_mib=run.scratch_mib,
            disk_pool=run.disk_pool, bridge=run.bridge,
        )  # fmt: skip
        self.runs.append((run.machine.name if run.machine is not None else run.server, run.benchmark))
        try:
            reply = await self._measurer.run(asked)
        except MeasuringFailed as error:
            raise BenchmarkFailed(str(error)) from error
        return BenchmarkOutput(
            command=reply.command, output=reply.output, accelerator=reply.accelerator, cpus=8,
            load_before=self.load, load_after=self.load,
        )  # fmt: skip


def _nobody() -> Any:
    raise ConnectionRefusedError("there is no controller here")


def _find(kind: str, namespace: str, name: str) -> MachineEntry:
    if (kind, namespace, name) != ("VirtualMachine", "default", "a"):
        raise NotAvailable(f"{kind.lower()} {name} is not placed yet", missing=True)
    return GUEST


class World:
    """A controller's API, and what its agents would be."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiServer(folder)
        self.agents = Native(folder / "server", self.api.blobs)
        (folder / "server").mkdir()
        self.restart()
        self.api.create(f"{GROUP}/servers", {"metadata": {"name": "hv1"}, "spec": {"role": "hypervisor"}})

    def restart(self) -> None:
        """A controller that knows nothing but its store."""
        self.api.stop()
        found = Measurements(self.api.store, self.agents, self.api.blobs, lambda: Epoch(1), _find)
        self.api.hooks = Hooks(measuring=found)
        self.api.start()

    def measure(self, *argv: str) -> int:
        return cli.main(["measure", *argv, "--kubeconfig", str(self.api.kubeconfig)])

    def found(self, name: str) -> Measurement:
        obj = self.api.store.get("Measurement", "default", name)
        assert isinstance(obj, Measurement)
        return obj


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: MeasuringKit) -> Iterator[World]:
    monkeypatch.setattr(measuring, "GUEST_FOLDER", str(tmp_path / "guest"))
    monkeypatch.setattr(measuring, "LOAD_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "LOOK_SECONDS", 1.0)
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.api.close()
    assert not (tmp_path / "guest").exists(), "the kit is still in the guest"
    assert not (tmp_path / "server" / "measure").exists(), "the kit is still on the server"


FLEET = """
servers: [{name: big, count: 4, cpus: 8, memory: 32Gi}]
clusters: [{name: shop, controlPlane: 1, workloads: [{name: web, replicas: 3, cpu: 1, memory: 2Gi}]}]
"""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: MeasuringKit) -> Iterator[Measurer]:
    """An agent with a guest, and the kit at hand."""
    monkeypatch.setattr(measuring, "GUEST_FOLDER", str(tmp_path / "guest"))
    monkeypatch.setattr(measuring, "LOAD_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "LOOK_SECONDS", 1.0)
    made = Measurer(tmp_path / "measure", _nobody, dict, Channel(), "kvm")
    stage(tmp_path, kit)
    yield made
    made.close()
    shutil.rmtree(tmp_path / "guest", ignore_errors=True)


async def test_a_target_that_nobody_asks_any_more_takes_the_kit_away_itself(
    guest: Measurer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: MeasuringKit
) -> None:
    """The controller, the client and, for the guest, the agent too may be gone for good."""
    monkeypatch.setattr(measuring, "IDLE_SECONDS", 8.0)
    await guest.run(call(kit, FACTS, machine=GUEST))
    assert {"guest", "measure"} <= set(os.listdir(tmp_path))
    async with asyncio.timeout(60):
        while {"guest", "measure"} & set(os.listdir(tmp_path)):  # noqa: ASYNC110 - a guest's own end sets no event
            await asyncio.sleep(0.05)


async def test_a_guest_without_room_says_how_much_is_missing(
    guest: Measurer, tmp_path: Path, kit: MeasuringKit
) -> None:
    with pytest.raises(MeasuringFailed, match=r"a can't make room .*: its disk has \d+ MiB free .* need 1000000\d+"):
        await guest.run(call(kit, "disk-read", machine=GUEST, scratch_mib=1_000_000_000))
    assert "guest" not in os.listdir(tmp_path)


async def test_a_benchmark_that_hangs_in_a_guest_is_ended_there(
    guest: Measurer, monkeypatch: pytest.MonkeyPatch, kit: MeasuringKit
) -> None:
    await guest.run(call(kit, FACTS, machine=GUEST))
    monkeypatch.setattr(measuring, "limit", lambda seconds: 1.0)
    with pytest.raises(MeasuringFailed, match=r"cpu-one on a hung and was ended after 1 s"):
        await guest.run(call(kit, "cpu-one", machine=GUEST, seconds=100))


QUICK = ("--seconds", "1", "--scratch", "8Mi", "--only", "cpu,disk")


def test_server_and_guest_are_measured_by_turns_and_all_is_kept(
    world: World, kit: MeasuringKit, capsys: pytest.CaptureFixture[str]
) -> None:
    code = world.measure("server/hv1", "vm/a", *QUICK, "--repetitions", "1", "--name", "m", "-o", "json")
    assert code == 0
    shown = json.loads(capsys.readouterr().out)
    m = world.found("m")
    assert shown["status"]["phase"] == m.status.phase == "Complete"
    assert m.spec.kit == kit.digest
    server, guest = m.status.targets
    assert (server.target, server.substrate, server.server, server.emulated) == ("server/hv1", "server", "hv1", False)
    assert (guest.target, guest.substrate, guest.server, guest.emulated) == ("virtualmachine/a", "vm", "hv1", False)
    for t in m.status.targets:
        assert t.facts["kernel"] == os.uname().release
        assert [x.name for x in t.metrics][:2] == ["cpu-one", "cpu-all"]
        assert len(t.metrics) == 2 + 8
        assert all(x.median and x.median > 0 and len(x.samples) == 1 for x in t.metrics)
        assert t.commands["disk-read"].startswith("fio ")
    measured = [r for r in world.agents.runs if r[1] == "cpu-one"]
    assert measured == [("hv1", "cpu-one"), ("a", "cpu-one")] * 2
    assert world.agents.runs[-2:] == [("a", "clean"), ("hv1", "clean")]


def test_an_interrupted_measurement_goes_on_with_a_new_controller(world: World) -> None:
    """Each call is kept before it is answered: a controller that was killed knows all but the run under way."""
    world.measure("server/hv1", *QUICK, "--repetitions", "1", "--name", "whole")
    runs = list(world.agents.runs)
    world.agents.runs.clear()
    body = {"metadata": {"name": "m"}, "spec": msgspec.to_builtins(world.found("whole").spec)}
    world.api.create(MEASUREMENTS, body)
    for _ in range(3):
        world.api.client.request("POST", f"{MEASUREMENTS}/m/carry-on", {})
    world.restart()
    assert world.measure("--resume", "m") == 0
    assert world.agents.runs == runs
    assert world.found("m").status.phase == "Complete"


def test_a_target_that_is_lost_half_way_is_said_and_what_was_measured_is_kept(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.agents.connected = False
    assert world.measure("server/hv1", *QUICK, "--repetitions", "1", "--name", "m") == 1
    said = capsys.readouterr().err
    assert "the agent of hv1 is not connected" in said
    assert "bedplate measure --resume m" in said
    world.agents.connected = True
    assert world.measure("--resume", "m") == 0


def test_disturbed_samples_are_marked_repeated_and_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.agents.load = 4.0
    assert world.measure("server/hv1", "--only", "cpu", "--seconds", "1", "--repetitions", "1", "--name", "m") == 0
    (target,) = world.found("m").status.targets
    assert [len(x.samples) for x in target.metrics] == [4, 4]
    assert target.metrics[0].samples[0].disturbed == "others used 4.00 of 8 CPUs before and after it; 0.80 are let pass"
    assert "every value of cpu-one, cpu-all was disturbed" in capsys.readouterr().out


def test_an_emulated_guests_figures_are_marked_and_refused_for_a_comparison(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.agents.accelerator = "tcg"
    assert (
        world.measure("server/hv1", "vm/a", "--only", "cpu", "--seconds", "1", "--repetitions", "1", "--name", "m") == 0
    )
    assert "virtualmachine/a ran under software EMULATION" in capsys.readouterr().out
    assert world.found("m").status.targets[1].emulated
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)
    argv = ["fleet", "calibrate", "-f", str(fleet), "--measurement", "m", "--kubeconfig", str(world.api.kubeconfig)]
    assert cli.main(argv) == 1
    out, err = capsys.readouterr()
    assert "virtualmachine/a ran under software emulation (TCG)" in err
    assert "overheads" not in out


def test_a_server_that_is_measured_beside_its_machine_calibrates_a_fleet(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.measure("server/hv1", "vm/a", "--only", "cpu", "--seconds", "1", "--name", "m") == 0
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)
    argv = ["fleet", "calibrate", "-f", str(fleet), "--measurement", "m", "--kubeconfig", str(world.api.kubeconfig)]
    capsys.readouterr()
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "origin: measurement m, cpu-one, virtualmachine/a, 20" in out
    lists = tmp_path / "servers.csv"
    lists.write_text("name,count,cpus,memory\nbig,2,8,32Gi\n")
    argv = ["fleet", "import", "--from-live", "--servers", str(lists), "--kubeconfig", str(world.api.kubeconfig)]
    assert cli.main(argv) == 0
    assert "origin: measurement m, cpu-one, virtualmachine/a, 20" in capsys.readouterr().out
    fleet.write_text(out)
    assert cli.main(["compare", "-f", str(fleet), "--runs", "0", "-o", "csv"]) == 0
    assert any(",measured," in line for line in capsys.readouterr().out.splitlines() if ",cpu," in line)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("server/hv9",), 'spec.targets: there is no server "hv9"; see `bedplate get servers`'),
        (("vm/b",), 'spec.targets: there is no virtualmachine "b" in namespace default, or it is not placed yet'),
        (("pod/x",), 'spec.targets[0]: "pod/x" is no target; write server/NAME, machine/NAME or virtualmachine/NAME'),
        (("hv1",), '"hv1" is no target; write server/NAME, machine/NAME or virtualmachine/NAME'),
        (("server/hv1", "--only", "cpus"), 'spec.only[0]: "cpus" is not measured'),
        (("server/hv1", "--repetitions", "0"), "spec.repetitions: 0 is out of bounds; write 1 to 50"),
        (("server/hv1", "--seconds", "999"), "spec.seconds: 999 is out of bounds; write 1 to 120"),
        (("server/hv1", "--scratch", "1Mi"), "spec.scratch: 1 MiB is out of bounds; write 8 to 65536 MiB"),
        ((), "name what to measure: bedplate measure server/hv1"),
    ],
)
def test_each_fault_is_one_sentence_with_field_and_remedy(
    argv: tuple[str, ...], said: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.measure(*argv, "--name", "m") == 1
    assert said in capsys.readouterr().err


def test_only_what_was_asked_stays_as_it_was(world: World, kit: MeasuringKit) -> None:
    spec = {"targets": ["server/hv1"], "kit": kit.digest}
    made = world.api.create(MEASUREMENTS, {"metadata": {"name": "m"}, "spec": spec})
    with pytest.raises(ApiError, match="samples of different length don't compare"):
        world.api.client.request("PUT", f"{MEASUREMENTS}/m", {**made, "spec": {**made["spec"], "seconds": 3}})


def test_without_its_kit_a_controller_says_who_sends_it(world: World) -> None:
    spec = {"targets": ["server/hv1"], "kit": "sha256:" + "0" * 64}
    world.api.create(MEASUREMENTS, {"metadata": {"name": "m"}, "spec": spec})
    with pytest.raises(ApiError, match=r"the controller has no measuring kit .*`bedplate measure` sends it"):
        world.api.client.request("POST", f"{MEASUREMENTS}/m/carry-on", {})
    assert world.api.blobs.path(Digest("sha256:" + "0" * 64)) is None
