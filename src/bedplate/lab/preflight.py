"""What a host must have for a lab, looked at before anything is done. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from bedplate.lab.errors import LabError

NEEDED = {
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
"""Command -> the Debian package that has it."""
FIRMWARE = Path("/usr/share/OVMF")
"""Of the Debian package ovmf: what bare servers boot with."""
LEAST_FREE = 1 << 30
"""Bytes that must be free where the lab lives: its own files are small, but one guest's disk fills a gigabyte."""


CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 27: "CAP_MKNOD"}
"""Bit -> name, see capabilities(7)."""


def _effective() -> int:
    """The effective capabilities of this process, as bits."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def check_host(folder: Path, least_free: int = LEAST_FREE) -> None:
    """Raise LabError for the first thing that is missing."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root, for namespaces and network interfaces: run it with sudo")
    missing = [name for bit, name in CAPABILITIES.items() if not _effective() >> bit & 1]
    if missing:
        raise LabError(
            f"this root lacks the rights {', '.join(missing)} that the lab needs for namespaces and network interfaces:"
            " in a container, start it with --privileged"
        )
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted({package for command, package in NEEDED.items() if shutil.which(command, path=path) is None})
    if missing:
        raise LabError(f"programs that the lab needs are missing: apt install {' '.join(missing)}")
    if importlib.util.find_spec("sushy_tools") is None:
        raise LabError("the Python package sushy-tools, the lab's BMCs, is missing: pip install 'bedplate[lab]'")
    if not Path("/dev/net/tun").exists():
        raise LabError("/dev/net/tun is missing, and virtual machines need it for their network: modprobe tun")
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    free = shutil.disk_usage(nearest).free
    if free < least_free:
        raise LabError(
            f"only {free >> 20} MiB are free at {nearest} and the lab needs {least_free >> 20} MiB: make room there, or"
            " set XDG_STATE_HOME to a larger disk"
        )


def check_firmware(folder: Path = FIRMWARE) -> None:
    """Raise LabError where the firmware of bare servers is missing."""
    if not all((folder / name).exists() for name in ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")):
        raise LabError("the UEFI firmware that the lab's bare servers boot with is missing: apt install ovmf")


def mounts_below(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Mount points of the host in the folder: never removed with it, for they may be somebody's data."""
    found: list[str] = []
    for line in mountinfo.read_text().splitlines():
        target = line.split()[4].encode().decode("unicode_escape")
        if Path(target) == folder or folder in Path(target).parents:
            found.append(target)
    return found
