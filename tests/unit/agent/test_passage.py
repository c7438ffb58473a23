"""The way from one libvirt to another: both ends prove who they are, and only who is awaited comes in."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from enrolling import Listening, listening

from bedplate.agent.certificates import MoveCertificates, qemu_folder
from bedplate.agent.enrol import enrol
from bedplate.agent.passage import Passage, libvirt_socket
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.ids import ServerName

HV1, HV2 = ServerName("hv1"), ServerName("hv2")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ends:
    """Two enrolled agents with a way between them, and a libvirt that answers in capitals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.awaited = {HV1}
        self.states: dict[ServerName, AgentState] = {}
        self.passages: dict[ServerName, Passage] = {}
        self.came = 0

    async def up(self, controller: Listening) -> None:

        for server in (HV1, HV2):
            made = await controller.server.enrolment(server)
            state = self.states[server] = AgentState(self.folder / server)
            await asyncio.to_thread(enrol, state, msgspec.json.decode(made, type=EnrolFile), f"board-of-{server}")
            self.passages[server] = self.passage(state)

    def passage(self, state: AgentState) -> Passage:
        return Passage(
            state,
            lambda: f"{self.folder}/libvirt",
            lambda server: server in self.awaited,
            self.folder / "moves",
            port=self.port,
        )

    async def libvirt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()


@asynccontextmanager
async def two_ends(folder: Path) -> AsyncIterator[Ends]:
    async with listening(folder) as controller:
        ends = Ends(folder)
        await ends.up(controller)
        libvirt = await asyncio.start_unix_server(ends.libvirt, f"{folder}/libvirt")
        try:
            yield ends
        finally:
            for passage in ends.passages.values():
                await passage.stop()
            libvirt.close()


async def ask(path: str, words: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(words)
    try:
        async with asyncio.timeout(30):
            return await reader.read(100)
    finally:
        writer.close()


async def test_libvirts_reach_each_other_while_a_machine_is_awaited(tmp_path: Path) -> None:
    async with two_ends(tmp_path) as ends:
        with pytest.raises(OSError):  # noqa: PT011 - nobody listens yet
            async with ends.passages[HV1].to(HV2, "127.0.0.1"):
                pass
        await ends.passages[HV2].listen("127.0.0.1")
        async with ends.passages[HV1].to(HV2, "127.0.0.1") as path:
            assert await ask(path, b"hello") == b"HELLO"
            assert await ask(path, b"again") == b"AGAIN"  # libvirt may dial more than once
        with pytest.raises(OSError):  # noqa: PT011 - the socket is gone with the move
            await ask(path, b"late")
        ends.passages[HV2].close()
        with pytest.raises(OSError):  # noqa: PT011
            async with ends.passages[HV1].to(HV2, "127.0.0.1"):
                pass


async def test_who_is_not_awaited_is_shown_the_door(tmp_path: Path) -> None:
    async with two_ends(tmp_path) as ends:
        ends.awaited.clear()
        await ends.passages[HV2].listen("127.0.0.1")
        async with ends.passages[HV1].to(HV2, "127.0.0.1") as path:
            assert await ask(path, b"hello") == b""
        assert ends.came == 0


async def test_another_server_at_that_address_is_not_taken_for_the_target(tmp_path: Path) -> None:
    async with two_ends(tmp_path) as ends:
        await ends.passages[HV2].listen("127.0.0.1")
        with pytest.raises(OSError, match=r"[Hh]ostname mismatch|certificate"):
            async with ends.passages[HV1].to(ServerName("hv3"), "127.0.0.1"):
                pass


async def test_a_server_of_another_store_does_not_come_in(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with two_ends(tmp_path / "a") as ends, two_ends(tmp_path / "b") as others:
        await ends.passages[HV2].listen("127.0.0.1")
        others.states[HV1].ca_file.write_bytes(ends.states[HV1].ca_file.read_bytes())  # it would trust us
        stranger = others.passage(others.states[HV1])
        stranger._port = ends.port
        answers: list[Any] = []
        try:
            async with stranger.to(HV2, "127.0.0.1") as path:
                answers.append(await ask(path, b"hello"))
        except OSError as error:
            answers.append(error)
        assert answers[0] == b"" or isinstance(answers[0], OSError)
        assert ends.came == 0


def test_libvirts_socket_is_the_one_that_its_uri_names() -> None:
    assert libvirt_socket("qemu:///system?socket=/tmp/lab/sock") == "/tmp/lab/sock"
    assert libvirt_socket("qemu:///system").startswith("/run/libvirt/")


async def test_certificates_lie_where_qemu_looks_and_others_are_not_touched(tmp_path: Path) -> None:
    async with two_ends(tmp_path) as ends:
        state = ends.states[HV1]
        folder = tmp_path / "pki"
        made = MoveCertificates(state, folder)
        assert not made.ready
        made.install()
        assert made.ready
        assert (folder / "server-key.pem").read_bytes() == state.key_file.read_bytes()
        assert (folder / "server-key.pem").stat().st_mode & 0o077 in {0, 0o040}
        state.certificate_file.write_text("renewed")
        made.install()
        assert (folder / "client-cert.pem").read_text() == "renewed"
        (folder / "ca-cert.pem").write_text("another authority")
        state.certificate_file.write_text("renewed again")
        made.install()
        assert (folder / "client-cert.pem").read_text() == "renewed"


def test_qemus_folder_is_the_one_that_its_configuration_names(tmp_path: Path) -> None:
    conf = tmp_path / "qemu.conf"
    assert qemu_folder(conf) == Path("/etc/pki/qemu")
    conf.write_text('# migrate_tls_x509_cert_dir = "/no"\ndefault_tls_x509_cert_dir = "/a"\n')
    assert qemu_folder(conf) == Path("/a")
    conf.write_text('default_tls_x509_cert_dir = "/a"\n  migrate_tls_x509_cert_dir="/b"\n')
    assert qemu_folder(conf) == Path("/b")
