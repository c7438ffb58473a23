"""How fast a bare server's disk is written, and in how much memory: the agent's own code on a loop device, the image
from the real listener by TLS, against `dd` of the raw image to the same device.

Needs root. The image is the newest node image of the cache, or one that is made of what compresses as such an image.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bedplate.agent.enrol import ControllerConnection, enrol, tls_context
from bedplate.agent.ram.deployment import of_machine
from bedplate.agent.ram.devices import Device
from bedplate.agent.ram.writing import ImageWriter
from bedplate.agent.state import AgentState
from bedplate.drivers.agents.server import AgentServer
from bedplate.drivers.artifacts import image as images
from bedplate.drivers.artifacts import pieces
from bedplate.drivers.artifacts.cache import sha256_file
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Epoch, Generation, MachineUid, ServerName, StoreId, key
from bench.report import Figure, seconds, size

MIB = 1 << 20
GOAL = 1.15
MEMORY = 200 * MIB
SERVER = ServerName("metal1")


def run(small: bool) -> Iterator[Figure]:
    """Write it both ways, `dd` before and after, of which the faster one counts."""
    with tempfile.TemporaryDirectory(prefix="bp-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        raw, manifest, data = _image(folder, small)
        total = raw.stat().st_size
        with _loop(folder / "disk", total + 64 * MIB) as device:
            before = _dd(raw, device)
            said = json.loads(_child(folder, manifest, data, device, total + 64 * MIB))
            after = _dd(raw, device)
        plain = min(before, after)
        holds = sum(min(pieces.PIECE, total - p.index * pieces.PIECE) for p in _manifest(manifest).pieces)
        what = f"{size(total)} disk image ({size(holds)} of it not zero)"
        yield Figure(
            what=f"write a {what} to a bare server's disk",
            measured=seconds(said["written"]),
            reference=f"`dd` of the raw image {seconds(plain)}",
            ratio=said["written"] / plain,
            goal=f"≤ {GOAL}",
            limit=GOAL,
        )
        yield Figure(
            what="the same, read back, with credentials and marker",
            measured=seconds(said["all"]),
            reference=f"`dd` of the raw image {seconds(plain)}",
            ratio=said["all"] / plain,
        )
        yield Figure(
            what="peak memory of the agent and its unpacking process",
            measured=size(said["memory"]),
            reference=f"bound {size(MEMORY)}",
            ratio=said["memory"] / MEMORY,
            goal="≤ 1",
            limit=1.0,
        )


def _manifest(path: Path) -> pieces.WriteManifest:
    return msgspec.json.decode(path.read_bytes(), type=pieces.WriteManifest)


def _image(folder: Path, small: bool) -> tuple[Path, Path, Path]:
    """The raw image and its two files."""
    raw = folder / "image.raw"
    known = [] if small else images.list_images()
    if known:
        disk = known[0].disk
        made = pieces.metal_files(disk.path, disk.sha256, known[0].format)
        assert made is not None
        subprocess.run(["qemu-img", "convert", "-O", "raw", disk.path, raw], check=True)
        return raw, made.manifest.path, made.data.path
    _like_one(folder, raw, (256 if small else 2048) * MIB)
    pieces.write_pieces(raw, folder / "pieces.json", folder / "pieces.zst")
    return raw, folder / "pieces.json", folder / "pieces.zst"


def _like_one(folder: Path, raw: Path, total: int) -> None:
    """A disk whose first half is half noise, with an EFI system partition."""
    esp = folder / "esp"
    for path, length in ((raw, total), (esp, 40 * MIB)):
        with path.open("wb") as file:
            file.truncate(length)
    subprocess.run(["sgdisk", "-n", "1:1M:+40M", "-t", "1:ef00", "-n", "2:41M:0", raw], check=True, capture_output=True)
    subprocess.run(["mkfs.vfat", "-F", "32", esp], check=True, capture_output=True)
    with raw.open("r+b") as file:
        file.seek(MIB)
        file.write(esp.read_bytes())
        for offset in range(42 * MIB, total // 2, MIB):
            file.seek(offset)
            file.write(os.urandom(MIB // 2) + b"text" * (MIB // 8))
    esp.unlink()


@contextmanager
def _loop(file: Path, total: int) -> Iterator[str]:
    with file.open("wb") as disk:
        disk.truncate(total)
    device = subprocess.run(
        ["losetup", "-f", "--show", file], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def _dd(raw: Path, device: str) -> float:
    subprocess.run(["blkdiscard", "-f", device], check=True, capture_output=True)
    subprocess.run(["sync"], check=True)
    began = time.perf_counter()
    argv = ["dd", f"if={raw}", f"of={device}", "bs=4M", "oflag=direct", "conv=fsync", "status=none"]
    subprocess.run(argv, check=True)
    return time.perf_counter() - began


def _child(folder: Path, manifest: Path, data: Path, device: str, total: int) -> str:
    subprocess.run(["blkdiscard", "-f", device], check=True, capture_output=True)
    argv = [sys.executable, "-m", "bench.metal", str(folder), str(manifest), str(data), device, str(total)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


# --- the process that writes -----------------------------------------------------------------------------------------


class _Images:
    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def path(self, digest: Digest) -> str | None:
        return self._files.get(digest)


class _Secrets(dict[str, bytes]):
    """The least of a secret store."""

    get_secret = dict.get
    put_secret = dict.__setitem__
    put_secret_once = dict.setdefault
    delete_secret = dict.pop

    def list_secrets(self, prefix: str) -> list[str]:
        return sorted(n for n in self if n.startswith(prefix))


async def _serve(files: dict[str, str], ready: threading.Event, told: list[bytes], ended: threading.Event) -> None:
    server = AgentServer(
        listen=["127.0.0.1:0"], store=StoreId("bench"), epoch=lambda: Epoch(1), secrets=_Secrets(),  # type: ignore[arg-type]
        sink=lambda *_, **__: None, images=_Images(files), pools_for=lambda _: (),
    )  # fmt: skip
    await server.start()
    told.append(await server.enrolment(SERVER))
    ready.set()
    await asyncio.to_thread(ended.wait)
    await server.stop()


def _write(folder: Path, enrolment: bytes, ref: ImageRef, device: str, total: int) -> dict[str, float]:
    """In a process of its own, so that the memory that is measured is the agent's."""
    state = AgentState(folder / "state")
    file = msgspec.json.decode(enrolment, type=EnrolFile)
    enrol(state, file, "11111111-0000-4000-8000-000000000000")
    machine = MachineEntry(
        uid=MachineUid("m"), generation=Generation(1), name="m", namespace="default", server=SERVER, cpu=1,
        owner=key("nodepool", "default", "m"), memory_mib=1, disk_mib=1, disk_pool="", image=ref, substrate="metal",
        nic=Nic(network="lan", bridge="", mac="02:00:00:00:00:01", address="10.0.0.9", prefix=24),
    )  # fmt: skip
    disk = Device(name=Path(device).name, path=device, serial="disk", size=total)
    began = time.perf_counter()
    written = [0.0]

    def progress(value: float) -> None:
        if not written[0] and value >= 0.5999:
            written[0] = time.perf_counter() - began

    def connect() -> ControllerConnection:
        return ControllerConnection(file.controller, tls_context(file.ca, state))

    writer = ImageWriter(folder, connect, progress, threading.Event(), lambda: [disk])
    writer.run(of_machine(machine, SERVER), "disk", enrolment)
    return {"written": written[0], "all": time.perf_counter() - began}


