"""The lab's BMCs and watchdogs: what they tell, and that they cut the power of whom they are to cut it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sushy

from bedplate.lab import Lab, faults, processes
from bedplate.lab.hypervisor import members
from bedplate.model.leases import MARGIN, WATCHDOG

sys.path.insert(0, str(Path(__file__).parent))

from fault_rig import Bmc, lines, make_whole, status_of, two_hypervisors
from test_lab_lifecycle import until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from two_hypervisors()


@pytest.fixture(autouse=True)
def whole(lab: Lab) -> Iterator[None]:
    yield
    make_whole(lab)


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
