"""Whether KVM works here, found out by booting a tiny guest: `/dev/kvm` can be there and every guest on it hang.

A pure invocation of QEMU; it knows no libvirt and keeps only its verdict, for this boot of the host, in the user's
cache folder.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

QEMU = "qemu-system-x86_64"
LIMIT = 10.0
"""Seconds for the tiny guest to end; under emulation it takes 0.1 on an idle machine."""
SLOWER, SLACK = 2.0, 0.3
"""KVM may take that many times what emulation takes, and that many seconds more. Where KVM is itself emulated, it was
seen to take 1.3 s against 0.1 s here, and a real kernel on it never came up."""
EMULATED = "QEMU TCG CPU"
"""How an emulated processor is called in /proc/cpuinfo. With SVM it offers KVM, on which guests were seen to boot, and
later to bring the kernel down."""
GUEST_ENDED = 33
"""QEMU's exit status when the guest wrote 0x10 to the debug-exit device."""
SECTOR = base64.b64decode(
    "+jHAjtiOwI7QvABwvwAQuQAw/POqZscGABADIAAAZscGACADMAAAvwAwZriDAAAAuQACZokFg8cIZgUAACAA4vIPARbAfA8g4GaDyCAPIuBmuAAQ"
    "AAAPIthmuYAAAMAPMmYNAAEAAA8wDyDAZg0BAACADyLA6np8CAC90AcAAA8g2A8i2DHAD6L/zXXyvwAAIADHBwEAAACBxwAQAACB/wAAoAFy7Ga6"
    "9ACwEO706/0AAAAAAAAAAAAAAAAAmiAADwCwfA=="
)
"""A boot sector. The firmware loads it in real mode; it maps memory in 2 MiB pages, enters long mode, loads CR3 and
executes CPUID 2,000 times (each leaves the guest), touches 24 MiB, and writes 0x10 to port 0xf4."""


class KvmVerdict(msgspec.Struct, frozen=True):
    """What the probe found; `reason` is a few words."""

    works: bool
    reason: str


class _Remembered(msgspec.Struct):
    """The cached verdict, and what it holds for."""

    boot: str
    qemu: str
    verdict: KvmVerdict


def probe(cache: Path | None = None) -> KvmVerdict:
    """Tell whether guests can use KVM; asked again only after a reboot or with another QEMU. Takes at most 20 s."""
    path = (cache or _cache_folder()) / "kvm-probe.json"
    boot, qemu = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), _qemu_identity()
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        remembered = msgspec.json.decode(path.read_bytes(), type=_Remembered)
        if (remembered.boot, remembered.qemu) == (boot, qemu):
            return remembered.verdict
    verdict = look()
    with contextlib.suppress(OSError):  # without a cache it is asked again
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(_Remembered(boot, qemu, verdict)))
        temporary.replace(path)
    return verdict


def look(cpuinfo: Path = Path("/proc/cpuinfo")) -> KvmVerdict:
    """Probe now, without the cache."""
    with contextlib.suppress(OSError):
        if EMULATED in cpuinfo.read_text():
            return KvmVerdict(False, "the processor is emulated itself")
    if not os.path.exists("/dev/kvm"):
        return KvmVerdict(False, "there is no /dev/kvm")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return KvmVerdict(False, "/dev/kvm may not be opened")
    if shutil.which(QEMU) is None:
        return KvmVerdict(False, f"{QEMU} is not installed")
    emulated = boot_time("tcg", "max")
    if emulated is None:
        return KvmVerdict(False, "a tiny guest does not boot even under emulation")
    real = boot_time("kvm", "host")
    if real is None:
        return KvmVerdict(False, f"a tiny guest on KVM did not end within {LIMIT:.0f} s")
    if real > SLOWER * emulated + SLACK:
        return KvmVerdict(False, f"a tiny guest takes {real:.2f} s on KVM and {emulated:.2f} s under emulation")
    return KvmVerdict(True, f"a tiny guest took {real:.2f} s")


def boot_time(accel: str, cpu: str) -> float | None:
    """Seconds from QEMU's start to the guest's own end; None when it failed or did not end in time."""
    with tempfile.NamedTemporaryFile(prefix="bedplate-kvm-probe-") as disk:
        disk.write(SECTOR.ljust(510, b"\0") + b"\x55\xaa")
        disk.truncate(1 << 20)
        disk.flush()
        argv = [QEMU, "-accel", accel, "-cpu", cpu, "-machine", "q35", "-m", "64", "-display", "none"]
        argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]
        argv += ["-drive", f"file={disk.name},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk"]
        begun = time.monotonic()
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return time.monotonic() - begun if done.returncode == GUEST_ENDED else None


def _cache_folder() -> Path:
    """The user's cache folder for Bedplate."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bedplate"


def _qemu_identity() -> str:
    """What tells one installed QEMU from another."""
    found = shutil.which(QEMU)
    if found is None:
        return ""
    seen = os.stat(found)
    return f"{found} {seen.st_size} {seen.st_mtime_ns}"
