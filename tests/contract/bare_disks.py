"""Disks of a bare server for tests: loop devices, and a small image to write, with a GUID table, an ESP and a root."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bedplate.agent.ram.devices import Device
from bedplate.drivers.artifacts import pieces
from bedplate.drivers.artifacts.cache import sha256_file
from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Generation, MachineUid, ServerName, key
from bedplate.model.metal_protocol import WriteManifest

MIB = 1 << 20
METAL1 = ServerName("metal1")


class Loop(msgspec.Struct, frozen=True):
    """A loop device that stands for a disk."""

    path: str
    file: Path
    serial: str

    def device(self, **changes: object) -> Device:
        """As `devices.devices` would tell it."""
        made = Device(
            name=Path(self.path).name, path=self.path, serial=self.serial, size=self.file.stat().st_size, model="loop"
        )
        return msgspec.structs.replace(made, **changes)

    def fill(self, content: bytes) -> None:
        """Write it from the disk's beginning on."""
        with open(self.path, "wb") as disk:
            disk.write(content)
            os.fsync(disk.fileno())

    def content(self, offset: int = 0, size: int = -1) -> bytes:
        """What is on it, past any cache."""
        subprocess.run(["blockdev", "--flushbufs", self.path], check=True)
        with open(self.path, "rb") as disk:
            disk.seek(offset)
            return disk.read(size)


@contextmanager
def loops(folder: Path, sizes: dict[str, int]) -> Iterator[dict[str, Loop]]:
    """Loop devices by name, each `name: bytes`; the name is the serial number."""
    made: dict[str, Loop] = {}
    try:
        for name, size in sizes.items():
            file = folder / f"{name}.disk"
            with file.open("wb") as disk:
                disk.truncate(size)
            found = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True, check=True)
            made[name] = Loop(found.stdout.strip(), file, name)
        yield made
    finally:
        for loop in made.values():
            subprocess.run(["losetup", "-d", loop.path], check=True)


class Image(msgspec.Struct, frozen=True):
    """A disk image in the form for metal: the two files by digest, and the disk itself."""

    ref: ImageRef
    raw: Path
    manifest: WriteManifest
    files: dict[Digest, Path]


def image(folder: Path, *, filling: int = 24 * MIB) -> Image:
    """An image of 112 MiB with so many bytes that do not compress, and holes."""
    raw, esp = folder / "image.raw", folder / "esp.fat"
    for path, size in ((raw, 112 * MIB), (esp, 40 * MIB)):
        with path.open("wb") as file:
            file.truncate(size)
    table = ["--clear", "--new=1:1MiB:+40MiB", "--typecode=1:ef00", "--new=2:41MiB:+70MiB", "--typecode=2:8304"]
    subprocess.run(["sgdisk", *table, raw], check=True, capture_output=True)
    subprocess.run(["mkfs.vfat", "-F", "32", esp], check=True, capture_output=True)
    folders = ["::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/credentials"]
    subprocess.run(["mmd", "-i", esp, *folders], check=True)
    with raw.open("r+b") as file:
        file.seek(MIB)
        file.write(esp.read_bytes())
        for offset in range(42 * MIB, 42 * MIB + filling, MIB):
            file.seek(offset)
            file.write(os.urandom(MIB))
    esp.unlink()
    made = pieces.write_pieces(raw, folder / "pieces.json", folder / "pieces.zst")
    metal = Digest(f"sha256:{sha256_file(folder / 'pieces.json')}")
    files = {metal: folder / "pieces.json", made.data: folder / "pieces.zst"}
    ref = ImageRef(name="node", disk=Digest("sha256:" + "d" * 64), metal=metal, virtual_size=made.size)
    return Image(ref, raw, made, files)


def machine(ref: ImageRef, uid: str = "11111111-2222-4333-8444-555555555555", **changes: object) -> MachineEntry:
    """A node on bare metal."""
    entry = MachineEntry(
        uid=MachineUid(uid),
        generation=Generation(3),
        name="shop-db-1",
        namespace="default",
        owner=key("nodepool", "default", "shop-db"),
        substrate="metal",
        server=METAL1,
        cpu=1,
        memory_mib=1024,
        disk_mib=100,
        disk_pool="",
        image=ref,
        nic=Nic(network="lan", bridge="", mac="02:bd:00:00:00:01", address="10.0.0.9", prefix=24, gateway="10.0.0.1"),
        ssh_keys=("ssh-ed25519 AAAA me",),
    )
    return msgspec.structs.replace(entry, **changes)


def on_esp(loop: Loop, path: str) -> bytes | None:
    """A file on the EFI system partition, read by mtools alone."""
    argv = ["mtype", "-i", f"{loop.path}@@{MIB}", f"::/{path}"]
    done = subprocess.run(argv, capture_output=True, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"}, check=False)
    return done.stdout if done.returncode == 0 else None


def short_folder() -> Path:
    """A folder with a path short enough for sockets in it."""
    return Path(tempfile.mkdtemp(prefix="bp-"))


def listed(disks: list[Device]) -> str:
    """As lsblk says it, in JSON."""
    rows = [
        {"name": d.name, "path": d.path, "type": "disk", "serial": d.serial, "size": d.size, "mountpoints": [None]}
        for d in disks
    ]
    return json.dumps({"blockdevices": rows})
