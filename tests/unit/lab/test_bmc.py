"""A lab's BMC: what it answers in Redfish, to whom, and how it behaves while it is broken."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bedplate.lab import bmc, bmc_service, config, processes
from bedplate.lab.bmc_faults import FaultLayer
from bedplate.lab.config import LabNetwork, LabState
from bedplate.lab.errors import LabError
from bedplate.lab.faults import BmcFault, KeptFault
from bedplate.lab.lab import Lab

UID = "6a0f6f0e-7d3f-4d5c-9a55-0f4a6a1c2b3d"


class Rig:
    """A lab's folder without a lab: a state file, a process in the server's stead, and the BMC's application."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab("l", folder)
        self.lab.folder.mkdir()
        self.state = LabState(uid=UID, network=LabNetwork())
        self.one = config.new_hypervisor(self.state, 0)
        self.state.hypervisors["hv1"] = self.one
        self.lab.save(self.state)
        self.server = bmc_service.Server(self.lab, "hv1")
        self.orders: list[str] = []
        self.server.order = self.take  # type: ignore[method-assign]
        home = bmc.home(self.lab.folder, "hv1")
        home.mkdir(parents=True)
        self.client: Any = bmc_service.application(self.server, home).test_client()
        self.path = f"/redfish/v1/Systems/{self.one.host_uuid}"

    def take(self, reset: str) -> None:
        if reset == "ForceRestart":
            raise LabError("the host refused")
        self.orders.append(reset)

    def break_bmc(self, fault: BmcFault | None) -> None:
        self.one.faults = {} if fault is None else {"bmc": KeptFault(fault, 0.0)}
        self.lab.save(self.state)

    def login(self, password: str | None = None) -> dict[str, str]:
        words = f"{bmc.USER}:{password or bmc.password(self.lab.folder)}"
        return {"Authorization": "Basic " + base64.b64encode(words.encode()).decode()}

    def get(self, path: str = "") -> Any:
        return self.client.get(path or self.path, headers=self.login())

    def reset(self, kind: str) -> Any:
        path = f"{self.path}/Actions/ComputerSystem.Reset"
        return self.client.post(path, headers=self.login(), json={"ResetType": kind})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """With an emulator of its own: a BMC's process changes the library's modules for itself, and may."""

    def touched() -> list[str]:
        return [name for name in sys.modules if name == "libvirt" or name.split(".")[0] == "sushy_tools"]

    others = {name: sys.modules.pop(name) for name in touched()}
    yield Rig(tmp_path_factory.mktemp("bmc"))
    for name in touched():
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture
def rig(made: Rig) -> Rig:
    """sushy-tools has one application per process, so there is one rig; each test finds it whole."""
    made.break_bmc(None)
    made.orders.clear()
    return made


def test_power_is_what_the_kernel_says(rig: Rig) -> None:
    assert rig.get().json["PowerState"] == "Off"
    process = subprocess.Popen(["sleep", "1000"])
    try:
        rig.one.process = processes.identify(process.pid)
        rig.lab.save(rig.state)
        assert rig.get().json["PowerState"] == "On"
    finally:
        process.kill()
        process.wait()
    assert rig.get().json["PowerState"] == "Off"


def test_a_boot_that_nobody_could_note_is_seen(rig: Rig) -> None:
    """Its starter was killed between starting it and noting so: it runs, and the BMC must not deny it."""
    process = subprocess.Popen(["sleep", "1000"], env=processes.environment(rig.lab.folder, "hv1"))
    try:
        assert rig.get().json["PowerState"] == "On"
    finally:
        process.kill()
        process.wait()
    assert rig.get().json["PowerState"] == "Off"


def test_bmcs_that_start_at_the_same_moment_have_one_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, together = iter(["one", "other"]), threading.Barrier(2, timeout=30)

    def make(_bytes: int) -> str:
        together.wait()
        return next(words)

    monkeypatch.setattr(bmc.secrets, "token_urlsafe", make)
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(bmc.password, [tmp_path, tmp_path]))
    assert told[0] == told[1] == bmc.password(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bmc-password"]


def test_nobody_gets_in_without_the_password(rig: Rig) -> None:
    assert rig.client.get(rig.path).status_code == 401
    assert rig.client.get(rig.path, headers=rig.login("guess")).status_code == 401
    assert rig.client.get("/redfish/v1/").status_code == 200
    for path in (rig.lab.folder / "bmc-password", bmc.home(rig.lab.folder, "hv1") / "users"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert bmc.password(rig.lab.folder) not in (bmc.home(rig.lab.folder, "hv1") / "users").read_text()


def test_it_knows_its_own_server_and_no_other(rig: Rig) -> None:
    listed = rig.get("/redfish/v1/Systems").json["Members"]
    assert [member["@odata.id"] for member in listed] == [rig.path]
    assert rig.get("/redfish/v1/Systems/11111111-2222-3333-4444-555555555555").status_code == 404
    assert bmc.address(rig.one) == ""


def test_orders_are_carried_out_and_their_failure_is_told(rig: Rig) -> None:
    assert rig.reset("ForceOff").status_code == 204
    assert rig.reset("On").status_code == 204
    assert rig.orders == ["ForceOff", "On"]
    assert rig.reset("Nmi").status_code == 400
    failed = rig.reset("ForceRestart")
    assert (failed.status_code, "the host refused" in failed.text) == (500, True)
    allowed = rig.get().json["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"]
    assert set(rig.orders) < set(allowed)


def test_health_is_told_with_its_reason(rig: Rig) -> None:
    assert rig.get().json["Status"] == {"State": "StandbyOffline", "Health": "OK", "HealthRollup": "OK"}
    rig.break_bmc(BmcFault(health="Critical", problem="Fan 3 stands still."))
    status = rig.get().json["Status"]
    assert (status["Health"], status["Conditions"][0]["Message"]) == ("Critical", "Fan 3 stands still.")


def test_a_broken_bmc_lies_is_deaf_or_fails(rig: Rig) -> None:
    rig.break_bmc(BmcFault(lie="on", deaf=True))
    assert rig.get().json["PowerState"] == "On"
    assert rig.reset("ForceOff").status_code == 204
    assert rig.orders == []
    rig.break_bmc(BmcFault(error=503))
    assert (rig.get().status_code, rig.reset("ForceOff").status_code) == (503, 503)
    assert rig.orders == []


def layer(fault: BmcFault, *chances: float) -> tuple[FaultLayer, list[str]]:
    """The layer before an application that notes what it did, with chosen chances."""
    seen: list[str] = []

    def app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append("served")
        start_response("200 OK", [])
        return [b"answer"]

    given = iter(chances)
    return FaultLayer(app, lambda: fault, lambda: next(given), lambda seconds: seen.append(f"slept {seconds:g}")), seen


def test_a_slow_bmc_answers_late() -> None:
    app, seen = layer(BmcFault(delay=5), 0.9)
    assert list(app({}, lambda *_: None)) == [b"answer"]
    assert seen == ["slept 5", "served"]


def test_a_dropped_request_is_lost_before_or_after_it_was_carried_out() -> None:
    for chances, done in (((0.05, 0.2), []), ((0.05, 0.7), ["served"])):
        app, seen = layer(BmcFault(drop=0.1), *chances)
        with pytest.raises(ConnectionError):
            list(app({}, lambda *_: None))
        assert seen == done
    app, seen = layer(BmcFault(drop=0.1), 0.1)
    assert list(app({}, lambda *_: None)) == [b"answer"]
