"""What is broken on purpose in the lab breaks as on real servers, is mended, and leaves nothing behind."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
import sushy

from bedplate.lab import Lab, LabError, faults, processes
from bedplate.lab.hypervisor import LOCAL_POOL, SHARED_POOL, home, members
from bedplate.model.leases import MARGIN, WATCHDOG

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

import tiny_guest
from test_lab_lifecycle import ECHO, Traces, ask, until

pytestmark = pytest.mark.lab

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
        self.url = next(one.bmc_address for one in lab.status().hypervisors if one.name == name)
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


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hypervisors without a controller, whole before each test."""
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


@pytest.fixture(autouse=True)
def whole(lab: Lab) -> Iterator[None]:
    """Mend the lab after each test by the command that people use."""
    yield
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


# --- the BMC ---


def test_a_redfish_client_reads_and_switches_the_power(lab: Lab) -> None:
    bmc = Bmc(lab, "hv1")
    lab.spawn_agent("hv1", ["sh", "-c", "echo started; exec sleep 1000"])
    until(lambda: lines(lab.log("hv1")) == 1)
    assert bmc.power() == "On"
    init = lab.load().hypervisors["hv1"].process
    assert init is not None
    inside = members(init)
    bmc.reset(sushy.ResetType.FORCE_OFF)
    assert bmc.power() == "Off"
    assert not [pid for pid in inside if processes.alive(processes.identify(pid))]
    assert status_of(lab).power == "off"
    bmc.reset(sushy.ResetType.FORCE_OFF)  # off already is off
    bmc.reset(sushy.ResetType.ON)
    assert bmc.power() == "On"
    until(lambda: lines(lab.log("hv1")) == 2)
    until(lambda: status_of(lab).libvirt)
    bmc.reset(sushy.ResetType.FORCE_RESTART)
    until(lambda: lines(lab.log("hv1")) == 3)
    assert Bmc(lab, "hv2").power() == "On"
    with pytest.raises(sushy.exceptions.AccessError):
        Bmc(lab, "hv1", "guess").power()


def test_a_graceful_shutdown_lets_programs_say_goodbye(lab: Lab) -> None:
    lab.spawn_agent("hv1", ["sh", "-c", "trap 'echo bye; exit' TERM; echo here; while :; do sleep 0.1; done"])
    until(lambda: lines(lab.log("hv1")) > 0 and lab.log("hv1").read_text().endswith("here\n"))
    bmc = Bmc(lab, "hv1")
    bmc.reset(sushy.ResetType.GRACEFUL_SHUTDOWN)
    until(lambda: bmc.power() == "Off")
    assert lab.log("hv1").read_text().endswith("bye\n")
    until(lambda: status_of(lab).power == "off")


def test_the_bmc_cuts_the_power_while_a_command_holds_the_lab(lab: Lab) -> None:
    bmc = Bmc(lab, "hv1")
    with lab.changing():
        order = threading.Thread(target=bmc.reset, args=(sushy.ResetType.FORCE_OFF,))
        order.start()
        until(lambda: bmc.power() == "Off", 5)
    order.join()
    assert status_of(lab).power == "off"


def test_the_bmcs_and_their_password_stay_when_the_lab_is_brought_up_again(lab: Lab) -> None:
    before, login = [one.bmc_address for one in lab.status().hypervisors], lab.bmc_login()
    processes.kill(lab.load().hypervisors["hv2"].bmc.process)  # type: ignore[union-attr]
    assert lab.status().phase == "broken"
    lab.up()
    assert ([one.bmc_address for one in lab.status().hypervisors], lab.bmc_login()) == (before, login)
    assert Bmc(lab, "hv2").power() == "On"


def test_a_broken_bmc_is_slow_fails_drops_lies_and_is_deaf(lab: Lab) -> None:
    bmc = Bmc(lab, "hv1")
    lab.fault("hv1", faults.BmcFault(delay=1.0))
    begun = time.monotonic()
    assert b'"PowerState": "On"' in bmc.raw()
    assert time.monotonic() - begun >= 1
    lab.fault("hv1", faults.BmcFault(error=500))
    assert b" 500 " in bmc.raw().splitlines()[0]
    lab.fault("hv1", faults.BmcFault(drop=1.0))
    assert bmc.raw() == b""
    lab.fault("hv1", faults.BmcFault(lie="off", health="Critical", problem="Fan 3 stands still."))
    system = bmc.system()
    assert (system.power_state.value, system.status.health.value) == ("Off", "Critical")
    assert system.json["Status"]["Conditions"][0]["Message"] == "Fan 3 stands still."
    lab.fault("hv1", faults.BmcFault(deaf=True))
    bmc.reset(sushy.ResetType.FORCE_OFF)
    assert (bmc.power(), status_of(lab).power) == ("On", "on")
    assert status_of(lab).faults == ("bmc (deaf)",)
    lab.clear("hv1", "bmc")
    bmc.reset(sushy.ResetType.FORCE_OFF)
    assert bmc.power() == "Off"


