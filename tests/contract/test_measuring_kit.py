"""The measuring kit's real tools, run on this computer as an agent runs them: each for a second."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bedplate.advise import measuring as advice
from bedplate.agent.images import ImageCache
from bedplate.agent.measuring import Measurer, MeasuringFailed
from bedplate.agent.node.machine import LocalMachine
from bedplate.agent.node.role import NodeRole
from bedplate.agent.state import AgentState, Identity
from bedplate.drivers.artifacts.measuring_kit import TOOLS, MeasuringKit, build_measuring_kit
from bedplate.model.agent_protocol import Measure, MeasureReply
from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Epoch, Generation, MachineUid, ServerName, StoreId, key
from bedplate.model.measuring import BENCHMARKS, CLEAN, FACTS, Benchmark
from bedplate.model.metal_protocol import NodeIdentity

pytestmark = pytest.mark.lab  # half a minute of them, and a kit that is built as root

BRIDGE = "bp-measure"


@pytest.fixture(scope="module")
def kit() -> MeasuringKit:
    """The kit that this version makes, out of the cache where it was made before."""
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        pytest.skip("making the kit needs root and mmdebstrap")
    return build_measuring_kit()


@pytest.fixture(scope="module")
def bridge() -> Iterator[str]:
    """A bridge with an address of its own, as a hypervisor has."""
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "198.18.77.1/24", "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
        yield BRIDGE
    finally:
        subprocess.run(["ip", "link", "del", BRIDGE], check=True)


def measurer(tmp_path: Path, kit: MeasuringKit, pool: Path | None = None) -> Measurer:
    """One to which the kit has come already: how files come is `test_hypervisor_contract`'s."""
    made = Measurer(tmp_path / "measure", _nobody, lambda: {"local": pool or tmp_path}, None, "kvm")
    stage(tmp_path, kit)
    return made


def stage(tmp_path: Path, kit: MeasuringKit) -> None:
    """Put the kit where it would have been fetched to."""
    cache = ImageCache(tmp_path / "measure" / "archive")
    cache.folder.mkdir(parents=True)
    shutil.copy(kit.path, cache.path(Digest(kit.digest)))


def _nobody() -> object:
    raise ConnectionRefusedError("there is no controller here")


def call(kit: MeasuringKit, benchmark: str, **more: object) -> Measure:
    fields: dict[str, object] = {
        "call": 1,
        "store": StoreId("s"),
        "epoch": Epoch(1),
        "deadline": 120.0,
        "kit": Digest(kit.digest),
        "benchmark": benchmark,
        "seconds": 1,
        "scratch_mib": 16,
        **more,
    }
    return Measure(**fields)  # type: ignore[arg-type]


async def measured(m: Measurer, asked: Measure) -> MeasureReply:
    try:
        return await m.run(asked)
    finally:
        assert [n for n in os.listdir("/var/tmp") if n.startswith(".bedplate-scratch-")] == []