def _peak(pid: int, ended: threading.Event, found: list[int]) -> None:
    """The most that the process and its children had in memory at once."""
    while not ended.wait(0.05):
        now = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == pid or stat.parent.name == str(pid):
                    now += int((stat.parent / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                continue
        found[0] = max(found[0], now)


def _main(folder: Path, manifest: Path, data: Path, device: str, total: int) -> None:
    metal = Digest(f"sha256:{sha256_file(manifest)}")
    files = {metal: str(manifest), _manifest(manifest).data: str(data)}
    ready, ended, told, peak = threading.Event(), threading.Event(), list[bytes](), [0]
    serving = threading.Thread(target=lambda: asyncio.run(_serve(files, ready, told, ended)))
    serving.start()
    try:
        ready.wait()
        ref = ImageRef(name="node", disk=Digest("sha256:0"), metal=metal)
        work = folder / "work"
        work.mkdir()
        (work / "input").write_bytes(msgspec.json.encode((told[0].decode(), ref, device, total)))
        argv = [sys.executable, "-m", "bench.metal", "write", str(work)]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        watching = threading.Thread(target=_peak, args=(child.pid, ended, peak))
        watching.start()
        out, _ = child.communicate()
        if child.returncode:
            raise SystemExit(child.returncode)
        print(json.dumps({**json.loads(out), "memory": peak[0]}))
    finally:
        ended.set()
        serving.join()
        shutil.rmtree(folder / "work", ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        place = Path(sys.argv[2])
        file, image, disk, length = msgspec.json.decode(
            (place / "input").read_bytes(), type=tuple[str, ImageRef, str, int]
        )
        print(json.dumps(_write(place, file.encode(), image, disk, length)))
    else:
        _main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