# --- power ---


def test_a_server_without_power_is_silent_and_its_bmc_says_off(lab: Lab) -> None:
    lab.spawn_agent("hv1", [sys.executable, "-c", ECHO], service="echo")
    until(lambda: ask(lab, "hv2", "hv1") == "hi!")
    code = (
        "import socket;c=socket.create_connection(('hv1',7000),2);print('connected',flush=True);c.settimeout(3)\n"
        "try: print('heard', c.recv(9))\nexcept TimeoutError: print('silence')"
    )
    peer = subprocess.Popen(lab.command("hv2", [sys.executable, "-c", code]), stdout=subprocess.PIPE, text=True)
    assert peer.stdout is not None
    assert peer.stdout.readline() == "connected\n"
    begun = time.monotonic()
    lab.fault("hv1", faults.PowerOff())
    assert time.monotonic() - begun < 2
    assert peer.communicate(timeout=10)[0] == "silence\n", "a power cut sends neither FIN nor RST"
    assert Bmc(lab, "hv1").power() == "Off"
    one = status_of(lab)
    assert (one.power, one.faults, one.watchdog, lab.status().phase) == ("off", ("power-off",), False, "up")
    assert lab.clear() == ["hv1"]
    assert Bmc(lab, "hv1").power() == "On"
    until(lambda: ask(lab, "hv2", "hv1") == "hi!")


def test_a_dead_feed_takes_the_bmc_too_and_what_was_asked_of_it_is_never_done(lab: Lab) -> None:
    bmc = Bmc(lab, "hv1")
    lab.fault("hv1", faults.PowerFeed())
    with pytest.raises(TimeoutError):
        bmc.raw(seconds=1)
    with pytest.raises(TimeoutError):
        bmc.raw("POST", "/Actions/ComputerSystem.Reset", '{"ResetType": "ForceOff"}', seconds=1)
    one = status_of(lab)
    assert (one.power, one.bmc, one.faults, lab.status().phase) == ("off", False, ("power-feed",), "up")
    assert Bmc(lab, "hv2").power() == "On", "the other server hangs on another feed"
    with pytest.raises(LabError, match="no power feed"):
        lab.power("hv1", "on")
    lab.clear("hv1")
    boot = lab.load().hypervisors["hv1"].process
    assert bmc.power() == "On"
    assert lab.load().hypervisors["hv1"].process == boot


# --- programs that stand still ---


def test_a_hung_server_stands_still_while_its_guest_answers(lab: Lab) -> None:
    start_guest(lab, "g1", LOCAL_POOL)
    lab.spawn_agent("hv1", TICK)
    until(lambda: ask(lab, "hv2", GUEST_ADDRESS, 7) == "hi", 120)
    lab.fault("hv1", faults.Hang())
    assert ask(lab, "hv2", GUEST_ADDRESS, 7) == "hi"
    assert (status_of(lab).power, status_of(lab).libvirt) == ("on", False)
    assert state_of(lab, "libvirtd") == {"T"}
    assert "T" not in state_of(lab, "qemu-system-")
    assert not ticks_on(lab.log("hv1"))
    lab.fault("hv1", faults.LibvirtHang())
    lab.clear("hv1", "hang")
    assert state_of(lab, "libvirtd") == {"T"}, "the other fault still holds it"
    assert ticks_on(lab.log("hv1"))
    lab.clear("hv1", "libvirt-hang")
    until(lambda: status_of(lab).libvirt)


def test_a_hung_libvirt_leaves_the_agent_and_the_guests_alone(lab: Lab) -> None:
    start_guest(lab, "g1", LOCAL_POOL)
    lab.spawn_agent("hv1", TICK)
    lab.fault("hv1", faults.LibvirtHang())
    assert (status_of(lab).libvirt, state_of(lab, "libvirtd")) == (False, {"T"})
    assert "T" not in state_of(lab, "qemu-system-")
    assert ticks_on(lab.log("hv1"))
    Bmc(lab, "hv1").reset(sushy.ResetType.FORCE_RESTART)
    until(lambda: status_of(lab).libvirt)
    assert status_of(lab).faults == (), "what hung is gone with its power"
    lab.power("hv1", "off")
    with pytest.raises(LabError, match="can't hang"):
        lab.fault("hv1", faults.Hang())


