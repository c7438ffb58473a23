"""What a node's root file system holds beyond that of every role: programs, services, container images, ways to boot.

The files themselves lie in `node/`, at the paths they have in the image. May not: make disks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from bedplate.drivers.artifacts import chroot, system
from bedplate.drivers.artifacts.proc import ArtifactError, run
from bedplate.drivers.artifacts.release import ReleaseBuild

ROLE = "node"
BINARIES = ("kubeadm", "kubelet", "kubectl", "etcdctl", "etcdutl")

ENABLED = (
    "containerd.service",
    "kubelet.service",
    "bedplate-routes.path",
    "bedplate-certificates.timer",
    "keepalived.service",
    "qemu-guest-agent.service",
)
DISABLED = ("nftables.service",)

FAST_MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "ahci", "dmi_sysfs", "qemu_fw_cfg", "ext4")
"""Kernel modules of the virtual machines' initrd: the disks a hypervisor gives, and where credentials lie."""


def customise(root: Path, release: ReleaseBuild, log: Path) -> None:
    """Lay our files over Debian, add the programs, switch services on and off."""
    system.lay(root, ROLE, {"@PAUSE@": release.pause})
    for name in BINARIES:
        if name in release.binaries:
            shutil.copyfile(release.binaries[name], root / "usr" / "bin" / name)
            (root / "usr" / "bin" / name).chmod(0o755)
    # Network add-ons put their plugins into /opt/cni/bin, so that is where Debian's are found too.
    plugins = root / "opt" / "cni" / "bin"
    plugins.mkdir(parents=True, exist_ok=True)
    for plugin in sorted((root / "usr" / "lib" / "cni").iterdir()):
        (plugins / plugin.name).symlink_to(Path("/usr/lib/cni") / plugin.name)
    for folder in ("etc/kubernetes/manifests", "etc/cni/net.d", "var/lib/kubelet"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    system.switch(root, log, on=ENABLED, off=DISABLED)


def load_images(root: Path, release: ReleaseBuild, scratch: Path, log: Path) -> None:
    """Import the container images with the image's own containerd and pin them against garbage collection."""
    inside = root / "var" / "tmp" / "images"
    inside.mkdir(parents=True)
    for archive in release.images.values():
        shutil.copyfile(archive, inside / archive.name)
    with chroot.mounted(root), _containerd(root, scratch, log):
        ctr = ["chroot", str(root), "ctr", "-n", "k8s.io", "images"]
        for name, archive in release.images.items():
            run([*ctr, "import", f"/var/tmp/images/{archive.name}"], what=f"import of {name}", log=log)
            run([*ctr, "label", name, "io.cri-containerd.pinned=pinned"], what=f"pinning {name}", log=log)
        there = run([*ctr, "ls", "-q"], what="list of images").split()
    missing = sorted(set(release.images) - set(there))
    if missing:
        raise ArtifactError(f"containerd in the node image did not take {', '.join(missing)}; see {log}")
    shutil.rmtree(inside)


def boot_files(root: Path, out: Path, log: Path) -> str:
    """Make `vmlinuz`, `initrd` (virtual machines) and `uki.efi` (all drivers) in `out`; gives the kernel's release."""
    with chroot.mounted(root):
        release = system.unified_kernel(root, out / "uki.efi", log)
        _fast_initrd(root, release, log)
    shutil.copyfile(root / "boot" / f"vmlinuz-{release}", out / "vmlinuz")
    # kubeadm's preflight reads how the kernel was configured; /boot is emptied, so it is kept where it also looks.
    shutil.copyfile(root / "boot" / f"config-{release}", root / "usr" / "lib" / "modules" / release / "config")
    shutil.move(root / "tmp" / "initrd.fast", out / "initrd")
    return release


def _fast_initrd(root: Path, release: str, log: Path) -> None:
    """An initrd of busybox, `fast-init` and a handful of unpacked modules in the order in which they load."""
    tree = root / "tmp" / "fast"
    (tree / "bin").mkdir(parents=True)
    for folder in ("proc", "sys", "dev", "root", "modules"):
        (tree / folder).mkdir()
    busybox = next(p for p in (root / "usr/bin/busybox", root / "bin/busybox") if p.exists())
    shutil.copy2(busybox, tree / "bin" / "busybox")
    for applet in ("sh", "mount", "insmod", "findfs", "sleep", "cat", "ls", "echo", "switch_root", "poweroff"):
        (tree / "bin" / applet).symlink_to("busybox")
    shutil.copyfile(root / "usr/lib/bedplate/fast-init", tree / "init")
    (tree / "init").chmod(0o755)
    order: list[str] = []
    for source in chroot.modules_with(root, release, FAST_MODULES):
        name = source.name.removesuffix(".xz")
        order.append(name)
        chroot.copy_module(source, tree / "modules" / name)
    (tree / "modules" / "order").write_text("\n".join(order) + "\n")
    # Uncompressed modules in a gzip archive of a few MB: unpacked in a blink also under software emulation.
    pack = "cd /tmp/fast && find . | sort | cpio --quiet -R 0:0 -o -H newc | gzip -9n > /tmp/initrd.fast"
    run(["chroot", root, "sh", "-c", pack], what="packing the virtual machines' initrd", log=log)
    shutil.rmtree(tree)


@contextmanager
def _containerd(root: Path, scratch: Path, log: Path) -> Generator[None]:
    """The image's own containerd, running in a chroot until the block ends."""
    with (scratch / "containerd.log").open("wb") as output:
        process = subprocess.Popen(
            ["chroot", str(root), "containerd"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        try:
            _wait_for_containerd(root, process, scratch / "containerd.log")
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait_for_containerd(root: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        answer = subprocess.run(["chroot", str(root), "ctr", "version"], check=False, capture_output=True)
        if answer.returncode == 0:
            return
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise ArtifactError(f"containerd of the node image does not start in a chroot:\n{tail}")
