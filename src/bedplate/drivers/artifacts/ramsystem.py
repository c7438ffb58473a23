"""The RAM system: a small Debian with Bedplate's agent that a bare server boots from virtual media or the network.

One ISO serves all servers: what differs is written over the place for settings in it by whoever gives it out. It is
copied into memory at the start, so that it may be taken out then. May not: give it out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts import agent_tree, debian, iso, ramroot
from bedplate.drivers.artifacts.cache import Cache, Entry, key_of, sha256_file
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet
from bedplate.drivers.netboot import archive
from bedplate.model.metal_protocol import NETWORK_FOLDER, NETWORK_SYSTEM, SETTINGS_SIZE

RECIPE = 2
"""Raise when the way of building changes in a way that no other input shows."""

KIND = "ram"
"""Of the cache's entries."""

COMMAND_LINE = "console=tty0 console=ttyS0,115200 systemd.gpt_auto=0 systemd.swap=0 raid=noautodetect quiet"

MAX_BYTES = 120_000_000
"""Of the ISO. It comes through BMCs, whose virtual media carry a few MB/s."""

PACKAGES = (
    # the system and what builds its kernel image
    *("systemd", "systemd-sysv", "udev", "systemd-resolved", "kmod", "linux-image-amd64", "busybox-static", "zstd"),
    *("systemd-ukify", "systemd-boot-efi", "python3", "util-linux", "ca-certificates"),
    # a server's parts: looked at, tested, written, erased
    *("iproute2", "ethtool", "pciutils", "dmidecode", "nvme-cli", "hdparm", "smartmontools", "gdisk", "fdisk"),
    *("dosfstools", "mtools", "efibootmgr"),
    # for a person in rescue; nothing that assembles arrays or volumes by itself, which would write to disks
    *("e2fsprogs", "xfsprogs", "less", "nano"),
)


class NetworkParts(msgspec.Struct, frozen=True):
    """The same RAM system as a boot loader fetches it; names of files beside the ISO."""

    kernel: str
    initrd: str
    system: str
    """An archive with the system, that is unpacked beside the initrd."""
    command_line: str


class RamMedium(msgspec.Struct, frozen=True):
    """A RAM system in the cache; as JSON it lies beside the ISO.

    `iso` is its file's name, `digest` is `sha256:…` of it as built; sizes and the offset are in bytes.
    """

    iso: str
    digest: str
    size: int
    settings_offset: int
    settings_size: int
    network: NetworkParts


class RamBuild(msgspec.Struct, frozen=True):
    """Where a RAM system lies, and what it is."""

    path: Path
    """The ISO. Its description is the same path with `.json`."""
    medium: RamMedium

    @property
    def name(self) -> str:
        """Such as `ram-1a2b3c4d5e6f`."""
        return self.path.stem


def build_ram_system(cache: Cache | None = None, progress: Progress = quiet) -> RamBuild:
    """Build this version's RAM system, or take it from the cache. Needs root. Raises `ArtifactError`."""
    cache = cache or Cache()
    found = find_ram_system(cache)
    if found is not None:
        return found
    if os.geteuid() != 0:
        raise ArtifactError("building the RAM system needs root (it mounts in a chroot); use sudo")

    def build(folder: Path) -> dict[str, object]:
        packages = agent_tree.packages(cache, progress)
        return _build(folder, debian.tree(cache, PACKAGES, "RAM system", progress), packages, progress)

    return _read(cache.obtain(KIND, _inputs(), build, progress, label="RAM system"))


def find_ram_system(cache: Cache | None = None) -> RamBuild | None:
    """This version's RAM system, if it is in the cache: its agent is the one that this version's controller takes."""
    found = (cache or Cache()).find(KIND, _inputs())
    return None if found is None else _read(found)


def current_key() -> str:
    """Key that this version's RAM system has in any cache."""
    return key_of(KIND, _inputs())


def _inputs() -> dict[str, object]:
    return {
        "recipe": RECIPE,
        "suite": debian.SUITE,
        "packages": list(PACKAGES),
        "cuts": list(debian.CUTS),
        "recipeFiles": ramroot.digest(),
        "agent": agent_tree.digest(),
        "commandLine": COMMAND_LINE,
    }


def _read(entry: Entry) -> RamBuild:
    medium = msgspec.convert(entry.facts, type=RamMedium)
    return RamBuild(entry.path / medium.iso, medium)


def _build(folder: Path, base: Path, packages: Entry, progress: Progress) -> dict[str, object]:
    root, log, uki, made = folder / "root", folder / "build.log", folder / "ram.efi", folder / "ram.iso"
    system = folder / "system"
    progress("RAM system: adding the agent, trimming the kernel")
    debian.unpack(base, root, log)
    ramroot.customise(root, packages, log)
    ramroot.boot_files(root, folder, COMMAND_LINE, log)
    ramroot.clean(root)
    progress("RAM system: packing the medium")
    iso.pack(root, system, log)
    shutil.rmtree(root)
    offset = iso.write(made, system, uki, folder, log)
    uki.unlink()
    with system.open("rb") as content, (folder / "system.cpio").open("wb") as target:
        archive.write(target, NETWORK_FOLDER, NETWORK_SYSTEM, content, system.stat().st_size)
    system.unlink()
    size = made.stat().st_size
    if size > MAX_BYTES:
        raise ArtifactError(f"the RAM system takes {size} bytes, and BMCs are to carry {MAX_BYTES} at most")
    sha256 = sha256_file(made)
    named = made.rename(folder / f"ram-{sha256[:12]}.iso")
    parts = NetworkParts("kernel", "initrd", "system.cpio", COMMAND_LINE)
    medium = RamMedium(named.name, f"sha256:{sha256}", size, offset, SETTINGS_SIZE, parts)
    named.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(medium), indent=1))
    progress(f"RAM system: done, {size / 1e6:.0f} MB")
    return msgspec.to_builtins(medium)