# --- network, storage, disk ---


def test_a_partition_cuts_the_network_and_nothing_else(lab: Lab) -> None:
    lab.spawn_agent("hv1", [sys.executable, "-c", ECHO], service="echo")
    until(lambda: ask(lab, "hv2", "hv1") == "hi!")
    lab.fault("hv1", faults.Partition())
    assert ask(lab, "hv2", "hv1") == ""
    assert (status_of(lab).libvirt, status_of(lab).uplink) == (True, "down")
    assert lab.exec("hv1", ["touch", f"{SHARED_POOL}/reached"]).returncode == 0
    lab.clear("hv1")
    until(lambda: ask(lab, "hv2", "hv1") == "hi!")


def test_a_partition_of_the_storage_too_stops_guests_that_stand_on_it(lab: Lab) -> None:
    (lab.folder / "shared" / "known").write_text("here")
    start_guest(lab, "g-shared", SHARED_POOL)
    lab.fault("hv1", faults.Partition(storage=True))
    assert state_of(lab, "qemu-system-") == {"T"}
    assert lab.exec("hv1", ["cat", f"{SHARED_POOL}/known"]).returncode != 0
    assert lab.exec("hv1", ["touch", f"{SHARED_POOL}/new"]).returncode != 0
    assert lab.exec("hv2", ["cat", f"{SHARED_POOL}/known"]).stdout == "here"
    assert status_of(lab).libvirt
    lab.fault("hv1", faults.Partition(storage=True))  # again changes nothing
    lab.fault("hv1", faults.Partition())  # the storage comes back, the network does not
    assert lab.exec("hv1", ["cat", f"{SHARED_POOL}/known"]).stdout == "here"
    assert "T" not in state_of(lab, "qemu-system-")
    assert status_of(lab).uplink == "down"
    lab.fault("hv1", faults.Partition(storage=True))
    lab.power("hv1", "off")
    lab.power("hv1", "on")
    assert lab.exec("hv1", ["cat", f"{SHARED_POOL}/known"]).returncode != 0, "it lasts over a power cycle"
    assert ask(lab, "hv2", "hv1", 16514) == ""
    lab.clear("hv1")
    assert lab.exec("hv1", ["cat", f"{SHARED_POOL}/known"]).stdout == "here"


def test_a_slow_disk_is_slow_and_does_not_hold_up_a_power_cut(lab: Lab) -> None:
    write = ["dd", "if=/dev/zero", f"of={LOCAL_POOL}/slow", "bs=256K", "oflag=direct", "conv=fsync"]

    def seconds(megabytes: int) -> float:
        begun = time.monotonic()
        assert lab.exec("hv1", [*write, f"count={megabytes * 4}"], timeout=60).returncode == 0
        return time.monotonic() - begun

    assert seconds(3) < 2
    try:
        lab.fault("hv1", faults.SlowDisk(rate=1 << 20))
    except LabError as error:
        assert status_of(lab).faults == ()
        pytest.skip(f"this host has no means: {error}")
    assert seconds(3) > 2
    lab.power("hv1", "off")
    lab.power("hv1", "on")
    assert seconds(3) > 2, "it lasts over a power cycle"
    writer = subprocess.Popen(lab.command("hv1", [*write, "count=400"]), stderr=subprocess.DEVNULL)
    until(lambda: state_of(lab, "dd") == {"D"})
    begun = time.monotonic()
    lab.fault("hv1", faults.PowerOff())
    assert time.monotonic() - begun < 3
    writer.wait()
    lab.clear("hv1")
    assert seconds(3) < 2


# --- the watchdog ---

FEED = """
import os, sys, time
device = os.open("/dev/watchdog", os.O_WRONLY)
os.write(device, b"1")
print("armed", flush=True)
while sys.argv[1] == "feed":
    os.write(device, b"1")
    time.sleep(1)
if sys.argv[1] == "goodbye":
    os.write(device, b"V")
os.close(device)
time.sleep(1000)
"""


