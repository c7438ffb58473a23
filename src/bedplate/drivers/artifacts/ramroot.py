"""What the RAM system's file tree holds beyond Debian, and its kernel, initrd and unified kernel image.

The files themselves lie in `ram/`, at the paths they have in the system. May not: make the medium.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from bedplate.drivers.artifacts import agent_tree, chroot
from bedplate.drivers.artifacts.cache import Entry
from bedplate.drivers.artifacts.proc import run

OVERLAY = Path(__file__).parent / "ram"
INIT = "usr/lib/bedplate/ram-init"

ENABLED = ("systemd-resolved.service", "bedplate-agent.service")
"""systemd-networkd is started with its configuration, by the agent's unit."""
MASKED = (
    # Nothing logs in, nothing is kept, no disk is touched but by the agent.
    *("getty.target", "getty@tty1.service", "serial-getty@ttyS0.service", "smartmontools.service", "swap.target"),
    *("systemd-networkd-wait-online.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"),
    *("systemd-firstboot.service", "systemd-hwdb-update.service", "ldconfig.service", "systemd-pstore.service"),
    *("fstrim.timer", "systemd-binfmt.service", "systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service"),
    *("systemd-hibernate-clear.service", "modprobe@dm_mod.service", "modprobe@fuse.service", "dev-hugepages.mount"),
    *(
        "sys-kernel-debug.mount",
        "sys-kernel-tracing.mount",
        "systemd-pcrproduct.service",
        "systemd-random-seed.service",
    ),
    *("systemd-pcrmachine.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "xfs_scrub_all.timer"),
    *("nvmf-autoconnect.service", "nvmefc-boot-connections.service", "modprobe@drm.service"),
    # What no agent needs; under software emulation each of them costs a second.
    *("systemd-logind.service", "systemd-user-sessions.service", "systemd-journal-catalog-update.service"),
    *("systemd-update-done.service", "systemd-udev-load-credentials.service", "systemd-journal-flush.service"),
    *("systemd-networkd-persistent-storage.service", "systemd-modules-load.service", "systemd-initctl.socket"),
    *("sys-kernel-config.mount", "modprobe@configfs.service", "tmp.mount", "run-lock.mount", "dev-mqueue.mount"),
    *("dbus.service", "dbus.socket", "proc-sys-fs-binfmt_misc.automount", "systemd-network-generator.service"),
)
GENERATORS = (
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-ssh-generator",
    "systemd-sysv-generator",
)
"""systemd's generators that would open a console or use what lies on the server's disks."""

MODULES = (
    *("arch", "block", "crypto", "lib", "mm", "net/802", "net/8021q", "net/core", "net/ethernet", "net/ipv4"),
    *("net/ipv6", "net/llc", "net/packet", "net/tls", "net/unix", "net/key", "net/xfrm", "net/psample"),
    *("fs/autofs", "fs/efivarfs", "fs/fat", "fs/isofs", "fs/nls", "fs/overlayfs", "fs/squashfs", "fs/ext4", "fs/udf"),
    *("fs/xfs", "drivers/acpi", "drivers/ata", "drivers/block/loop.ko.xz", "drivers/block/mtip32xx"),
    *("drivers/block/virtio_blk.ko.xz", "drivers/cdrom", "drivers/char", "drivers/cpufreq", "drivers/dca"),
    *("drivers/dma", "drivers/edac", "drivers/firmware", "drivers/hid/hid.ko.xz", "drivers/hid/hid-generic.ko.xz"),
    *("drivers/hid/usbhid", "drivers/hv", "drivers/hwmon", "drivers/i2c", "drivers/message", "drivers/net/bonding"),
    *("drivers/net/ethernet", "drivers/net/fjes", "drivers/net/hyperv", "drivers/net/mdio", "drivers/net/pcs"),
    *("drivers/net/phy", "drivers/net/usb", "drivers/net/virtio_net.ko.xz", "drivers/net/vmxnet3", "drivers/nvme"),
    *("drivers/net/xen-netfront.ko.xz", "drivers/pci", "drivers/powercap", "drivers/pps", "drivers/ptp"),
    *("drivers/rtc", "drivers/scsi", "drivers/thermal", "drivers/tty/serial", "drivers/usb/common"),
    *("drivers/usb/core", "drivers/usb/host", "drivers/usb/storage", "drivers/virtio", "drivers/watchdog"),
)
"""Kernel modules of the RAM system, as folders and files below `kernel/`, with all that they need: a server's disks,
network cards, sensors and BMC. No sound, graphics, radio or tape."""

EARLY_MODULES = (
    *("ahci", "ata_piix", "ata_generic", "sr_mod", "sd_mod", "usb_storage", "uas", "xhci_pci", "ehci_pci", "uhci_hcd"),
    *("ohci_pci", "virtio_pci", "virtio_scsi", "virtio_blk", "hv_storvsc", "vmw_pvscsi", "usbhid", "hid_generic"),
    *("loop", "squashfs", "overlay", "isofs"),
)
"""Kernel modules of the initrd: what a medium may hang on."""

APPLETS = (
    *("cat", "cp", "dd", "find", "ls", "mkdir", "modprobe", "mount", "mv", "sh", "sleep", "sort", "switch_root"),
    *("tr", "umount", "xargs", "echo", "rm"),
)

UNUSED = (
    # Packages' records and tools, the builder's tools, and languages other than Python's own parts that nothing needs.
    *("boot", "var/lib/apt", "var/lib/dpkg", "var/cache", "var/log", "usr/lib/apt", "usr/share/perl5", "usr/share/doc"),
    *("usr/share/zoneinfo", "usr/share/zsh", "usr/share/locale", "usr/share/initramfs-tools", "usr/lib/klibc"),
    *("usr/share/pixmaps", "usr/share/debconf", "usr/share/keyrings", "usr/lib/systemd/boot", "usr/lib/dracut"),
    *("usr/lib/udev/hwdb.d", "usr/lib/locale", "etc/apt", "etc/dpkg", "etc/initramfs-tools", "usr/share/misc/magic"),
    *("usr/bin/perl*", "usr/bin/apt*", "usr/bin/dpkg*", "usr/bin/sqv", "usr/bin/busybox", "usr/bin/localedef"),
    *("usr/lib/x86_64-linux-gnu/perl-base", "usr/lib/x86_64-linux-gnu/libapt-*"),
    *("usr/lib/x86_64-linux-gnu/libdb-*", "usr/lib/python3/dist-packages", "usr/bin/ukify", "usr/sbin/smartd"),
    *("usr/lib/python3.13/idlelib", "usr/lib/python3.13/ensurepip", "usr/lib/python3.13/pydoc_data"),
    *("usr/lib/python3.13/test", "usr/lib/python3.13/tkinter", "usr/lib/python3.13/turtledemo"),
)


def files() -> list[tuple[str, Path]]:
    """The files laid over Debian, `(path in the system, file)`, sorted."""
    return sorted((str(p.relative_to(OVERLAY)), p) for p in OVERLAY.rglob("*") if p.is_file())


def digest() -> str:
    """A digest of the files laid over Debian and of the code that does it: a change of either makes a new medium."""
    made = hashlib.sha256()
    code = [(name, Path(__file__).with_name(name)) for name in ("ramroot.py", "iso.py", "chroot.py")]
    for name, path in [*files(), *code]:
        data = path.read_bytes()
        made.update(f"{name}\0{len(data)}\0".encode())
        made.update(data)
    return made.hexdigest()


def customise(root: Path, agent: Entry, log: Path) -> None:
    """Lay our files and the agent over Debian, switch services on and off. The kernel's modules are as they were."""
    for name, source in files():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if name.startswith("usr/lib/bedplate/") else 0o644)
    agent_tree.lay(root, agent)
    systemctl = ["systemctl", f"--root={root}", "--quiet"]
    run([*systemctl, "set-default", "multi-user.target"], what="setting the default target", log=log)
    for unit in ENABLED:
        run([*systemctl, "enable", unit], what=f"enabling {unit}", log=log)
    _to_null(root / "etc" / "systemd" / "system", MASKED)
    _to_null(root / "etc" / "systemd" / "system-generators", (f"systemd-{g}-generator" for g in GENERATORS))
    # It locks the drive's door, and a BMC is to take the medium out when it likes.
    _to_null(root / "etc" / "udev" / "rules.d", ("60-cdrom_id.rules",))
    (root / "etc" / "hostname").write_text("bedplate-ram\n")
    (root / "etc" / "machine-id").write_text("")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost bedplate-ram\n::1 localhost\n")
    resolv = root / "etc" / "resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("/run/systemd/resolve/resolv.conf")


