"""Servers that boot from the network: who is answered by DHCP, and what a boot loader is given over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from memory_store import MemorySecrets

from bedplate.drivers.netboot.dhcp import LOADER, DhcpServer, configuration
from bedplate.drivers.netboot.files import FileServer
from bedplate.drivers.netboot.media import Media, Medium, Parts
from bedplate.drivers.netboot.network import NetworkBoot, NetworkBootFailed
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import BmcRef, MetalEntry, Nic
from bedplate.model.ids import ServerName, StoreId
from bedplate.model.metal_protocol import read_settings
from bedplate.ports import NotOffered

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
M1, M2 = ServerName("m1"), ServerName("m2")


class Known:
    """Stands for DHCP."""

    def __init__(self) -> None:
        self.servers: dict[str, tuple[str, str]] = {}

    def admit(self, server: ServerName, mac: str, address: str) -> None:
        self.servers[server] = (mac, address)

    def dismiss(self, server: ServerName) -> None:
        self.servers.pop(server, None)


class Site:
    """A controller's HTTP for the network, with a RAM system of a few bytes."""

    def __init__(self, folder: Path) -> None:
        for name in ("kernel", "initrd", "system.cpio", LOADER):
            (folder / name).write_bytes(name.encode() * 1000)
        paths = [str(folder / name) for name in ("kernel", "initrd", "system.cpio")]
        parts = Parts(*paths, "quiet console=ttyS0")
        self.medium: Medium | None = Medium(folder / "kernel", 0, parts)
        self.secrets, self.known = MemorySecrets(), Known()
        self.http = FileServer("127.0.0.1", 0, self, lambda: folder / LOADER)
        self.media = self.controller(f"http://127.0.0.1:{self.http.port}")
        self.script, self.part = self.media.script, self.media.part
        self.http.start()

    def controller(self, url: str = "", *, network: bool = True) -> Media:
        known = self.known if network else None
        return Media(
            self.secrets, lambda: self.medium, self._enrol, lambda: "https://c", network=known, network_url=url
        )

    async def _enrol(self, entry: MetalEntry) -> bytes:
        file = EnrolFile(
            server=entry.server, store=StoreId("s"), controller="10.0.0.1:7444", ca="ca", token=os.urandom(8).hex()
        )
        return msgspec.json.encode(file)

    async def get(self, path: str) -> tuple[int, bytes]:
        url = path if "://" in path else f"http://127.0.0.1:{self.http.port}{path}"

        def ask() -> tuple[int, bytes]:
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, b""

        return await asyncio.to_thread(ask)

    async def told(self, mac: str = MAC) -> dict[str, str]:
        """The loader's script: files by their names."""
        code, text = await self.get(f"/boot.ipxe?mac={mac.replace(':', '-')}")
        assert code == 200
        lines = text.decode().splitlines()
        assert lines[0] == "#!ipxe"
        assert lines[-1] == "boot"
        kernel = lines[1].split()
        assert kernel[2:] == ["initrd=system", "initrd=settings", "initrd=initrd", "quiet", "console=ttyS0"]
        return {"kernel": kernel[1]} | {words[2]: words[3] for words in (line.split() for line in lines[2:-1])}


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.http.stop()


def entry(server: ServerName = M1, run: int = 1, mac: str = MAC, **more: object) -> MetalEntry:
    nic = Nic(network="lan", bridge="", mac=mac, address="10.0.0.9", prefix=24)
    bmc = BmcRef(address="redfish+https://10.0.0.7/redfish/v1/Systems/1", secret="default/bmc")
    made = MetalEntry(
        server=server, uid="u", state="inspecting", since=0.0, bmc=bmc, nic=nic, run=run, boots_from="network"
    )
    return msgspec.structs.replace(made, **more)


