"""What tests of the lab's faults share: a lab of two hypervisors, a Redfish client, tiny guests, and looks inside."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import sushy

from bedplate.lab import Lab
from bedplate.lab.hypervisor import SHARED_POOL, home, members

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

import tiny_guest
from test_lab_lifecycle import Traces, until

TICK = ["sh", "-c", "while echo tick; do sleep 0.1; done"]
GUEST_ADDRESS = "10.88.0.150"
GUEST = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet systemd.hostname={name}</cmdline><smbios mode='sysinfo'/></os>
  <sysinfo type='smbios'><oemStrings><entry>{credential}</entry></oemStrings></sysinfo>
  <features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='pty'/>
  </devices>
</domain>
"""


class Bmc:
    """A hypervisor's BMC through a real Redfish client."""

    def __init__(self, lab: Lab, name: str, password: str = "") -> None:
        self.url = status_of(lab, name).bmc_address.removeprefix("redfish+")
        user, known = lab.bmc_login()
        self._login = sushy.auth.BasicAuth(user, password or known)

    def system(self) -> Any:
        parts = urllib.parse.urlsplit(self.url)
        root = sushy.Sushy(
            f"{parts.scheme}://{parts.netloc}/redfish/v1/", auth=self._login, server_side_retries=0, read_timeout=10
        )
        return root.get_system(parts.path)

    def power(self) -> str:
        return str(self.system().power_state.value)

    def reset(self, kind: sushy.ResetType) -> None:
        self.system().reset_system(kind)

    def raw(self, method: str = "GET", path: str = "", body: str = "", seconds: float = 10) -> bytes:
        """One request over a socket, for what a client library would hide; empty: it hung up."""
        parts = urllib.parse.urlsplit(self.url)
        pair = base64.b64encode(f"{self._login._username}:{self._login._password}".encode()).decode()
        with socket.create_connection((parts.hostname or "", parts.port or 0), seconds) as link:
            link.sendall(
                f"{method} {parts.path}{path} HTTP/1.0\r\nAuthorization: Basic {pair}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            link.settimeout(seconds)
            return b"".join(iter(lambda: link.recv(65536), b""))


def assert_gone(lab: Lab, traces: Traces) -> None:
    """Nothing is left: no process, namespace, mount, file, and no cgroup, of those that limit disks either."""
    traces.assert_none()
    disks = lab.cgroups.disks.blkio
    assert disks is None or not (disks / lab.cgroups.name).exists()


def two_hypervisors() -> Iterator[Lab]:
    """A lab without a controller, for a fixture; it must leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="bpl-", dir="/var/tmp"))
    made = Lab("faults", root=folder / "lab")
    try:
        made.up(2)
        traces = Traces(made)
        yield made
        traces.note()
        made.down()
        assert_gone(made, traces)
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


def make_whole(lab: Lab) -> None:
    """Mend the lab after a test, by what people mend it with, and see that it is whole."""
    for name in ("hv1", "hv2"):
        lab.stop_agent(name)
        lab.stop_agent(name, service="echo")
    lab.clear()
    status = lab.status()
    assert status.phase == "up"
    assert all(one.power == "on" and one.libvirt and one.bmc and one.watchdog for one in status.hypervisors)
    assert all(one.uplink == "up" and not one.faults for one in status.hypervisors)
    connection = libvirt.open(status.hypervisors[0].uri)
    for domain in connection.listAllDomains():
        domain.destroy()
    connection.close()


def status_of(lab: Lab, name: str = "hv1") -> Any:
    return next(one for one in lab.status().hypervisors if one.name == name)


def state_of(lab: Lab, program: str, name: str = "hv1") -> set[str]:
    """State letters of all processes of that program inside a hypervisor."""
    process = lab.load().hypervisors[name].process
    assert process is not None
    found: set[str] = set()
    for pid in members(process):
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(program):
                found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return found


def start_guest(lab: Lab, name: str, pool: str, *, address: str = GUEST_ADDRESS) -> None:
    """Start a tiny guest on hv1 with its disk on that pool."""
    files = tiny_guest.image_files()
    host_pool = lab.folder / "shared" if pool == SHARED_POOL else home(lab.folder, "hv1") / "bedplate/pools/local"
    shutil.copy(files["disk"], host_pool / f"{name}.qcow2")
    network = base64.b64encode(f"[Network]\nAddress={address}/24\n".encode()).decode()
    connection = libvirt.open(status_of(lab).uri)
    connection.createXML(
        GUEST.format(
            name=name,
            kernel=files["kernel"],
            initrd=files["initrd"],
            disk=f"{pool}/{name}.qcow2",
            credential=f"io.systemd.credential.binary:network.network.10-bedplate={network}",
        )
    )
    connection.close()


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def ticks_on(log: Path) -> bool:
    """Whether the service that ticks still does."""
    before = lines(log)
    try:
        until(lambda: lines(log) > before + 1, 3)
    except AssertionError:
        return False
    return True
