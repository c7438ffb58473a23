"""Bare servers' media over the agents' real listener: what a BMC gets without a certificate, and what nobody gets."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import sys
import tempfile
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).parent))

from memory_store import FileImages, MemorySecrets

from bedplate.agent.enrol import enrol, tls_context
from bedplate.agent.state import AgentState
from bedplate.drivers.agents.authority import TOKEN_SECONDS
from bedplate.drivers.agents.server import AgentServer
from bedplate.drivers.netboot.media import BOOT_SECONDS, OFFERS, Media, Medium
from bedplate.model.agent_protocol import (
    CONTROLLER_NAME,
    PROTOCOL_VERSION,
    WEBSOCKET_PATH,
    FromController,
    Hello,
    Welcome,
)
from bedplate.model.blueprint import BmcRef, MetalEntry, Nic
from bedplate.model.ids import Epoch, ServerName, StoreId
from bedplate.model.inventory import ServerView
from bedplate.model.metal_protocol import SETTINGS_MAGIC, SETTINGS_SIZE, RamSettings, read_settings
from bedplate.ports import NotOffered

OFFSET = 300_000
SIZE = 1_000_003


class Site:
    """A controller's listener with media, and a RAM system of random bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        blank = SETTINGS_MAGIC.ljust(SETTINGS_SIZE, b"\n")
        self.built = os.urandom(OFFSET) + blank + os.urandom(SIZE - OFFSET - SETTINGS_SIZE)
        self.file = folder / "ram-1.iso"
        self.file.write_bytes(self.built)
        self.now = time.time()
        self.secrets = MemorySecrets()
        self._begin("127.0.0.1:0")

    def _begin(self, address: str) -> None:
        where = lambda: f"https://{self.agents.addresses[0]}"  # noqa: E731
        self.media = Media(self.secrets, self._find, self._enrol, where, clock=lambda: self.now)
        self.agents = AgentServer(
            listen=[address],
            store=StoreId("s"),
            epoch=lambda: Epoch(1),
            secrets=self.secrets,
            sink=lambda source, observations, *, full=False: None,
            images=FileImages({}),
            pools_for=lambda _: (),
            media=self.media,
        )

    async def restart(self) -> None:
        """Another process takes over where this one ends."""
        address = self.agents.addresses[0]
        await self.agents.stop()
        self._begin(address)
        await self.agents.start()

    def _find(self) -> Medium | None:
        return Medium(self.file, OFFSET) if self.file.exists() else None

    async def _enrol(self, entry: MetalEntry) -> bytes:
        return await self.agents.enrolment(entry.server, controller="10.0.0.1:7444", replace=True)

    async def ask(
        self, url: str, method: str = "GET", wanted: str = "", *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """As a BMC asks: without a certificate, and without looking at the other's."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = newest
        host, _, path = url.removeprefix("https://").partition("/")

        def request() -> tuple[http.client.HTTPResponse, bytes]:
            connection = http.client.HTTPSConnection(host, context=context, timeout=20)
            try:
                connection.request(method, f"/{path}", headers={"Range": wanted} if wanted else {})
                response = connection.getresponse()
                return response, response.read()
            finally:
                connection.close()

        return await to_thread(request)

    async def come_up(self, told: RamSettings) -> None:
        """As the RAM system that was booted with these settings: it enrols, says which boot it is, and goes."""
        file = msgspec.structs.replace(told.enrol, controller=self.agents.addresses[0])
        state = AgentState(Path(tempfile.mkdtemp(dir=self.folder)))
        identity = await to_thread(enrol, state, file, "board")
        view = ServerView(server=identity.server, connected=True, system="ram", run=told.run, host_uuid="board")
        context = tls_context(file.ca, state)
        uri = f"wss://{identity.controller}{WEBSOCKET_PATH}"
        async with connect(uri, ssl=context, server_hostname=CONTROLLER_NAME, proxy=None, compression=None) as link:
            await link.send(msgspec.msgpack.encode(Hello(protocol=PROTOCOL_VERSION, server=view)))
            assert isinstance(msgspec.msgpack.decode(await link.recv(), type=FromController), Welcome)

    async def settings(self, url: str) -> RamSettings:
        _, body = await self.ask(url)
        return read_settings(body[OFFSET : OFFSET + SETTINGS_SIZE])


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="bp-"))
    made = Site(folder)
    await made.agents.start()
    try:
        yield made
    finally:
        await made.agents.stop()
        shutil.rmtree(folder)


def entry(server: str = "m1", run: int = 1) -> MetalEntry:
    nic = Nic(network="lan", bridge="", mac="52:54:00:00:00:01", address="10.0.0.9", prefix=24, gateway="10.0.0.1",
              name_servers=("10.0.0.2",), mtu=9000)  # fmt: skip
    bmc = BmcRef(address="redfish+https://10.0.0.7/redfish/v1/Systems/1", secret="default/bmc")
    return MetalEntry(server=ServerName(server), uid="u1", state="inspecting", since=0.0, bmc=bmc, nic=nic, run=run)


async def test_a_medium_is_the_built_one_with_the_servers_own_settings_in_their_place(site: Site) -> None:
    url = await site.media.offer(entry(run=7))
    response, body = await site.ask(url)
    assert response.status == 200
    assert response.headers["Content-Length"] == str(SIZE)
    assert len(body) == SIZE
    assert body[:OFFSET] == site.built[:OFFSET]
    assert body[OFFSET + SETTINGS_SIZE :] == site.built[OFFSET + SETTINGS_SIZE :]
    told = read_settings(body[OFFSET : OFFSET + SETTINGS_SIZE])
    assert (told.run, told.mac, told.address, told.gateway) == (7, "52:54:00:00:00:01", "10.0.0.9/24", "10.0.0.1")
    assert (told.name_servers, told.mtu) == (("10.0.0.2",), 9000)
    assert (told.enrol.server, told.enrol.controller) == ("m1", "10.0.0.1:7444")
    assert told.enrol.token
    assert site.file.read_bytes() == site.built


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 0),
        (OFFSET - 1, OFFSET),
        (OFFSET - 10, OFFSET + SETTINGS_SIZE + 10),
        (OFFSET + 5, OFFSET + 9),
        (OFFSET + SETTINGS_SIZE - 1, OFFSET + SETTINGS_SIZE),
        (SIZE - 1, SIZE - 1),
    ],
)
async def test_each_range_is_that_part_of_the_whole(site: Site, first: int, last: int) -> None:
    url = await site.media.offer(entry())
    _, whole = await site.ask(url)
    response, body = await site.ask(url, wanted=f"bytes={first}-{last}")
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert body == whole[first : last + 1]


@pytest.mark.parametrize(
    ("wanted", "status", "length"),
    [
        ("bytes=999990-", 206, 13),
        ("bytes=-5", 206, 5),
        ("bytes=0-99999999", 206, SIZE),
        (f"bytes={SIZE}-", 416, 0),
        ("bytes=9-3", 416, 0),
        ("bytes=x-", 416, 0),
    ],
)
async def test_ranges_at_the_ends_and_beyond(site: Site, wanted: str, status: int, length: int) -> None:
    response, body = await site.ask(await site.media.offer(entry()), wanted=wanted)
    assert (response.status, len(body)) == (status, length)


async def test_head_tells_the_size_and_sends_nothing(site: Site) -> None:
    response, body = await site.ask(await site.media.offer(entry()), "HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, str(SIZE), b"")
    assert response.headers["Accept-Ranges"] == "bytes"


async def test_a_bmc_that_knows_only_tls_1_2_gets_it_too(site: Site) -> None:
    response, body = await site.ask(await site.media.offer(entry()), newest=ssl.TLSVersion.TLSv1_2)
    assert (response.status, len(body)) == (200, SIZE)


async def test_asked_again_it_is_the_same_and_each_boot_has_its_own(site: Site) -> None:
    first = await site.media.offer(entry())
    assert await site.media.offer(entry()) == first
    token = (await site.settings(first)).enrol.token
    second = await site.media.offer(entry(run=2))
    assert second != first
    assert (await site.ask(first))[0].status == 404
    told = await site.settings(second)
    assert told.run == 2
    assert told.enrol.token != token


async def test_a_boot_that_is_repeated_gets_a_token_that_nobody_can_have_spent(site: Site) -> None:
    first = await site.media.offer(entry())
    await site.ask(first, wanted=f"bytes=0-{OFFSET - 1}")
    await site.ask(first, "HEAD")
    assert await site.media.offer(entry()) == first
    token = (await site.settings(first)).enrol.token
    again = await site.media.offer(entry())
    told = await site.settings(again)
    assert again != first
    assert told.run == 1
    assert told.enrol.token != token
    assert (await site.ask(first))[0].status == 404


async def test_a_medium_is_given_out_as_long_as_its_token_is_good(site: Site) -> None:
    url = await site.media.offer(entry())
    site.now += TOKEN_SECONDS - 1
    assert (await site.ask(url, "HEAD"))[0].status == 200
    site.now += 1
    assert (await site.ask(url, "HEAD"))[0].status == 404


async def test_a_restarted_controller_goes_on_giving_out_the_same_medium(site: Site) -> None:
    url = await site.media.offer(entry())
    _, before = await site.ask(url, wanted=f"bytes=0-{OFFSET - 1}")
    await site.restart()
    response, after = await site.ask(url, wanted=f"bytes={OFFSET}-")
    assert response.status == 206
    assert (before + after)[:OFFSET] == site.built[:OFFSET]
    told = read_settings(after[:SETTINGS_SIZE])
    assert (told.run, told.enrol.server) == (1, "m1")
    await site.restart()
    assert (await site.settings(url)) == told
    await site.come_up(told)
    await site.restart()
    assert (await site.ask(url))[0].status == 404


async def test_a_restarted_controller_offers_what_nobody_has_read_and_nothing_else(site: Site) -> None:
    url = await site.media.offer(entry())
    await site.restart()
    assert await site.media.offer(entry()) == url
    await site.settings(url)
    await site.restart()
    assert await site.media.offer(entry()) != url


async def test_what_is_over_is_kept_nowhere(site: Site) -> None:
    for server in ("m1", "m2", "m3"):
        await site.media.offer(entry(server))
    await site.media.withdraw(ServerName("m1"))
    assert site.secrets.list_secrets(OFFERS) == [f"{OFFERS}m2", f"{OFFERS}m3"]
    site.now += TOKEN_SECONDS
    await site.media.offer(entry("m4"))
    assert site.secrets.list_secrets(OFFERS) == [f"{OFFERS}m4"]


async def test_no_boot_begins_with_a_token_that_ends_soon(site: Site) -> None:
    first = await site.media.offer(entry())
    token = (await site.settings(first)).enrol.token
    unread = await site.media.offer(entry(run=2))
    site.now += TOKEN_SECONDS - BOOT_SECONDS
    assert await site.media.offer(entry(run=2)) == unread
    site.now += 1
    again = await site.media.offer(entry(run=2))
    assert again != unread
    assert (await site.settings(again)).enrol.token != token


async def test_a_server_that_has_come_up_needs_its_medium_no_more(site: Site) -> None:
    one, other = await site.media.offer(entry("m1", run=2)), await site.media.offer(entry("m2", run=2))
    told = await site.settings(one)
    await site.come_up(msgspec.structs.replace(told, run=1))
    assert (await site.ask(one, "HEAD"))[0].status == 200, "an earlier boot is another one"
    again = await site.media.offer(entry("m1", run=2))
    await site.come_up(await site.settings(again))
    assert (await site.ask(again, "HEAD"))[0].status == 404
    assert (await site.ask(other, "HEAD"))[0].status == 200


async def test_servers_have_media_of_their_own(site: Site) -> None:
    one, other = await site.media.offer(entry("m1")), await site.media.offer(entry("m2"))
    assert (await site.settings(one)).enrol.server == "m1"
    assert (await site.settings(other)).enrol.server == "m2"
    await site.media.withdraw(ServerName("m1"))
    assert (await site.ask(one))[0].status == 404
    assert (await site.ask(other))[0].status == 200


async def test_who_does_not_know_the_path_gets_nothing(site: Site) -> None:
    url = await site.media.offer(entry())
    base = url[: url.index("/media/")]
    for path in ("/media/", "/media/ram.iso", "/media/x/ram.iso", "/media/../ram.iso", "/blobs/sha256:00"):
        assert (await site.ask(base + path))[0].status in {403, 404}
    assert (await site.ask(url, "POST"))[0].status == 404


async def test_without_a_built_ram_system_it_is_said_what_builds_it(site: Site) -> None:
    site.file.unlink()
    with pytest.raises(NotOffered, match="bedplate image build --ram"):
        await site.media.offer(entry())


async def test_a_medium_whose_file_is_gone_is_not_found_and_offered_anew_once_it_is_built(site: Site) -> None:
    url = await site.media.offer(entry())
    site.file.unlink()
    assert (await site.ask(url))[0].status == 404
    site.file = site.folder / "ram-2.iso"
    site.file.write_bytes(site.built)
    again = await site.media.offer(entry())
    assert again != url
    assert (await site.settings(again)).run == 1


async def test_no_log_tells_path_or_token(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    url = await site.media.offer(entry())
    told = await site.settings(url)
    site.file.unlink()
    await site.ask(url)
    assert url.split("/")[-2] not in caplog.text
    assert told.enrol.token not in caplog.text
