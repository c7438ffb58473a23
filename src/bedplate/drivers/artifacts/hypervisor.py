"""The hypervisor image: a disk for bare servers with libvirt, QEMU and Bedplate's agent, which reports for duty.

Made as the node image is, without Kubernetes and without a form for virtual machines. No host name, no keys, no
secrets: what makes it a certain server comes on the EFI system partition. May not: boot or deploy anything.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from bedplate import as_built
from bedplate.drivers.artifacts import agent_tree, chroot, debian, disk, system
from bedplate.drivers.artifacts.cache import Cache, Entry
from bedplate.drivers.artifacts.image import DiskFile
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet

RECIPE = 1
"""Raise when the way of building changes in a way that no other input shows."""
KIND = "hypervisor"
"""Of the cache's entries; the role whose files are laid."""

PACKAGES = (
    *system.PACKAGES,
    # what docs/tasks/agents.md asks of a hypervisor
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils", "ovmf", "genisoimage"),
    *("python3-libvirt", "dmidecode", "smartmontools"),
)
ENABLED = ("libvirtd.socket",)
NEVER = ("libvirt-guests.service", "smartmontools.service")
"""Bedplate starts its machines itself, and asks the disks itself."""


class HypervisorBuild(msgspec.Struct, frozen=True):
    """A hypervisor image in the cache. Sizes in bytes."""

    name: str
    key: str
    disk: DiskFile
    virtual_size: int
    size: int


def build_hypervisor_image(cache: Cache | None = None, progress: Progress = quiet) -> HypervisorBuild:
    """Build this version's hypervisor image, or take it from the cache. Needs root. Raises `ArtifactError`."""
    cache = cache or Cache()
    inputs = {
        "recipe": RECIPE,
        "suite": debian.SUITE,
        "packages": list(PACKAGES),
        "cuts": list(debian.CUTS),
        "recipeFiles": system.digest(KIND, ["hypervisor.py"]),
        "agent": agent_tree.digest(),
        "commandLine": system.COMMAND_LINE,
    }
    found = cache.find(KIND, inputs)
    if found is not None:
        return _read(found)
    if os.geteuid() != 0:
        raise ArtifactError("building the hypervisor image needs root (it mounts in a chroot); use sudo")

    def build(folder: Path) -> dict[str, object]:
        base = debian.tree(cache, PACKAGES, "hypervisor image", progress)
        return _build(folder, base, agent_tree.packages(cache, progress), progress)

    return _read(cache.obtain(KIND, inputs, build, progress, label="hypervisor image"))


def list_hypervisor_images(cache: Cache | None = None) -> list[HypervisorBuild]:
    """Hypervisor images in the cache, newest first."""
    return [_read(e) for e in (cache or Cache()).entries(KIND)]


def remove_hypervisor_image(name: str, cache: Cache | None = None) -> HypervisorBuild | None:
    """Delete the image of that name from the cache; None: there was none."""
    cache = cache or Cache()
    for entry in cache.entries(KIND):
        found = _read(entry)
        if found.name == name:
            cache.remove(entry)
            return found
    return None


def name_of(entry: Entry) -> str:
    """The image's name."""
    return f"hypervisor-{entry.key[:8]}"


def _read(entry: Entry) -> HypervisorBuild:
    file = entry.manifest.files["disk.qcow2"]
    return HypervisorBuild(
        name=name_of(entry),
        key=entry.key,
        disk=DiskFile(entry.path / "disk.qcow2", file.sha256, file.size),
        virtual_size=entry.facts["virtualSize"],
        size=entry.size(),
    )


def _build(folder: Path, base: Path, packages: Entry, progress: Progress) -> dict[str, object]:
    root, log, uki = folder / "root", folder / "build.log", folder / "uki.efi"
    progress("hypervisor image: adding the agent to the root file system")
    debian.unpack(base, root, log)
    system.lay(root, KIND, {})
    system.switch(root, log, on=ENABLED, never=NEVER)
    agent_tree.lay(root, packages)
    progress("hypervisor image: making the unified kernel image")
    with chroot.mounted(root):
        kernel = system.unified_kernel(root, uki, log)
    system.clean(root)
    as_built.write(root, kernel, system.COMMAND_LINE)
    progress("hypervisor image: writing the disk")
    virtual_size = disk.write(folder, root, uki, log)
    shutil.rmtree(root)
    uki.unlink()
    progress(f"hypervisor image: done, {(folder / 'disk.qcow2').stat().st_size / 1e6:.0f} MB")
    return {"kernelRelease": kernel, "virtualSize": virtual_size}