def boot_files(root: Path, out: Path, command_line: str, log: Path) -> str:
    """Make `kernel`, `initrd` and of them `ram.efi`, a unified kernel image, in `out`; gives the kernel's release. The
    tree's modules are trimmed and unpacked by it."""
    release = chroot.kernel_release(root)
    early = {p.name.removesuffix(".xz") for p in chroot.modules_with(root, release, EARLY_MODULES)}
    _trim(root / "usr" / "lib" / "modules" / release, early)
    inside = ["chroot", str(root)]
    run([*inside, "depmod", release], what="listing the kernel's modules", log=log)
    _initrd(root, release, early, log)
    with chroot.mounted(root):
        ukify = ["ukify", "build", f"--linux=/boot/vmlinuz-{release}", "--initrd=/tmp/initrd", f"--uname={release}"]
        ukify += [f"--cmdline={command_line}", "--os-release=@/etc/os-release", "--output=/tmp/ram.efi"]
        run([*inside, *ukify], what="making the unified kernel image", log=log)
        compiled = [
            "python3",
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
            f"/{agent_tree.PLACE}",
        ]
        run([*inside, *compiled], what="compiling the agent", log=log)
    shutil.move(root / "tmp" / "ram.efi", out / "ram.efi")
    shutil.move(root / "tmp" / "initrd", out / "initrd")
    shutil.copyfile(root / "boot" / f"vmlinuz-{release}", out / "kernel")
    return release


