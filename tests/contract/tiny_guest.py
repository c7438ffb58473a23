"""A guest that boots in seconds: Debian's own kernel, busybox and the real guest agent, all in memory.

Its init reads what a node image would read: the network from the SMBIOS credential, its name from the command line.
On port 7 it gives back what it gets. The power button ends it. The packages come by `apt-get download`, once.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bedplate.model.blueprint import ImageRef
from bedplate.model.ids import Digest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bedplate" / "test-guest"
VERSION = "5"
MODULES = (
    "virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_console",
    "virtio_blk", "failover", "net_failover", "virtio_net", "virtio_balloon", "button", "evdev", "dmi-sysfs",
)  # fmt: skip

INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /etc/acpi /var/run /usr/var/run /var/log /usr/sbin
/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs run /run; /bin/busybox --install -s /bin
for round in 1 2 3; do for m in /modules/*.ko; do insmod $m 2>/dev/null; done; done
hostname $(sed -n 's/.*systemd.hostname=\([^ ]*\).*/\1/p' /proc/cmdline)
ip link set lo up
cred=$(cat /sys/firmware/dmi/entries/11-*/raw | tr '\0' '\n' | sed -n 's/^.*binary:network.network.10-bedplate=//p')
address=$(echo "$cred" | base64 -d | sed -n 's/^Address=//p')
ip addr add "$address" dev eth0; ip link set eth0 up
nc -ll -p 7 -e /bin/cat &
printf '#!/bin/sh\npoweroff -f\n' > /etc/acpi/off; chmod +x /etc/acpi/off
mkdir -p /etc/acpi/PWRF; cp /etc/acpi/off /etc/acpi/PWRF/00000080
acpid -l /dev/null 2>/dev/null
echo "tiny guest $(hostname) is up at $address"
while [ -z "$port" ]; do
  for p in /sys/class/virtio-ports/*; do
    [ "$(cat $p/name 2>/dev/null)" = org.qemu.guest_agent.0 ] && port=/dev/${p##*/}
  done
  [ -n "$port" ] || sleep 0.1
done
/usr/sbin/qemu-ga -m virtio-serial -p $port -d -l /dev/null
exec sh -c 'while read -r line; do echo "you said: $line"; [ "$line" = panic ] && echo c > /proc/sysrq-trigger; done'
"""


def image_files() -> dict[str, Path]:
    """Build (once) and give `kernel`, `initrd`, `disk`."""
    folder = CACHE / hashlib.sha256((VERSION + INIT).encode()).hexdigest()[:16]
    names = ("kernel", "initrd", "disk")
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            made = _build(Path(work))
            if not folder.exists():
                made.rename(folder)
    return {name: folder / name for name in names}


def image_ref(files: dict[str, Path]) -> ImageRef:
    """The image as a machine's entry names it."""
    return ImageRef(
        name="tiny",
        disk=digest(files["disk"]),
        kernel=digest(files["kernel"]),
        initrd=digest(files["initrd"]),
        virtual_size=16 << 20,
        command_line="console=ttyS0 panic=-1 quiet",
    )


def digest(path: Path) -> Digest:
    """Digest of a file."""
    return Digest("sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())


def _build(work: Path) -> Path:
    packages = ["busybox-static", "qemu-guest-agent", _kernel_package()]
    _run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *packages], work)
    for deb in work.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(deb), "root"], work)
    root, out, tree = work / "root", work / "out", work / "tree"
    out.mkdir()
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), out / "kernel")
    for folder in ("bin", "modules", "usr/sbin"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    shutil.copy(root / "usr/sbin/qemu-ga", tree / "usr/sbin/qemu-ga")
    for number, name in enumerate(MODULES):
        for found in (root / "lib/modules").rglob(f"{name}.ko"):
            shutil.copy(found, tree / "modules" / f"{number:02}-{name}.ko")
    for library in re.findall(r"(/\S+\.so\S*)", _run(["ldd", str(tree / "usr/sbin/qemu-ga")], work)):
        target = tree / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    packed = _run(["sh", "-c", "find . | bin/busybox cpio -o -H newc 2>/dev/null | base64 -w0"], tree)
    (out / "initrd").write_bytes(gzip.compress(base64.b64decode(packed), 1))
    _run(["qemu-img", "create", "-q", "-f", "qcow2", str(out / "disk"), "16M"], work)
    return out


def _kernel_package() -> str:
    depends = _run(["apt-cache", "depends", "linux-image-cloud-amd64"], Path("/"))
    return re.findall(r"Depends: (linux-image-\S+)", depends)[0]


def _run(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