def test_the_watchdog_cuts_the_power_of_whoever_stops_feeding_it(lab: Lab) -> None:
    """Also while the BMC is dead: hv1 does not feed; hv2 feeds, then says goodbye."""
    lab.spawn_agent("hv2", [sys.executable, "-c", FEED, "feed"])
    processes.kill(lab.load().hypervisors["hv1"].bmc.process)  # type: ignore[union-attr]
    lab.spawn_agent("hv1", [sys.executable, "-c", FEED, "die"])
    until(lambda: lines(lab.log("hv1")) > 0 and lab.log("hv1").read_text().endswith("armed\n"))
    begun = time.monotonic()
    until(lambda: status_of(lab).power == "off", WATCHDOG + MARGIN)
    assert time.monotonic() - begun > WATCHDOG - 2
    assert status_of(lab, "hv2").power == "on"
    assert "not fed for 15 s" in lab.log("hv1", "watchdog").read_text()
    lab.stop_agent("hv1")
    lab.spawn_agent("hv2", [sys.executable, "-c", FEED, "goodbye"])
    until(lambda: lab.log("hv2").read_text().count("armed") == 2)
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > WATCHDOG + MARGIN, WATCHDOG * 2)
    assert status_of(lab, "hv2").power == "on"


def test_a_frozen_agent_feeds_nothing_and_a_new_watchdog_takes_over_from_a_dead_one(lab: Lab) -> None:
    lab.spawn_agent("hv1", [sys.executable, "-c", FEED, "feed"])
    until(lambda: lines(lab.log("hv1")) > 0 and lab.log("hv1").read_text().endswith("armed\n"))
    processes.kill(lab.load().hypervisors["hv1"].watchdog)
    assert (status_of(lab).watchdog, lab.status().phase) == (False, "broken")
    lab.up()
    assert status_of(lab).watchdog
    log = lab.log("hv1", "watchdog")
    before = log.read_text().count("not fed") if log.exists() else 0
    lab.fault("hv1", faults.Hang())
    until(lambda: not lab.powered("hv1"), WATCHDOG + MARGIN)
    until(lambda: status_of(lab).power == "off")
    assert log.read_text().count("not fed") == before + 1
    assert status_of(lab).faults == ()


# --- nothing stays ---

BREAK = """
import sys
from pathlib import Path
from bedplate.lab import Lab, faults
lab = Lab("cut", root=Path(sys.argv[1]))
print("begin", flush=True)
lab.fault("hv1", eval(sys.argv[2]))
print("end", flush=True)
"""
ALL: list[Callable[[], faults.Fault]] = [
    lambda: faults.SlowDisk(rate=1 << 20),
    lambda: faults.Partition(storage=True),
    faults.LibvirtHang,
    faults.Hang,
    lambda: faults.BmcFault(delay=60),
]


@pytest.fixture
def small() -> Iterator[Lab]:
    """A lab that a test brings up and removes itself."""
    folder = Path(tempfile.mkdtemp(prefix="bpl-", dir="/var/tmp"))
    made = Lab("cut", root=folder / "bedplate" / "lab")
    try:
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


def test_down_leaves_nothing_behind_whatever_is_broken(small: Lab) -> None:
    lab = small
    lab.up(2)
    for make in ALL:
        with contextlib.suppress(LabError):  # this host can't limit a disk
            lab.fault("hv1", make())
    assert len(status_of(lab).faults) >= len(ALL) - 1
    lab.fault("hv2", faults.PowerFeed())
    traces = Traces(lab)
    lab.down()
    assert_gone(lab, traces)


@pytest.mark.parametrize("fault", ["PowerFeed()", "Hang()", "Partition(storage=True)", "SlowDisk()"])
@pytest.mark.parametrize("later", [0.0, 0.03, 0.08])
def test_killed_in_the_middle_of_breaking_it_can_be_mended_and_removed(small: Lab, fault: str, later: float) -> None:
    lab = small
    lab.up(1)
    traces = Traces(lab)
    breaker = subprocess.Popen(
        [sys.executable, "-c", BREAK, str(lab.folder.parent), f"faults.{fault}"], stdout=subprocess.PIPE, text=True
    )
    assert breaker.stdout is not None
    assert breaker.stdout.readline() == "begin\n"
    time.sleep(later)  # the moment of the cut, not a wait for anything
    breaker.send_signal(signal.SIGKILL)
    breaker.wait()
    traces.note()
    lab.clear()
    one = status_of(lab)
    assert (one.power, one.uplink, one.libvirt, one.bmc, one.watchdog, one.faults) == ("on", "up", True, True, True, ())
    assert lab.exec("hv1", ["touch", f"{SHARED_POOL}/there"]).returncode == 0
    traces.note()
    lab.down()
    assert_gone(lab, traces)