def clean(root: Path) -> None:
    """Remove what the system does not need once it is put together."""
    for pattern in UNUSED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"):
        (root / name).unlink(missing_ok=True)
    for folder in ("boot", "var/log", "var/cache"):
        (root / folder).mkdir()


def _to_null(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/null")


def _trim(modules: Path, early: set[str]) -> None:
    """Keep `MODULES`, those of the initrd and what they need, uncompressed: the medium's compression does better."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, more = line.partition(":")
        needs[name] = more.split()
    wanted = tuple(f"kernel/{m}" for m in MODULES)
    kept: set[str] = set()
    for name in needs:
        inside = any(name == w or name.startswith(f"{w}/") for w in wanted)
        if inside or name.rpartition("/")[2].removesuffix(".xz") in early:
            kept |= {name, *needs[name]}
    for name in needs:
        path = modules / name
        if name in kept and path.suffix == ".xz":
            chroot.copy_module(path, path.with_suffix(""))
        if name not in kept or path.suffix == ".xz":
            path.unlink()


def _initrd(root: Path, release: str, early: set[str], log: Path) -> None:
    tree = root / "tmp" / "initrd.tree"
    for folder in ("bin", "proc", "sys", "dev", "run", "root", "system", "memory", "medium"):
        (tree / folder).mkdir(parents=True)
    shutil.copy2(root / "usr/bin/busybox", tree / "bin" / "busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    shutil.copyfile(root / INIT, tree / "init")
    (tree / "init").chmod(0o755)
    source, target = root / "usr/lib/modules" / release, tree / "lib/modules" / release
    for path in source.rglob("*.ko"):
        if path.name in early:
            file = target / path.relative_to(source)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, file)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copyfile(source / name, target / name)
    run(["chroot", root, "depmod", "-b", "/tmp/initrd.tree", release], what="listing the initrd's modules", log=log)
    pack = "cd /tmp/initrd.tree && find . | sort | cpio --quiet -R 0:0 -o -H newc | zstd -q -19 -T0 -o /tmp/initrd"
    run(["chroot", root, "sh", "-c", pack], what="packing the RAM system's initrd", log=log)
    shutil.rmtree(tree)
