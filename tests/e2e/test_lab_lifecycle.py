"""The lab comes up, can be hurt and mended, and goes away without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from bedplate.lab import Lab, LabError, config, processes

pytestmark = pytest.mark.lab

SLEEPER = """
<domain type='qemu'>
  <name>sleeper</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface></devices>
</domain>
"""
ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
while True:
    link, _ = server.accept()
    link.sendall(link.recv(99) + b"!")
    link.close()
"""


def until(true: Callable[[], bool], limit: float = 15.0) -> None:
    """Wait for something that the lab does by itself, looking often."""
    deadline = time.monotonic() + limit
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def running_in(kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Process ids and their namespaces; not of ended ones that the host's init has yet to collect."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                for kind in kinds:
                    yield entry.name, os.readlink(entry / "ns" / kind)
        except OSError:
            continue


class Traces:
    """What a lab may leave behind, noted while it lives and looked for afterwards."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.namespaces: set[str] = set()
        self.note()

    def note(self) -> None:
        own = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "mnt")}
        for process in processes.marked(self.lab.folder):
            for kind in ("pid", "net", "mnt"):
                try:
                    self.namespaces.add(os.readlink(f"/proc/{process.pid}/ns/{kind}"))
                except OSError:
                    continue
        self.namespaces -= own

    def assert_none(self) -> None:
        assert processes.marked(self.lab.folder) == []
        left = [pid for pid, namespace in running_in(("pid", "net", "mnt")) if namespace in self.namespaces]
        assert left == []
        assert str(self.lab.folder) not in Path("/proc/self/mountinfo").read_text()
        for root, _ in self.lab.cgroups.roots:
            assert not (root / self.lab.cgroups.name).exists()
        assert not self.lab.folder.exists()
        assert not self.lab.folder.parent.exists() or not list(self.lab.folder.parent.iterdir())


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder for labs with a short path, as sockets want it."""
    folder = Path(tempfile.mkdtemp(prefix="bpl-"))
    yield folder / "bedplate" / "lab"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One lab with two hypervisors for all tests that leave it whole."""
    folder = Path(tempfile.mkdtemp(prefix="bpl-"))
    lab = Lab("shared", root=folder / "lab")
    try:
        lab.up(2)
        traces = Traces(lab)
        yield lab
        traces.note()
        lab.down()
        traces.assert_none()
    finally:
        lab.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def mended(request: pytest.FixtureRequest) -> Iterator[None]:
    """Mend the shared lab after each test."""
    yield
    if "lab" in request.fixturenames:
        request.getfixturevalue("lab").up()


def ask(lab: Lab, source: str, address: str, port: int = 7000) -> str:
    """Ask the echo at an address from inside a hypervisor; empty when it does not answer."""
    code = (
        f"import socket;c=socket.create_connection(('{address}',{port}),1);c.sendall(b'hi');print(c.recv(9).decode())"
    )
    return lab.exec(source, [sys.executable, "-c", code], timeout=10).stdout.strip()


def through_socks(lab: Lab, host: str, port: int) -> bytes:
    """Ask the echo through the proxy, by name; the SOCKS reply code when it refuses."""
    with socket.create_connection(("127.0.0.1", lab.status().socks_port), 12) as link:
        name = host.encode()
        link.sendall(b"\x05\x01\x00")
        assert link.recv(2) == b"\x05\x00"
        link.sendall(b"\x05\x01\x00\x03" + bytes((len(name),)) + name + struct.pack("!H", port))
        reply = link.recv(10)
        if reply[1]:
            return reply[1:2]
        link.sendall(b"hi")
        return link.recv(9)


def test_libvirt_answers_on_each_with_an_identity_of_its_own(lab: Lab) -> None:
    status = lab.status()
    assert status.phase == "up"
    seen = set()
    for one in status.hypervisors:
        connection = libvirt.open(one.uri)
        assert connection.getHostname() == one.name
        assert f"<uuid>{one.host_uuid}</uuid>" in connection.getCapabilities()
        seen.add(one.host_uuid)
        connection.close()
    assert len(seen) == 2


def test_a_power_cut_ends_guests_and_keeps_disks(lab: Lab) -> None:
    one = lab.status().hypervisors[0]
    connection = libvirt.open(one.uri)
    domain = connection.defineXML(SLEEPER)
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    assert "vnet" in lab.exec("hv1", ["ip", "-o", "link"]).stdout
    assert lab.exec("hv1", ["pgrep", "-c", "qemu"]).stdout.strip() == "1"
    state = config.load(lab.folder)
    assert state is not None
    process = state.hypervisors["hv1"].process
    assert process is not None
    namespace = os.readlink(f"/proc/{process.pid}/ns/pid")
    begun = time.monotonic()
    lab.power("hv1", "off")
    assert time.monotonic() - begun < 2
    assert [pid for pid, where in running_in(("pid",)) if where == namespace] == []
    assert lab.status().hypervisors[0].power == "off"
    with pytest.raises(LabError, match="no power"):
        lab.exec("hv1", ["true"])
    lab.power("hv1", "on")
    connection = libvirt.open(one.uri)
    domain = connection.lookupByName("sleeper")
    assert not domain.isActive()
    domain.undefine()
    connection.close()


def test_hypervisors_reach_each_other_until_a_cable_is_cut(lab: Lab) -> None:
    lab.spawn_agent("hv2", [sys.executable, "-c", ECHO], service="echo")
    until(lambda: ask(lab, "hv1", "hv2") == "hi!")
    lab.uplink("hv2", "down")
    assert ask(lab, "hv1", "hv2") == ""
    lab.uplink("hv2", "up")
    until(lambda: ask(lab, "hv1", "hv2") == "hi!")
    lab.stop_agent("hv2", service="echo")
    until(lambda: ask(lab, "hv1", "hv2") == "")


def test_the_proxy_leads_in_and_a_relay_leads_out(lab: Lab) -> None:
    lab.spawn_agent("hv2", [sys.executable, "-c", ECHO], service="echo")
    until(lambda: through_socks(lab, "hv2", 7000) == b"hi!")
    assert through_socks(lab, "10.88.0.12", 7000) == b"hi!"
    assert through_socks(lab, "hv2", 7001) == b"\x05"
    assert through_socks(lab, "example.org", 80) == b"\x04"
    lab.stop_agent("hv2", service="echo")
    with socket.create_server(("127.0.0.1", 0)) as server:
        lab.relay(9000, server.getsockname()[1])
        link = subprocess.Popen(
            lab.command(
                "hv1", [sys.executable, "-c", "import socket;print(socket.create_connection(('gateway',9000)).recv(9))"]
            ),
            stdout=subprocess.PIPE,
        )
        server.settimeout(10)
        accepted, _ = server.accept()
        accepted.sendall(b"outside")
        accepted.close()
        assert link.communicate(timeout=10)[0] == b"b'outside'\n"
    lab.relay(9000, None)
    assert ask(lab, "hv1", "gateway", 9000) == ""


def test_what_is_spawned_comes_back_after_death_and_power_cut(lab: Lab) -> None:
    lab.spawn_agent("hv1", ["sh", "-c", "echo run $WORD; exec sleep 1000"], env={"WORD": "once"})
    log = lab.log("hv1")
    until(lambda: log.exists() and log.read_text().count("run once") == 1)
    lab.exec("hv1", ["pkill", "-KILL", "-x", "sleep"])
    until(lambda: log.read_text().count("run once") == 2)
    lab.power("hv1", "off")
    lab.power("hv1", "on")
    until(lambda: log.read_text().count("run once") == 3)
    assert lab.status().hypervisors[0].services == ("agent",)
    lab.spawn_agent("hv1", ["sh", "-c", "echo run $WORD; exec sleep 1000"], env={"WORD": "twice"})
    until(lambda: log.read_text().count("run twice") == 1)
    assert lab.exec("hv1", ["pgrep", "-c", "-x", "sleep"]).stdout.strip() == "1"
    lab.stop_agent("hv1")
    until(lambda: lab.exec("hv1", ["pgrep", "-x", "sleep"]).returncode == 1)


def test_a_frozen_hypervisor_is_silent_and_goes_on_when_thawed(lab: Lab) -> None:
    lab.power("hv1", "freeze")
    one = lab.status().hypervisors[0]
    assert (one.power, one.libvirt) == ("frozen", False)
    with pytest.raises(LabError, match="frozen"):
        lab.power("hv1", "on")
    lab.power("hv1", "thaw")
    assert lab.status().hypervisors[0].libvirt
    lab.power("hv1", "freeze")
    lab.power("hv1", "off")
    lab.power("hv1", "on")
    assert lab.status().hypervisors[0].libvirt


def test_libvirt_is_started_again_when_it_dies(lab: Lab) -> None:
    uri = lab.status().hypervisors[0].uri
    before = lab.exec("hv1", ["pgrep", "-x", "libvirtd"]).stdout
    lab.exec("hv1", ["pkill", "-KILL", "-x", "libvirtd"])
    until(lambda: lab.exec("hv1", ["pgrep", "-x", "libvirtd"]).stdout not in ("", before))
    until(lambda: lab.status().hypervisors[0].libvirt)
    libvirt.open(uri).close()


def test_up_again_changes_nothing_and_mends_what_is_dead(lab: Lab) -> None:
    before = config.load(lab.folder)
    lab.up(2)
    after = config.load(lab.folder)
    assert before == after
    assert before is not None
    processes.send(before.gateway, signal.SIGKILL)
    processes.send(before.hypervisors["hv2"].process, signal.SIGKILL)
    until(lambda: lab.status().phase == "broken")
    assert lab.up().phase == "up"
    processes.send(before.switch, signal.SIGKILL)
    until(lambda: not lab.status().switch)
    lab.up()
    lab.spawn_agent("hv2", [sys.executable, "-c", ECHO], service="echo")
    until(lambda: ask(lab, "hv1", "hv2") == "hi!")
    assert through_socks(lab, "hv2", 7000) == b"hi!"
    lab.stop_agent("hv2", service="echo")


def test_the_shared_pool_is_one_folder_and_the_local_one_is_not(lab: Lab) -> None:
    for name in ("hv1", "hv2"):
        lab.exec(name, ["touch", f"/var/lib/bedplate/pools/shared/{name}", f"/var/lib/bedplate/pools/local/{name}"])
    assert lab.exec("hv1", ["ls", "/var/lib/bedplate/pools/shared"]).stdout.split() == ["hv1", "hv2"]
    assert lab.exec("hv1", ["ls", "/var/lib/bedplate/pools/local"]).stdout.split() == ["hv1"]


def test_two_labs_live_side_by_side(lab: Lab, root: Path) -> None:
    other = Lab("other", root=root)
    try:
        other.up(1)
        traces = Traces(other)
        assert other.status().socks_port != lab.status().socks_port
        assert other.up(2).hypervisors[1].libvirt
        with pytest.raises(LabError, match="only grow"):
            other.up(1)
        traces.note()
    finally:
        other.down()
    traces.assert_none()
    assert lab.status().phase == "up"


@pytest.mark.parametrize("kind", ["v2", "v1", "none"])
def test_freezing_works_with_each_kind_of_cgroups(root: Path, kind: str) -> None:
    lab = Lab("frozen", root=root)
    lab.cgroups.roots = [found for found in lab.cgroups.roots if found[1] == kind]
    if kind != "none" and not lab.cgroups.roots:
        pytest.skip(f"this host has no cgroup {kind} that can freeze")
    try:
        lab.up(1)
        lab.power("hv1", "freeze")
        assert (lab.status().hypervisors[0].power, lab.status().hypervisors[0].libvirt) == ("frozen", False)
        assert lab.up().hypervisors[0].libvirt
        lab.power("hv1", "freeze")
        lab.power("hv1", "off")
        lab.power("hv1", "on")
        lab.power("hv1", "freeze")
        traces = Traces(lab)
    finally:
        lab.down()
    traces.assert_none()


def test_a_port_in_use_is_named(root: Path) -> None:
    lab = Lab("port", root=root)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LabError, match=f"port {port} of 127.0.0.1 is in use"):
            lab.up(1, socks_port=port)
    assert lab.up(1, socks_port=port).socks_port == port
    lab.down()
    Traces(lab).assert_none()


def test_a_folder_that_is_no_lab_is_left_alone(root: Path) -> None:
    lab = Lab("mine", root=root)
    lab.folder.mkdir(parents=True)
    (lab.folder / "thesis.txt").write_text("all of it")
    for attempt in (lab.up, lab.down):
        with pytest.raises(LabError, match="is no lab"):
            attempt()
    assert (lab.folder / "thesis.txt").read_text() == "all of it"


UP = """
import sys
from pathlib import Path
from bedplate.lab import Lab
print("begin", flush=True)
Lab("cut", root=Path(sys.argv[1])).up(2, progress=lambda part, words: print(part, words, flush=True))
print("end", flush=True)
"""


@pytest.mark.parametrize(
    ("heard", "later"),
    [("begin", 0.02), ("begin", 0.12), ("switch", 0.0), ("gateway", 0.0), ("hv1", 0.0), ("hv1", 0.06), ("hv1", 0.15)],
)
def test_killed_in_the_middle_of_up(root: Path, heard: str, later: float) -> None:
    lab = Lab("cut", root=root)
    starter = subprocess.Popen([sys.executable, "-c", UP, str(root)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    for line in starter.stdout:
        if line.startswith(heard):
            break
    time.sleep(later)  # the moment of the cut, not a wait for anything
    traces = Traces(lab)
    starter.kill()
    starter.wait()
    traces.note()
    lab.down()
    traces.assert_none()


def test_killed_in_the_middle_of_down(root: Path) -> None:
    lab = Lab("cut", root=root)
    lab.up(2)
    traces = Traces(lab)
    code = UP.replace(".up(2, ", ".down(")
    ender = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    assert ender.stdout is not None
    for line in ender.stdout:
        if line.startswith("hypervisors"):
            break
    ender.kill()
    ender.wait()
    lab.down()
    traces.assert_none()


def test_a_broken_state_file_does_not_stop_down(root: Path) -> None:
    lab = Lab("broken", root=root)
    lab.up(1)
    traces = Traces(lab)
    (lab.folder / "state.json").write_text("{")
    with pytest.raises(LabError, match="lab down"):
        lab.up()
    lab.down()
    traces.assert_none()


def test_killed_in_the_middle_of_up_then_up_again(root: Path) -> None:
    lab = Lab("cut", root=root)
    starter = subprocess.Popen([sys.executable, "-c", UP, str(root)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    for line in starter.stdout:
        if line.startswith("hv1"):
            break
    starter.kill()
    starter.wait()
    try:
        status = lab.up()
        assert status.phase == "up"
        assert len(processes.marked(lab.folder, "hv1")) == 1
        traces = Traces(lab)
    finally:
        lab.down()
    traces.assert_none()
