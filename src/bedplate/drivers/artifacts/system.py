"""What every system on a disk holds beyond Debian, whatever its role: files, services, the kernel that UEFI boots.

The files themselves lie in `system/`, at the paths they have in the image. May not: know a role's own parts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from bedplate.drivers.artifacts import chroot
from bedplate.drivers.artifacts.proc import run

COMMAND_LINE = "root=LABEL=root ro console=tty0 console=ttyS0 net.ifnames=0 systemd.gpt_auto=0 panic=10 quiet"
"""Kernel command line of both ways to boot. `net.ifnames=0`: the first network card is eth0 on either substrate.
`panic`: without its root file system a machine starts again, instead of opening a shell on its console."""

PACKAGES = (
    # the system, and both ways to boot it
    *("systemd", "systemd-sysv", "udev", "dbus", "systemd-resolved", "systemd-repart", "kmod", "initramfs-tools"),
    *("zstd", "linux-image-amd64", "systemd-ukify", "systemd-boot-efi", "busybox-static", "e2fsprogs", "procps"),
    *("python3", "iproute2", "ethtool", "ca-certificates", "mount", "util-linux", "nfs-common"),
    "mtools",  # on bare metal the agent takes its one-time enrolment from the EFI system partition
    # ways in
    *("openssh-server", "iputils-ping", "curl", "less"),
)
ENABLED = (
    "systemd-networkd.service",
    "systemd-network-generator.service",
    "systemd-resolved.service",
    "bedplate-grow.service",
    "bedplate-agent.service",
    "ssh.socket",
)
DISABLED = ("ssh.service", "e2scrub_reap.service", "rpcbind.service")
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


_FOLDER = Path(__file__).parent
_EXECUTABLE = ("usr/lib/bedplate/", "etc/initramfs-tools/scripts/")
_CODE = ("system.py", "disk.py", "chroot.py")


def files(role: str) -> list[tuple[str, Path]]:
    """The files laid over Debian for a role, `(path in the image, file)`, sorted."""
    roots = [_FOLDER / "system", _FOLDER / role]
    return sorted((str(p.relative_to(root)), p) for root in roots for p in root.rglob("*") if p.is_file())


def digest(role: str, code: Iterable[str]) -> str:
    """A digest of a role's files and of the code that lays them: a change of either makes a new image."""
    made = hashlib.sha256()
    for name, path in [*files(role), *((n, _FOLDER / n) for n in (*_CODE, *code))]:
        data = path.read_bytes()
        made.update(f"{name}\0{len(data)}\0".encode())
        made.update(data)
    return made.hexdigest()


def lay(root: Path, role: str, words: Mapping[str, str]) -> None:
    """Lay a role's files over Debian, with `words` replaced in them."""
    for name, source in files(role):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        target.write_text(text)
        target.chmod(0o755 if name.startswith(_EXECUTABLE) else 0o644)
    (root / "var" / "log" / "journal").mkdir(parents=True, exist_ok=True)


def switch(
    root: Path, log: Path, *, on: Iterable[str] = (), off: Iterable[str] = (), never: Iterable[str] = ()
) -> None:
    """Switch services on and off; those of every role and these."""
    systemctl = ["systemctl", f"--root={root}", "--quiet"]
    for unit in (*ENABLED, *on):
        run([*systemctl, "enable", unit], what=f"enabling {unit}", log=log)
    for unit in (*DISABLED, *off):
        run([*systemctl, "disable", unit], what=f"disabling {unit}", log=log)
    units = root / "etc" / "systemd" / "system"
    for unit in (*MASKED, *never):
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def unified_kernel(root: Path, out: Path, log: Path) -> str:
    """Make `out`, a unified kernel image with all drivers, in an entered tree; gives the kernel's release."""
    release = chroot.kernel_release(root)
    inside = ["chroot", str(root)]
    run([*inside, "mkinitramfs", "-o", "/tmp/initrd.generic", release], what="making the initrd", log=log)
    ukify = ["ukify", "build", f"--linux=/boot/vmlinuz-{release}", "--initrd=/tmp/initrd.generic"]
    ukify += [f"--cmdline={COMMAND_LINE}", f"--uname={release}", "--os-release=@/etc/os-release"]
    run([*inside, *ukify, "--output=/tmp/uki.efi"], what="making the unified kernel image", log=log)
    shutil.move(root / "tmp" / "uki.efi", out)
    (root / "tmp" / "initrd.generic").unlink()
    return release


def clean(root: Path) -> None:
    """Remove what must differ between machines, and what none needs."""
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
