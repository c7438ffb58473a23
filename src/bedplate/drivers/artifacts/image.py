"""The node image: one disk that boots bare metal by UEFI and virtual machines by a kernel handed to them.

GPT, an EFI system partition with a unified kernel image, an ext4 root with containerd, kubeadm, kubelet and the
container images of one release, pinned. No cloud-init, no host name, no machine id, no keys, no secrets: all that
makes a node comes by systemd credentials and the guest agent. May not: boot or join anything.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

from bedplate import as_built
from bedplate.drivers.artifacts import agent_tree, debian, disk, rootfs, system
from bedplate.drivers.artifacts.cache import Cache, Entry, sha256_file
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet
from bedplate.drivers.artifacts.release import ReleaseBuild

RECIPE = 1
"""Raise when the way of building changes in a way that no other input shows."""

MAX_MINOR = 35
"""Newest Kubernetes 1.x that trixie's containerd 1.7 serves; from 1.36 on kubeadm asks for containerd 2."""

PACKAGES = (
    *system.PACKAGES,
    # what a Kubernetes node needs
    *("containerd", "runc", "containernetworking-plugins", "nftables", "iptables", "conntrack"),
    *("socat", "ipset", "keepalived", "jq"),
    "qemu-guest-agent",
)


class DiskFile(msgspec.Struct, frozen=True):
    """A file of an image: path, SHA-256 in hex, size in bytes."""

    path: Path
    sha256: str
    size: int


class ImageBuild(msgspec.Struct, frozen=True):
    """A node image in the cache. `virtual_size` in bytes; `boot` is how a VM with `kernel` and `initrd` starts."""

    name: str
    key: str
    kubernetes_version: str
    disk: DiskFile
    kernel: DiskFile
    initrd: DiskFile
    command_line: str
    format: str
    virtual_size: int
    boot: str
    bootstrap: str
    images: tuple[str, ...]
    size: int


def build_node_image(release: ReleaseBuild, cache: Cache | None = None, progress: Progress = quiet) -> ImageBuild:
    """Build the node image of a release, or take it from the cache. Needs root. Raises `ArtifactError`."""
    cache = cache or Cache()
    check_supported(release.version)
    inputs = {
        "recipe": RECIPE,
        "release": release.key,
        "suite": debian.SUITE,
        "packages": list(PACKAGES),
        "cuts": list(debian.CUTS),
        "recipeFiles": system.digest(rootfs.ROLE, ["rootfs.py"]),
        "agent": agent_tree.digest(),
        "commandLine": system.COMMAND_LINE,
    }
    found = cache.find("image", inputs)
    if found is not None:
        return read_image(found)
    if os.geteuid() != 0:
        raise ArtifactError("building a node image needs root (it runs containerd and mounts in a chroot); use sudo")

    def build(folder: Path) -> dict[str, object]:
        # Taken only when the image is really built: the Debian tree is large and may have been removed since.
        base = debian.tree(cache, PACKAGES, "node image", progress)
        return _build(folder, release, base, agent_tree.packages(cache, progress), progress)

    return read_image(
        cache.obtain("image", inputs, build, progress, label=f"node image for Kubernetes {release.version}")
    )


def list_images(cache: Cache | None = None) -> list[ImageBuild]:
    """Node images in the cache, newest first."""
    return [read_image(e) for e in (cache or Cache()).entries("image")]


def find_image(name: str, cache: Cache | None = None) -> ImageBuild:
    """The image with this name, or the newest for a Kubernetes version. Raises `ArtifactError`."""
    images = list_images(cache)
    for image in images:
        if name in (image.name, image.kubernetes_version):
            return image
    have = ", ".join(i.name for i in images) or "none"
    raise ArtifactError(f"there is no image {name!r} in the cache (there: {have}); see `bedplate image ls`")


def remove_image(name: str, cache: Cache | None = None) -> ImageBuild | None:
    """Delete what `find_image` gives from the cache; None: there is none. Raises `InUse`: another process uses it."""
    cache = cache or Cache()
    for entry in cache.entries("image"):
        found = read_image(entry)
        if name in (found.name, found.kubernetes_version):
            cache.remove(entry)
            return found
    return None


def read_image(entry: Entry) -> ImageBuild:
    """A cache entry as an image."""
    files = entry.manifest.files

    def file(name: str) -> DiskFile:
        return DiskFile(entry.path / name, files[name].sha256, files[name].size)

    facts = entry.facts
    return ImageBuild(
        name=f"node-{facts['kubernetesVersion']}-{entry.key[:8]}",
        key=entry.key,
        kubernetes_version=facts["kubernetesVersion"],
        disk=file("disk.qcow2"),
        kernel=file("vmlinuz"),
        initrd=file("initrd"),
        command_line=facts["commandLine"],
        format=facts["format"],
        virtual_size=facts["virtualSize"],
        boot=facts["boot"],
        bootstrap=facts["bootstrap"],
        images=tuple(facts["images"]),
        size=entry.size(),
    )


def check_supported(version: str) -> None:
    """Refuse a release that the container runtime in the image does not serve. Raises `ArtifactError`."""
    match = re.match(r"1\.(\d+)\.", version)
    if match is None or int(match[1]) > MAX_MINOR:
        raise ArtifactError(
            f"a node image for Kubernetes {version} needs containerd 2, and this image has Debian {debian.SUITE}'s "
            f"containerd 1.7; take a release up to 1.{MAX_MINOR}"
        )


def _build(folder: Path, release: ReleaseBuild, base: Path, packages: Entry, progress: Progress) -> dict[str, object]:
    root, log = folder / "root", folder / "build.log"
    progress("node image: adding Kubernetes to the root file system")
    debian.unpack(base, root, log)
    rootfs.customise(root, release, log)
    agent_tree.lay(root, packages)
    progress(f"node image: loading {len(release.images)} container images into its containerd")
    rootfs.load_images(root, release, folder, log)
    progress("node image: making kernel, initrd and unified kernel image")
    kernel = rootfs.boot_files(root, folder, log)
    system.clean(root)
    as_built.write(root, kernel, system.COMMAND_LINE)
    progress("node image: writing the disk")
    virtual_size = disk.write(folder, root, folder / "uki.efi", log)
    shutil.rmtree(root)
    (folder / "uki.efi").unlink()
    progress(f"node image: done, {(folder / 'disk.qcow2').stat().st_size / 1e6:.0f} MB")
    return {
        "kubernetesVersion": release.version,
        "release": release.key,
        "kernelRelease": kernel,
        "commandLine": system.COMMAND_LINE,
        "format": "qcow2",
        "virtualSize": virtual_size,
        "boot": "direct-kernel|uefi",
        "bootstrap": "guest-agent",
        "images": sorted(release.images),
        "diskDigest": sha256_file(folder / "disk.qcow2"),
    }
