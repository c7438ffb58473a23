"""What a bare server boots, booted by UEFI without the lab: the RAM system's medium, and a deployed disk."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "agent"))

from conftest import RELEASE
from enrolling import HV1, Listening, listening, until
from uefi_machine import HOST, MAC, Wire, machine, wire

from bedplate.drivers.artifacts import image, ramsystem, release
from bedplate.drivers.netboot.media import Media, Medium, Parts
from bedplate.drivers.netboot.network import NetworkBoot
from bedplate.model.blueprint import BmcRef, MetalEntry, Nic
from bedplate.model.inventory import ServerView
from bedplate.model.metal_protocol import RamSettings, settings_block

pytestmark = pytest.mark.lab

REPORT = r"""[Unit]
After=network.target ssh.socket bedplate-agent.service bedplate-grow.service
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'echo "\\nHOST $(hostname)"; echo "ROOT $(findmnt -n -o SOURCE /)"'
ExecStart=/bin/sh -c 'echo "KEYS $(cat /root/.ssh/authorized_keys)"'
ExecStart=/bin/sh -c 'echo "GIVEN $(ls -m /run/credentials/bedplate-agent.service)"'
ExecStart=/bin/sh -c 'echo "SIZE $(df --output=size -BM / | tail -n 1)"; echo REPORTED'
"""
"""What the deployed system says of itself on its console; it comes to it as a credential too."""


@pytest.fixture
def cable() -> Iterator[Wire]:
    with wire() as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/var/tmp") as name:
        yield Path(name)


async def test_the_ram_system_boots_from_its_medium_and_finds_its_controller(cable: Wire, folder: Path) -> None:
    built = await asyncio.to_thread(ramsystem.build_ram_system)
    assert built.medium.size < 120_000_000
    medium, disk = folder / "ram.iso", folder / "disk.raw"
    shutil.copyfile(built.path, medium)
    _old_disk(disk)
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    devices = ["-drive", f"if=none,id=cd,media=cdrom,readonly=on,file={medium}"]
    devices += ["-device", "ide-cd,drive=cd,id=reader,bus=ide.0,bootindex=1"]
    devices += ["-drive", f"if=none,id=d,format=raw,file={disk}", "-device", "ide-hd,drive=d,bus=ide.1,serial=S1"]
    async with listening(folder) as controller:
        enrol = msgspec.structs.replace(await controller.file(), controller=f"{HOST}:7443")
        with medium.open("r+b") as file:
            file.seek(built.medium.settings_offset)
            file.write(settings_block(RamSettings(enrol=enrol, run=7, address="10.77.0.9/24")))
        way = cable.start("socat", f"TCP-LISTEN:7443,bind={HOST},fork,reuseaddr", f"UNIX-CONNECT:{folder}/agents")
        try:
            with machine(cable, devices) as server:
                # One card has no network: the one by which the controller answers is found.
                await asyncio.to_thread(server.until, r"bedplate\.ram server hv1, run 7: the network is up by enp")
                server.eject("reader")
                await asyncio.to_thread(server.until, r"bedplate\.agent connected to the controller", 120)
                await until(lambda: up(controller, 7))
        finally:
            way.kill()
            way.wait()
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before, "the RAM system wrote to a disk"


async def test_the_ram_system_boots_from_the_network(cable: Wire, folder: Path) -> None:
    """By the firmware's PXE and iPXE; a stranger's card would not be answered."""
    built = await asyncio.to_thread(ramsystem.build_ram_system)
    named, place = built.medium.network, built.path.parent
    files = [str(place / name) for name in (named.kernel, named.initrd, named.system)]
    medium = Medium(built.path, built.medium.settings_offset, Parts(*files, named.command_line))
    own = ipaddress.IPv4Interface(f"{HOST}/24")
    within = ["ip", "netns", "exec", cable.name]
    async with listening(folder) as controller:
        way = cable.start("socat", f"TCP-LISTEN:7443,bind={HOST},fork,reuseaddr", f"UNIX-CONNECT:{folder}/agents")
        network = NetworkBoot("tap0", 7445, own=own, within=within)

        async def enrolment(_: MetalEntry) -> bytes:
            file = await controller.file()
            return msgspec.json.encode(msgspec.structs.replace(file, controller=f"{HOST}:7443"))

        media = Media(controller.secrets, lambda: medium, enrolment, str, network=network.dhcp, network_url=network.url)
        nic = Nic(network="lan", bridge="", mac=MAC, address="10.77.0.9", prefix=24)
        bmc = BmcRef(address="redfish+https://10.77.0.7", secret="default/bmc")
        entry = MetalEntry(
            server=HV1, uid="u", state="inspecting", since=0.0, bmc=bmc, nic=nic, run=5, boots_from="network"
        )
        port = await network.start(media, listen=("127.0.0.1", 0))
        out = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            ["socat", f"UNIX-LISTEN:{folder}/http,fork", f"TCP:127.0.0.1:{port}"]
        )
        over = cable.start("socat", f"TCP-LISTEN:7445,bind={HOST},fork,reuseaddr", f"UNIX-CONNECT:{folder}/http")
        try:
            await media.offer(entry)
            with machine(cable, [], first="network") as server:
                await asyncio.to_thread(server.until, "iPXE", 300)
                await asyncio.to_thread(server.until, r"net/\S+/settings\.\.\. ok", 600)
                await asyncio.to_thread(server.until, r"bedplate\.agent connected to the controller", 300)
                await until(lambda: up(controller, 5))
        finally:
            for process in (way, over, out):
                process.kill()
                process.wait()
            await network.stop()


def test_a_deployed_disk_takes_what_makes_it_a_node_from_its_own_efi_partition(cable: Wire, folder: Path) -> None:
    built = image.build_node_image(release.build_release(RELEASE))
    disk, other = folder / "disk.raw", folder / "other.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", built.disk.path, disk], check=True)
    with disk.open("r+b") as file:
        file.truncate(10 << 30)
    subprocess.run(["sgdisk", "-q", "--move-second-header", "--partition-guid=2:R", disk], check=True)
    table = subprocess.run(["sgdisk", "--info=2", disk], check=True, capture_output=True, text=True).stdout
    root = next(line.split()[-1] for line in table.splitlines() if "unique GUID" in line)
    _old_disk(other)
    network = "[Match]\nMACAddress=52:54:00:aa:00:02\n[Network]\nAddress=10.77.0.21/24\n"
    credentials = {
        "system.hostname": "shop-db-1",
        "network.network.10-wire": network,
        "ssh.authorized_keys.root": "ssh-ed25519 AAAA someone",
        "bedplate.enrol": "{}",
        "bedplate.machine": "{}",
        "bedplate.root": root,
        "systemd.extra-unit.report.service": REPORT,
        "systemd.unit-dropin.multi-user.target": "[Unit]\nWants=report.service\n",
    }
    for name, content in credentials.items():
        target = f"::/loader/credentials/{name}.cred"
        subprocess.run(["mcopy", "-i", f"{disk}@@1M", "-", target], input=content.encode(), check=True)
    # The other disk comes first and has a file system with the same label.
    devices = ["-drive", f"if=none,id=o,format=raw,file={other}", "-device", "ide-hd,drive=o,bus=ide.0,bootindex=2"]
    devices += ["-drive", f"if=none,id=d,format=raw,file={disk}", "-device", "nvme,drive=d,serial=S2,bootindex=1"]
    with machine(cable, devices) as server:
        server.until("REPORTED")
        said = dict(line.split(" ", 1) for line in server.console.split("HOST", 1)[1].splitlines()[1:] if " " in line)
        assert "HOST shop-db-1" in server.console
        assert said["ROOT"].startswith("/dev/nvme0n1p2")
        assert said["KEYS"].strip() == "ssh-ed25519 AAAA someone"
        assert {"bedplate.enrol", "bedplate.machine"} <= {w.strip() for w in said["GIVEN"].split(",")}
        assert int(said["SIZE"].strip().removesuffix("M")) > 9000, "the root file system did not grow"
        assert _banner(cable, "10.77.0.21").startswith("SSH-2.0")


def up(controller: Listening, run: int) -> bool:
    """That boot of the RAM system has told of itself."""
    views = [view for _, views, _ in controller.seen for view in views]
    return any(isinstance(v, ServerView) and v.system == "ram" and v.run == run for v in views)


def _old_disk(path: Path) -> None:
    """A disk from an earlier life: a file system that is labelled like a node's."""
    with path.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-L", "root", path], check=True)


def _banner(cable: Wire, address: str) -> str:
    """What the SSH server says first."""
    asking = f"import socket; print(socket.create_connection(({address!r}, 22), timeout=120).recv(64).decode())"
    return cable.run(sys.executable, "-c", asking)
