"""Facts about the server itself."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from bedplate import __version__
from bedplate.agent.hardware_health import Problem, worst
from bedplate.agent.kvm_probe import probe
from bedplate.model.cpus import CpuModel, models
from bedplate.model.drift import Drift
from bedplate.model.ids import ServerName
from bedplate.model.inventory import PoolView, ServerView

INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""`PROC_PID_INIT_INO` of the kernel."""


class Host:
    """This server; `address` is set from the connection unless given. `deployed`: Bedplate wrote its disk, nobody else
    prepares it."""

    def __init__(
        self,
        server: ServerName,
        host_uuid: str,
        accelerator: Literal["kvm", "tcg"],
        address: str = "",
        *,
        cpu: tuple[str, tuple[CpuModel, ...]] = ("", ()),
        deployed: bool = False,
    ) -> None:
        self.deployed = deployed
        self.server = server
        self.host_uuid = host_uuid
        self.accelerator: Literal["kvm", "tcg"] = accelerator
        self.address = address
        self._cpu, self._cpu_models = cpu
        self._boot_id = boot_id()
        self._problems: list[Problem] = []
        self.drift: Drift | None = None
        """How this system differs from the image that was deployed, where it was."""

    async def view(self, pools: tuple[PoolView, ...], error: str) -> ServerView:
        """The server as it is now."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return ServerView(
            server=self.server,
            connected=True,
            host_uuid=self.host_uuid,
            boot_id=self._boot_id,
            address=self.address,
            agent_version=__version__,
            cpus=os.cpu_count() or 1,
            memory_mib=memory >> 20,
            accelerator=self.accelerator,
            cpu=self._cpu,
            cpu_models=self._cpu_models,
            bridges=await bridges(),
            pools=pools,
            error=error,
            health=worst(self._problems),
            problems=tuple(p.sentence for p in self._problems),
            drift=self.drift,
        )

    def ails(self, problems: list[Problem]) -> None:
        """Take in what is wrong with its hardware now."""
        self._problems = problems


def has_kernel_alone(proc: Path = Path("/proc")) -> bool:
    """What the kernel tells of CPUs and hardware is this server's. False: it is one container of several, such as a
    lab's."""
    return os.readlink(proc / "self/ns/pid") == INITIAL_PID_NAMESPACE


def boot_id() -> str:
    """Identity of this boot: the kernel's and, for a server that is a container, that of its first process."""
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    first = ""
    with contextlib.suppress(OSError, IndexError):
        first = Path("/proc/1/stat").read_text().rsplit(")", 1)[1].split()[19]
    return str(uuid.uuid5(uuid.UUID(kernel), first))


async def bridges() -> tuple[str, ...]:
    """Names of the bridges in this network namespace; asked of netlink, since /sys may show another namespace's."""
    try:
        found = await links("link", "show", "type", "bridge")
        return tuple(sorted(link["ifname"] for link in found if "ifname" in link))
    except (OSError, ValueError):
        return ()


async def links(*words: str) -> list[dict[str, Any]]:
    """What `ip` tells of the server's links; empty where it fails. Raises `OSError` and `ValueError`."""
    process = await asyncio.create_subprocess_exec(
        "ip", "-json", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    return json.loads(out or b"[]")


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU seconds that were used since the kernel's start; grows. Raises `OSError`."""
    user, nice, system, _idle, _wait, irq, softirq, steal = (
        int(n) for n in stat.read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def accelerator() -> Literal["kvm", "tcg"]:
    """Whether guests can use KVM, found out by booting one. Takes up to 20 s the first time after a boot."""
    return "kvm" if probe().works else "tcg"


def guest_cpu(
    accelerator: Literal["kvm", "tcg"], qemu: int, cpuinfo: Path = Path("/proc/cpuinfo")
) -> tuple[str, tuple[CpuModel, ...]]:
    """Which CPU guests see here that see all of it, and the levels that they may be given instead.

    Args:
        qemu: Version as libvirt tells it, `major * 1000000 + minor * 1000 + release`. Emulated CPUs depend on it alone:
            they have AVX2 since 7.2 (https://wiki.qemu.org/ChangeLog/7.2).

    Raises:
        OSError: the kernel tells nothing of its CPUs.
    """
    if accelerator == "tcg":
        return f"QEMU TCG {qemu}", ("x86-64-v2-AES", "x86-64-v3") if qemu >= 7_002_000 else ("x86-64-v2-AES",)
    first = cpuinfo.read_text().partition("\n\n")[0].splitlines()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
    flags = frozenset(told.get("flags", "").split())
    alike = "/".join((*(told.get(n, "") for n in ("vendor_id", "cpu family", "model")), *sorted(flags)))
    return f"{told.get('model name', 'unknown')} {hashlib.sha256(alike.encode()).hexdigest()[:8]}", models(flags)


def libvirt_host_uuid(connection: Any) -> str:
    """The hardware's identity as libvirt knows it."""
    found = ElementTree.fromstring(connection.getCapabilities()).findtext("./host/uuid")
    return (found or "").strip()