@pytest.mark.parametrize("benchmark", [b for b in BENCHMARKS if b.group != "network"], ids=lambda b: b.name)
async def test_each_tool_gives_figures_in_their_units(benchmark: Benchmark, kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    reply = await measured(m, call(kit, benchmark.name))
    found = advice.values(benchmark.name, reply.output)
    assert set(found) == {i.name for i in benchmark.metrics}
    assert all(v > 0 for v in found.values())
    assert reply.command.startswith(benchmark.tool)
    assert reply.accelerator == ""
    assert reply.cpus == os.cpu_count()
    assert os.listdir(tmp_path) == ["measure"]
    m.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("benchmark", [b for b in BENCHMARKS if b.group == "network"], ids=lambda b: b.name)
async def test_network_is_measured_to_the_bridges_address(
    benchmark: Benchmark, kit: MeasuringKit, tmp_path: Path, bridge: str
) -> None:
    m = measurer(tmp_path, kit)
    reply = await measured(m, call(kit, benchmark.name, bridge=bridge))
    found = advice.values(benchmark.name, reply.output)
    assert set(found) == {i.name for i in benchmark.metrics}
    assert all(v > 0 for v in found.values())
    assert "198.18.77.1" in reply.command
    m.close()


async def test_facts_tell_what_the_server_is(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    found = advice.facts((await m.run(call(kit, FACTS))).output)
    assert found["kernel"] == os.uname().release
    assert int(found["cpus"]) == len(os.sched_getaffinity(0))
    assert int(found["memoryMiB"]) > 0
    assert {"cpuModel", "governor", "smt", "virtual"} <= set(found)
    m.close()


async def test_clean_takes_the_kit_away(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    await m.run(call(kit, FACTS))
    assert (tmp_path / "measure" / "kit" / "run").exists()
    await m.run(call(kit, CLEAN))
    assert not (tmp_path / "measure").exists()
    m.close()


async def test_an_agent_that_starts_anew_removes_what_was_left(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    await m.run(call(kit, FACTS))
    Measurer(tmp_path / "measure", _nobody, dict, None, "kvm")  # type: ignore[arg-type]
    assert not (tmp_path / "measure").exists()
    m.close()


async def test_a_missing_tool_is_named_with_its_remedy(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    await m.run(call(kit, FACTS))
    (tmp_path / "measure" / "kit" / "bin" / "fio").unlink()
    with pytest.raises(MeasuringFailed, match=r"fio is missing in the measuring kit; .*measure"):
        await m.run(call(kit, "disk-read"))
    m.close()


async def test_too_little_room_is_said_with_the_numbers(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    with pytest.raises(MeasuringFailed, match=r"MiB free, the scratch file needs 1000000000 .*smaller --scratch"):
        await m.run(call(kit, "disk-read", scratch_mib=1_000_000_000))
    m.close()


async def test_a_pool_that_is_not_served_is_named(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    with pytest.raises(MeasuringFailed, match=r"disk pool fast is not served here \(served: local\)"):
        await m.run(call(kit, "disk-read", disk_pool="fast"))
    m.close()


async def test_a_benchmark_that_hangs_is_ended(
    kit: MeasuringKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bedplate.agent.measuring.limit", lambda seconds: 0.5)
    m = measurer(tmp_path, kit)
    began = time.monotonic()
    with pytest.raises(MeasuringFailed, match=r"cpu-one on this server hung and was ended"):
        await m.run(call(kit, "cpu-one", seconds=60))
    assert time.monotonic() - began < 20
    assert _tools_in(tmp_path) == []
    m.close()


async def test_runs_that_come_together_take_turns(kit: MeasuringKit, tmp_path: Path) -> None:
    m = measurer(tmp_path, kit)
    began = time.monotonic()
    replies = await asyncio.gather(*(m.run(call(kit, "cpu-one")) for _ in range(2)))
    assert all(advice.values("cpu-one", r.output)["cpu-one"] > 0 for r in replies)
    assert time.monotonic() - began > 2 * (1 + 2), "a second each, and the looks at the load before and after"
    m.close()


async def test_a_bare_node_measures_itself(kit: MeasuringKit, tmp_path: Path) -> None:
    node = NodeIdentity(uid=MachineUid("u"), generation=Generation(1), name="db-1", server=ServerName("metal1"))
    who = Identity(server=ServerName("metal1"), store=StoreId("s"), controller="", host_uuid="b", renew_at=0.0)
    m = Measurer(tmp_path / "measure", _nobody, lambda: {"": tmp_path}, None, "")  # type: ignore[arg-type]
    stage(tmp_path, kit)
    role = NodeRole(AgentState(tmp_path / "state"), who, node, LocalMachine(tmp_path), m)
    entry = MachineEntry(
        uid=node.uid, name="db-1", namespace="default", owner=key("nodepool", "default", "db"), substrate="metal",
        server=node.server, cpu=1, memory_mib=1, disk_mib=1, disk_pool="",
        image=ImageRef(name="i", disk=Digest(kit.digest)),
        nic=Nic(network="n", bridge="", mac="", address="", prefix=24),
    )  # fmt: skip
    reply = await role.measure(call(kit, "disk-write", machine=entry))
    assert reply.error == ""
    assert advice.values("disk-write", reply.output)["disk-write"] > 0
    assert reply.accelerator == ""
    other = msgspec.structs.replace(entry, uid=MachineUid("v"))
    assert "is machine u, not v" in (await role.measure(call(kit, "cpu-one", machine=other))).error
    assert "measure machine/db-1" in (await role.measure(call(kit, "cpu-one"))).error
    m.close()


def test_a_killed_agent_takes_its_tool_and_its_scratch_file_along(kit: MeasuringKit, tmp_path: Path) -> None:
    """SIGKILL: no handler runs; the kernel ends the tool, and the file had no name any more."""
    pool = tmp_path / "pool"
    pool.mkdir()
    program = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from tests.contract.test_measuring_kit import call, measurer
        from bedplate.drivers.artifacts.measuring_kit import find_measuring_kit
        kit = find_measuring_kit()
        m = measurer(Path(sys.argv[1]), kit, Path(sys.argv[2]))
        asyncio.run(m.run(call(kit, "disk-random-write", seconds=100, scratch_mib=32, deadline=300.0)))
    """)
    agent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(pool)])
    try:
        _until(lambda: any("runtime=100" in c for c in _tools_in(tmp_path)), agent)
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    _until(lambda: _tools_in(tmp_path) == [])
    assert list(pool.iterdir()) == []


def _until(condition: object, alive: subprocess.Popen[bytes] | None = None, seconds: float = 60.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive.poll() is None, "it ended before"
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def _tools_in(folder: Path) -> list[str]:
    """Command lines of the processes that run a kit of that folder."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(f"{folder}/measure/kit/bin/{tool}" in line for tool in TOOLS):
                found.append(line)
    return found
