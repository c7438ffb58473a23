"""A bare server's agent from its start to a node's: the real process, the real connection, disks on loop devices."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bare_disks import METAL1, MIB, machine, on_esp
from bare_rig import BOARD, PATIENCE, STORE, bare_server

from bedplate.agent.ram.esp import marker
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.ids import Epoch, Generation, MachineUid
from bedplate.model.inventory import MetalView
from bedplate.model.metal import Disk
from bedplate.model.metal_protocol import RamSettings
from bedplate.model.steps import (
    Done,
    EraseDisks,
    Failed,
    InspectServer,
    PullImage,
    Refused,
    RunTests,
    Unknown,
    WriteImage,
)

pytestmark = [pytest.mark.lab]


async def test_a_server_tells_which_boot_it_is_and_what_is_in_it() -> None:
    async with bare_server() as bare:
        await bare.start(run=7)
        await bare.until(lambda: bare.is_up("ram", 7))
        view = bare.view()
        assert (view.host_uuid, view.error) == (BOARD, "")
        assert view.cpus > 0
        assert view.memory_mib > 0
        assert view.boot_id
        assert view.address == "127.0.0.1"
        assert bare.metal() == MetalView(server=METAL1, run=7)
        done = await bare.run(InspectServer(entry=bare.entry(run=7, state="inspecting")))
        assert isinstance(done, Done)
        found = bare.hardware()
        assert done.views == (bare.metal(),), "it was told before it was answered"
        assert [(d.serial, d.size, d.content) for d in found.disks] == [
            ("root", 160 * MIB, ()),
            ("other", 96 * MIB, ()),
        ]
        assert found.threads > 0
        assert "libvirt" not in bare.said.read_text()


async def test_a_person_has_a_shell_that_ends_with_the_stream() -> None:
    async with bare_server() as bare:
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        with pytest.raises(OSError, match="no machine runs on it"):
            await bare.server.console(METAL1, MachineUid("somebody"))
        shell = await bare.server.console(METAL1, MachineUid(""))
        heard = b""
        async with asyncio.timeout(PATIENCE):
            await shell.write(b"tty; echo pid-$$-end; id -u\n")
            while not (found := re.search(rb"/dev/pts/\d+\s+pid-(\d+)-end\s+0\s", heard)):
                got = await shell.read()
                assert got, f"the shell ended after {heard!r}"
                heard += got
        process = os.pidfd_open(int(found[1]))
        await shell.close()
        ended, _, _ = await asyncio.to_thread(select.select, [process], [], [], PATIENCE)
        os.close(process)
        assert ended, "it is hung up"
        again = await bare.server.console(METAL1, MachineUid(""))
        await again.write(b"exit\n")
        async with asyncio.timeout(PATIENCE):
            while await again.read():
                pass


async def test_twins_are_named_and_never_written() -> None:
    async with bare_server() as bare:
        bare.show([bare.root.device(), msgspec.structs.replace(bare.other.device(), serial="root")])
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        await bare.run(InspectServer(entry=bare.entry()))
        assert any("same serial number root" in p for p in bare.hardware().problems)
        assert bare.hardware().disk("root") is None
        result = await bare.run(WriteImage(entry=bare.entry(), machine=machine(bare.image.ref)))
        assert isinstance(result, Failed)
        assert (result.reason, result.permanent) == ("DiskAmbiguous", True)
        erased = await bare.run(EraseDisks(entry=bare.entry()))
        assert isinstance(erased, Done)
        assert bare.metal().erased is not None
        assert not bare.metal().erased.proven  # type: ignore[union-attr]
        assert not any(bare.root.content())
        assert not any(bare.other.content())


async def test_an_agent_that_is_killed_in_the_middle_goes_on_where_it_was() -> None:
    async with bare_server() as bare:
        bare.images.halt()
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        step = WriteImage(entry=bare.entry(), machine=machine(bare.image.ref))
        writing = asyncio.create_task(bare.run(step))
        await bare.until(lambda: bare.metal().task == "write" and bare.metal().progress >= 0.2)
        await bare.end(signal.SIGKILL)
        assert marker(bare.root.device()) is None
        assert bare.root.content(0, 4 * MIB) == bytes(4 * MIB), "no half of a disk can be booted"
        bare.images.halt(False)
        await bare.start(enrol=False)
        result = await writing
        assert isinstance(result, Done), result
        assert "goes on after" in bare.said.read_text()
        assert bare.metal().written == marker(bare.root.device())
        assert bare.metal().written is not None
        assert bare.metal().task == ""
        assert bare.root.content(41 * MIB, 70 * MIB) == bare.image.raw.read_bytes()[41 * MIB : 111 * MIB]
        progress = [v.progress for v in bare.told if isinstance(v, MetalView) and v.task == "write"]
        assert all(abs(p * 20 - round(p * 20)) < 1e-6 for p in progress), "told in twentieths"


async def test_power_that_is_lost_in_the_middle_has_it_begin_anew() -> None:
    async with bare_server() as bare:
        bare.images.halt()
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        step = WriteImage(entry=bare.entry(), machine=machine(bare.image.ref))
        writing = asyncio.create_task(bare.run(step))
        await bare.until(lambda: bare.metal().progress >= 0.2)
        await bare.lose_power()
        bare.images.halt(False)
        await bare.start(run=2)
        await bare.until(lambda: bare.is_up("ram", 2))
        assert bare.metal().written is None
        assert isinstance(await writing, Refused), "what was asked of the boot before is not this one's"
        done = await bare.run(WriteImage(entry=bare.entry(run=2), machine=machine(bare.image.ref)))
        assert isinstance(done, Done), done
        await bare.lose_power()
        await bare.start(run=3)
        await bare.until(lambda: bare.is_up("ram", 3))
        assert bare.metal().written == marker(bare.root.device()) is not None, "a later boot tells of it too"


async def test_a_repeated_step_attaches_and_a_deadline_leaves_it_at_work() -> None:
    async with bare_server() as bare:
        bare.images.halt()
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        step = WriteImage(entry=bare.entry(), machine=machine(bare.image.ref))
        first = await bare.run(step, operation="w-1", deadline=1.0)
        assert isinstance(first, Unknown)
        assert bare.metal().task == "write"
        second = asyncio.create_task(bare.run(step, operation="w-2"))
        third = asyncio.create_task(bare.run(step, operation="w-3"))
        bare.images.halt(False)
        assert isinstance(await second, Done)
        assert isinstance(await third, Done)
        begun = [v for v in bare.told if isinstance(v, MetalView) and v.task == "write" and v.progress == 0]
        assert len(begun) == 1
        assert isinstance(await bare.run(step, operation="w-2"), Done)


async def test_another_step_has_the_running_one_given_up() -> None:
    async with bare_server() as bare:
        bare.images.halt()
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        await bare.run(InspectServer(entry=bare.entry()))
        write = asyncio.create_task(bare.run(WriteImage(entry=bare.entry(), machine=machine(bare.image.ref))))
        await bare.until(lambda: bare.metal().progress >= 0.2)
        erased = await bare.run(EraseDisks(entry=bare.entry(state="erasing")))
        given_up = await write
        assert isinstance(given_up, Failed)
        assert given_up.reason == "GivenUp"
        assert isinstance(erased, Done)
        assert bare.metal().erased is not None
        assert bare.metal().erased.proven  # type: ignore[union-attr]
        assert not any(bare.root.content())


async def test_who_is_out_of_date_is_refused() -> None:
    async with bare_server() as bare:
        bare.epoch = Epoch(4)
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        assert isinstance(await bare.run(InspectServer(entry=bare.entry(generation=Generation(6)))), Done)
        bare.epoch = Epoch(3)
        refused = await bare.run(RunTests(entry=bare.entry(generation=Generation(6))))
        assert isinstance(refused, Refused)
        assert "epoch 4" in refused.message
        bare.epoch = Epoch(4)
        older = await bare.run(RunTests(entry=bare.entry(generation=Generation(5))))
        assert isinstance(older, Refused)
        assert "6 was seen" in older.message
        strange = await bare.run(PullImage(server=METAL1, disk_pool="local", image=bare.image.ref))
        assert isinstance(strange, Failed)
        assert strange.reason == "NotAHypervisor"


async def test_the_quick_tests_pass_and_change_nothing() -> None:
    async with bare_server() as bare:
        bare.root.fill(b"precious" * (20 * MIB))
        before = bare.root.content()
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        done = await bare.run(RunTests(entry=bare.entry(state="testing")))
        assert isinstance(done, Done), done
        tests = bare.metal().tests
        assert tests is not None
        assert tests.verdict == "passed", tests
        assert {t.name for t in tests.tests} == {"cpu", "memory", "disk root", "disk other", "network"}
        assert all(t.value > 0 for t in tests.tests), tests
        assert tests.began < tests.ended
        assert bare.root.content() == before


async def test_an_erasure_is_proven_by_what_is_read_back_and_by_nothing_else() -> None:
    async with bare_server() as bare:
        bare.tool("blkdiscard", "exit 0")  # a disk that says yes and does nothing
        for disk in (bare.root, bare.other):
            disk.fill(b"secret!!" * (10 * MIB))
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        await bare.run(InspectServer(entry=bare.entry()))
        only_root = msgspec.structs.replace(
            bare.hardware(), disks=tuple(d for d in bare.hardware().disks if d.serial == "root")
        )
        done = await bare.run(EraseDisks(entry=bare.entry(hardware=only_root)))
        assert isinstance(done, Done)
        erased = bare.metal().erased
        assert erased is not None
        assert erased.proven
        assert erased.machine == machine(bare.image.ref).uid
        (certificate,) = erased.disks
        assert (certificate.method, certificate.checked) == ("overwrite", 160 * MIB)
        assert "something is left" in certificate.detail, "what did not do is told"
        assert not any(bare.root.content())
        assert bare.other.content(0, 8) == b"secret!!", "a disk that was not named is not touched"


async def test_a_disk_that_can_not_be_erased_is_named_and_not_claimed_clean() -> None:
    async with bare_server() as bare:
        bare.other.fill(b"secret!!" * (10 * MIB))
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        await bare.run(InspectServer(entry=bare.entry()))
        gone = Disk(serial="gone", size=1 << 30)
        hardware = msgspec.structs.replace(bare.hardware(), disks=(*bare.hardware().disks, gone))
        await run("blockdev", "--setro", bare.other.path)
        try:
            done = await bare.run(EraseDisks(entry=bare.entry(hardware=hardware)))
        finally:
            await run("blockdev", "--setrw", bare.other.path)
        assert isinstance(done, Done)
        assert "other" in done.message
        assert "gone" in done.message
        erased = bare.metal().erased
        assert erased is not None
        assert not erased.proven
        assert {d.serial: d.erased for d in erased.disks} == {"root": True, "other": False, "gone": False}
        assert all(d.detail for d in erased.disks if not d.erased)
        assert bare.other.content(0, 8) == b"secret!!"


async def run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == 0


async def test_the_node_follows_the_ram_system_under_the_same_name() -> None:
    async with bare_server() as bare:
        await bare.start()
        await bare.until(lambda: bare.is_up("ram", 1))
        entry = machine(bare.image.ref)
        assert isinstance(await bare.run(WriteImage(entry=bare.entry(), machine=entry)), Done)
        await bare.end(signal.SIGTERM)
        credentials = bare.folder / "credentials"
        credentials.mkdir()
        for name in ("bedplate.enrol", "bedplate.machine"):
            (credentials / name).write_bytes(on_esp(bare.root, f"loader/credentials/{name}.cred") or b"")
        file = msgspec.json.decode((credentials / "bedplate.enrol").read_bytes(), type=EnrolFile)
        assert (file.server, file.store) == (METAL1, STORE)
        await bare.start_node(credentials)
        await bare.until(lambda: bare.is_up("node"))
        domain = bare.domain(entry.uid)
        assert domain is not None
        assert (domain.state, domain.guest_agent, domain.volume, domain.generation) == ("running", True, True, 3)
        assert bare.metal().run == 0, "what the RAM system told is gone with it"
        await bare.use_node(entry)
        (credentials / "bedplate.enrol").unlink()
        await bare.end(signal.SIGTERM)
        await bare.until(lambda: not bare.view().connected)
        await bare.start_node(credentials)
        await bare.until(lambda: bare.is_up("node"))
        await bare.end(signal.SIGTERM)
        await bare.until(lambda: not bare.view().connected)
        await bare.start(enrol=False)  # the RAM system of before, with its own certificate
        await bare.until_said("refuses this agent")
        assert not bare.is_up("ram", 1)


async def test_an_earlier_boot_does_not_come_back_beside_a_later_one() -> None:
    async with bare_server() as bare:
        await bare.start(run=2)
        await bare.until(lambda: bare.is_up("ram", 2))
        await bare.end()
        await bare.until(lambda: not bare.view().connected)
        settings = bare.folder / "settings.json"
        read = msgspec.json.decode(settings.read_bytes(), type=RamSettings)
        settings.write_bytes(msgspec.json.encode(msgspec.structs.replace(read, run=1)))
        await bare.start(enrol=False)
        await bare.until_said("it is of the past")
        assert not bare.is_up("ram", 1)


async def test_a_node_of_a_disk_that_is_no_node_s_says_so(tmp_path: Path) -> None:
    async with bare_server() as bare:
        await bare.start_node(tmp_path)
        assert bare.process is not None
        assert await bare.process.wait() == 1
        assert "there is no credential bedplate.machine" in bare.said.read_text()