async def test_a_loader_is_given_what_its_server_boots_and_nobody_else_is(site: Site) -> None:
    url = await site.media.offer(entry())
    assert site.known.servers == {"m1": (MAC, "10.0.0.9")}
    files = await site.told(MAC.upper())
    assert all(u.startswith(url) for u in files.values())
    for name, content in (("kernel", b"kernel"), ("initrd", b"initrd"), ("system", b"system.cpio")):
        assert await site.get(files[name]) == (200, content * 1000)
    code, packed = await site.get(files["settings"])
    assert code == 200
    settings = read_settings(packed[packed.index(b"BEDPLATE-SETTINGS") :].rstrip(b"\0").partition(b"070701")[0])
    assert (settings.enrol.server, settings.run, settings.mac, settings.address) == ("m1", 1, MAC, "10.0.0.9/24")
    assert await site.get(f"/{LOADER}") == (200, LOADER.encode() * 1000)
    for path in ("/boot.ipxe?mac=52-54-00-00-00-03", "/boot.ipxe", "/net/guess/settings", "/net//settings", "/",
                 f"{files['settings']}x", "/net/../kernel"):  # fmt: skip
        assert (await site.get(path))[0] == 404, path
    assert site.media.open(url.partition("127.0.0.1")[2].partition("/")[2]) is None, "it is no medium"


async def test_an_offer_ends_when_its_server_has_come_up(site: Site) -> None:
    for server, mac in ((M1, MAC), (M2, OTHER)):
        url = await site.media.offer(entry(server, run=3, mac=mac))
    told = await site.told()
    await site.get(told["settings"])
    await site.media.arrived(M1, 2)
    assert (await site.get(told["kernel"]))[0] == 200, "that was an earlier boot"
    await site.media.arrived(M1, 3)
    assert (await site.get(told["kernel"]))[0] == 404
    assert set(site.known.servers) == {"m2"}
    assert url == await site.media.offer(entry(M2, run=3, mac=OTHER)), "the same, as long as nobody read it"
    await site.media.withdraw(M2)
    assert site.known.servers == {}


async def test_a_restarted_controller_answers_whoever_is_booting(site: Site) -> None:
    await site.media.offer(entry())
    await site.media.offer(entry(M2, boots_from="media"))
    site.known.servers.clear()
    again = site.controller("http://10.0.0.1:1")
    await again.resume()
    assert site.known.servers == {"m1": (MAC, "10.0.0.9")}
    script = again.script(MAC)
    assert script is not None
    assert "http://10.0.0.1:1/net/" in script


async def test_what_can_not_be_offered_says_why(site: Site) -> None:
    with pytest.raises(NotOffered, match=r"start it with --netboot, or set spec\.metal\.boot to media"):
        await site.controller(network=False).offer(entry())
    with pytest.raises(NotOffered, match=r"give it in spec\.metal\.bootMac"):
        await site.media.offer(entry(mac=""))
    site.medium = None
    with pytest.raises(NotOffered, match="bedplate image build --ram"):
        await site.media.offer(entry())
    assert site.known.servers == {}


# --- DHCP, for real ---------------------------------------------------------------------------------------------------

BASE = "http://10.77.0.1:7445"
ASK = r"""
import json, socket, struct, sys, time
def ask(number, mac, *options):
    head = struct.pack("!BBBBIHH4s4s4s4s", 1, 1, 6, 0, number, 0, 0x8000, b"", b"", b"", b"")
    head += bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
    told = b"".join(bytes([n, len(v)]) + v for n, v in options)
    return head + b"\x35\x01\x01" + b"\x37\x03\x01\x42\x43" + told + b"\xff"
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
line.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"far")
line.bind(("", 68)); line.settimeout(1)
asked = json.loads(sys.argv[1])
def send():
    for number, (mac, options) in enumerate(asked):
        line.sendto(ask(number, mac, *((n, v.encode("latin-1")) for n, v in options)), ("255.255.255.255", 67))
found, end = {}, time.monotonic() + 60
while str(len(asked) - 1) not in found and time.monotonic() < end:
    send()  # the first may come before anybody listens
    try:
        while True:
            data = line.recv(4096)
            number, at, told = struct.unpack("!I", data[4:8])[0], 240, {}
            while data[at] != 255:
                length = data[at + 1]
                told[data[at]] = data[at + 2 : at + 2 + length].decode("latin-1").rstrip("\0")
                at += 2 + length
            file = told.get(67) or data[108:236].rstrip(b"\0").decode()
            found[str(number)] = [socket.inet_ntoa(data[16:20]), file, told.get(60, "")]
    except TimeoutError:
        pass
print(json.dumps(found))
"""
"""A DHCP client: asks all, and is done when the last one has its answer."""


