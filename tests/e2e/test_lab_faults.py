"""What is broken on purpose in the lab breaks as on real servers, is mended, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sushy

from bedplate.lab import Lab, LabError, faults
from bedplate.lab.hypervisor import LOCAL_POOL, SHARED_POOL

sys.path.insert(0, str(Path(__file__).parent))

from fault_rig import (
    GUEST_ADDRESS,
    TICK,
    Bmc,
    assert_gone,
    make_whole,
    start_guest,
    state_of,
    status_of,
    ticks_on,
    two_hypervisors,
)
from test_lab_lifecycle import ECHO, Traces, ask, until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from two_hypervisors()


@pytest.fixture(autouse=True)
def whole(lab: Lab) -> Iterator[None]:
    yield
    make_whole(lab)


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
    until(lambda: state_of(lab, "libvirtd") == {"T"})
    until(lambda: "T" not in state_of(lab, "qemu-system-"))
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
    until(lambda: (status_of(lab).libvirt, state_of(lab, "libvirtd")) == (False, {"T"}))
    until(lambda: "T" not in state_of(lab, "qemu-system-"))
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
    until(lambda: state_of(lab, "qemu-system-") == {"T"})
    assert lab.exec("hv1", ["cat", f"{SHARED_POOL}/known"]).returncode != 0
    assert lab.exec("hv1", ["touch", f"{SHARED_POOL}/new"]).returncode != 0
    assert lab.exec("hv2", ["cat", f"{SHARED_POOL}/known"]).stdout == "here"
    assert status_of(lab).libvirt
    lab.fault("hv1", faults.Partition(storage=True))  # again changes nothing
    lab.fault("hv1", faults.Partition())  # the storage comes back, the network does not
    assert lab.exec("hv1", ["cat", f"{SHARED_POOL}/known"]).stdout == "here"
    until(lambda: "T" not in state_of(lab, "qemu-system-"))
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
