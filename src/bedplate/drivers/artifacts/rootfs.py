"""What a node's root file system holds beyond Debian: programs, services, container images, ways to boot.

The files themselves lie in `node/`, at the paths they have in the image. May not: make disks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from bedplate.drivers.artifacts import chroot
from bedplate.drivers.artifacts.proc import ArtifactError, run
from bedplate.drivers.artifacts.release import ReleaseBuild

OVERLAY = Path(__file__).parent / "node"
BINARIES = ("kubeadm", "kubelet", "kubectl", "etcdctl", "etcdutl")
_EXECUTABLE = ("usr/lib/bedplate/", "etc/initramfs-tools/scripts/")

ENABLED = (
    "systemd-networkd.service",
    "systemd-network-generator.service",
    "systemd-resolved.service",
    "containerd.service",
    "kubelet.service",
    "bedplate-routes.path",
    "bedplate-grow.service",
    "bedplate-certificates.timer",
    "keepalived.service",
    "bedplate-agent.service",
    "qemu-guest-agent.service",
    "ssh.socket",
)
DISABLED = ("nftables.service", "ssh.service", "e2scrub_reap.service", "rpcbind.service")
MASKED = (
    # Timers and services of a hand-kept server; nodes are replaced, not kept.
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "man-db.timer"),
    *("fstrim.timer", "systemd-networkd-wait-online.service", "systemd-pstore.service", "rpcbind.socket"),
    *("systemd-firstboot.service", "systemd-hwdb-update.service", "ldconfig.service", "getty@tty1.service"),
    *("systemd-hibernate-clear.service", "systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service"),
    *("systemd-repart.service", "systemd-binfmt.service", "nfs-blkmap.service", "rpc-statd-notify.service"),
    *("nfs-client.target", "modprobe@dm_mod.service", "modprobe@loop.service", "modprobe@fuse.service"),
    *("modprobe@configfs.service", "systemd-udev-load-credentials.service"),
    *("systemd-pcrproduct.service", "systemd-pcrmachine.service", "systemd-pcrphase.service"),
    *("systemd-pcrphase-sysinit.service", "dev-hugepages.mount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "modprobe@efi_pstore.service", "modprobe@drm.service"),
)

FAST_MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "ahci", "dmi_sysfs", "qemu_fw_cfg", "ext4")
"""Kernel modules of the virtual machines' initrd: the disks a hypervisor gives, and where credentials lie."""


def overlay_files() -> list[tuple[str, Path]]:
    """The files laid over Debian, `(path in the image, file)`, sorted."""
    return sorted((str(p.relative_to(OVERLAY)), p) for p in OVERLAY.rglob("*") if p.is_file())


def overlay_digest() -> str:
    """A digest of the files laid over Debian and of the code that does it: a change of either makes a new image."""
    digest = hashlib.sha256()
    code = [(name, Path(__file__).with_name(name)) for name in ("rootfs.py", "disk.py", "chroot.py")]
    for name, path in [*overlay_files(), *code]:
        data = path.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def customise(root: Path, release: ReleaseBuild, log: Path) -> None:
    """Lay our files over Debian, add the programs, switch services on and off."""
    for name, source in overlay_files():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text().replace("@PAUSE@", release.pause)
        target.write_text(text)
        target.chmod(0o755 if name.startswith(_EXECUTABLE) else 0o644)
    for name in BINARIES:
        if name in release.binaries:
            shutil.copyfile(release.binaries[name], root / "usr" / "bin" / name)
            (root / "usr" / "bin" / name).chmod(0o755)
    # Network add-ons put their plugins into /opt/cni/bin, so that is where Debian's are found too.
    plugins = root / "opt" / "cni" / "bin"
    plugins.mkdir(parents=True, exist_ok=True)
    for plugin in sorted((root / "usr" / "lib" / "cni").iterdir()):
        (plugins / plugin.name).symlink_to(Path("/usr/lib/cni") / plugin.name)
    for folder in ("etc/kubernetes/manifests", "etc/cni/net.d", "var/log/journal", "var/lib/kubelet"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    systemctl = ["systemctl", f"--root={root}", "--quiet"]
    for unit in ENABLED:
        run([*systemctl, "enable", unit], what=f"enabling {unit}", log=log)
    for unit in DISABLED:
        run([*systemctl, "disable", unit], what=f"disabling {unit}", log=log)
    units = root / "etc" / "systemd" / "system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


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


def boot_files(root: Path, out: Path, command_line: str, log: Path) -> str:
    """Make `vmlinuz`, `initrd` (virtual machines) and `uki.efi` (all drivers) in `out`; gives the kernel's release."""
    release = chroot.kernel_release(root)
    inside = ["chroot", str(root)]
    with chroot.mounted(root):
        run([*inside, "mkinitramfs", "-o", "/tmp/initrd.generic", release], what="making the initrd", log=log)
        _fast_initrd(root, release, log)
        ukify = ["ukify", "build", f"--linux=/boot/vmlinuz-{release}", "--initrd=/tmp/initrd.generic"]
        ukify += [f"--cmdline={command_line}", f"--uname={release}", "--os-release=@/etc/os-release"]
        run([*inside, *ukify, "--output=/tmp/uki.efi"], what="making the unified kernel image", log=log)
    shutil.copyfile(root / "boot" / f"vmlinuz-{release}", out / "vmlinuz")
    # kubeadm's preflight reads how the kernel was configured; /boot is emptied, so it is kept where it also looks.
    shutil.copyfile(root / "boot" / f"config-{release}", root / "usr" / "lib" / "modules" / release / "config")
    shutil.move(root / "tmp" / "initrd.fast", out / "initrd")
    shutil.move(root / "tmp" / "uki.efi", out / "uki.efi")
    (root / "tmp" / "initrd.generic").unlink()
    return release


def clean(root: Path) -> None:
    """Remove what must differ between nodes, and what no node needs."""
    for pattern in ("etc/ssh/ssh_host_*", "boot/*", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log"):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old", "etc/hostname"):
        (root / name).unlink(missing_ok=True)
    (root / "etc" / "machine-id").write_text("")
    (root / "var" / "lib" / "dbus" / "machine-id").unlink(missing_ok=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    resolv = root / "etc" / "resolv.conf"
    resolv.unlink(missing_ok=True)
    # The servers themselves, not the stub at 127.0.0.53: a pod cannot reach that one.
    resolv.symlink_to("/run/systemd/resolve/resolv.conf")
    for cache in (root / "usr").rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    (root / "etc" / "systemd" / "system-generators").mkdir(exist_ok=True)
    # Logs in over AF_VSOCK, which no machine here has; it would complain at every reload.
    (root / "etc" / "systemd" / "system-generators" / "systemd-ssh-generator").symlink_to("/dev/null")
    _mark_updated(root)


def _mark_updated(root: Path) -> None:
    """Say that /etc and /var know of /usr as it is: else each first boot makes catalogues and users anew."""
    changed = (root / "usr").stat().st_mtime_ns
    for folder in ("etc", "var"):
        mark = root / folder / ".updated"
        mark.write_text(f"TIMESTAMP_NSEC={changed}\n")
        os.utime(mark, ns=(changed, changed))


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