@contextmanager
def network() -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between `near` (10.77.0.1) and `far`."""
    near, far = f"bpn{os.getpid()}", f"bpf{os.getpid()}"
    try:
        for name in (near, far):
            subprocess.run(["ip", "netns", "add", name], check=True)
        link = ["link", "add", "near", "netns", near, "type", "veth", "peer", "name", "far", "netns", far]
        subprocess.run(["ip", *link], check=True)
        subprocess.run(["ip", "-n", near, "address", "add", "10.77.0.1/24", "dev", "near"], check=True)
        for name, device in ((near, "near"), (far, "far")):
            subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        yield near, far
    finally:
        for name in (near, far):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def arch(number: int) -> list[object]:
    return [93, chr(number >> 8) + chr(number & 255)]


@pytest.mark.lab
async def test_only_servers_that_are_offered_a_boot_are_answered() -> None:
    with network() as (near, far):
        dhcp = DhcpServer("near", "10.77.0.0", "255.255.255.0", BASE, within=["ip", "netns", "exec", near])
        await dhcp.start()
        try:
            await asyncio.to_thread(dhcp.admit, M1, MAC, "10.77.0.9")
            pxe, http = [60, "PXEClient:Arch:00007"], [60, "HTTPClient:Arch:00016"]

            async def ask(*asked: tuple[str, list[list[object]]]) -> dict[str, list[str]]:
                argv = ["ip", "netns", "exec", far, sys.executable, "-c", ASK, json.dumps(asked)]
                process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
                said, _ = await process.communicate()
                found: dict[str, list[str]] = json.loads(said)
                return found

            stranger = "52:54:00:00:00:77"
            found = await ask(
                (stranger, [pxe, arch(7)]),
                (stranger, [http, arch(16)]),
                (MAC, [pxe, arch(7)]),
                (MAC, [http, arch(16)]),
                (MAC, [pxe, arch(7), [77, "iPXE"]]),
            )
            assert found == {
                "2": ["10.77.0.9", LOADER, ""],
                "3": ["10.77.0.9", f"{BASE}/{LOADER}", "HTTPClient"],
                "4": ["10.77.0.9", f"{BASE}/boot.ipxe?mac=${{net0/mac:hexhyp}}", ""],
            }
            await asyncio.to_thread(dhcp.admit, M2, stranger, "10.77.0.10")
            await asyncio.to_thread(dhcp.dismiss, M1)
            found = await ask((MAC, [pxe, arch(7)]), (stranger, [pxe, arch(7)]))
            assert found == {"1": ["10.77.0.10", LOADER, ""]}
        finally:
            await dhcp.stop()


def test_dnsmasq_takes_the_configuration(tmp_path: Path) -> None:
    for name in ("known", "loaders"):
        (tmp_path / name).mkdir()
    own = ipaddress.IPv4Interface("10.0.0.2/22")
    text = configuration(
        "lo", str(own.network.network_address), str(own.network.netmask), tmp_path, "http://10.0.0.2:7445"
    )
    (tmp_path / "dnsmasq.conf").write_text(text)
    argv = ["dnsmasq", "--test", f"--conf-file={tmp_path / 'dnsmasq.conf'}"]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_what_keeps_it_from_answering_is_said_and_leaves_nothing_behind(site: Site) -> None:
    with pytest.raises(NetworkBootFailed, match="there is no interface 'nope'"):
        NetworkBoot("nope", 7445)
    taken = NetworkBoot("lo", site.http.port)
    before = folders()
    with pytest.raises(NetworkBootFailed, match=f"can't listen at 127.0.0.1:{site.http.port} .*--netboot-port"):
        await taken.start(site.media)
    assert folders() == before


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("bedplate-netboot-*"))
