"""The lab's bare servers: what their BMCs do to real UEFI machines, and that nothing of them is left."""

from __future__ import annotations

import datetime
import functools
import http.server
import ipaddress
import json
import shutil
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sushy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bedplate.lab import Lab, LabError, bmc, faults, metal, processes, qmp

sys.path.insert(0, str(Path(__file__).parent))

import tiny_uefi
from fault_rig import Bmc, assert_gone
from test_lab_lifecycle import Traces, until

pytestmark = pytest.mark.lab

BOOT_LIMIT = 300.0
"""Seconds for the firmware to come up: emulated, on a busy computer."""


class MetalBmc(Bmc):
    """A bare server's BMC through a real Redfish client."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.url = bmc.address(lab.load().servers[name]).removeprefix("redfish+")
        user, password = lab.bmc_login()
        self._login = sushy.auth.BasicAuth(user, password)

    def cd(self) -> Any:
        return self.system().virtual_media.get_members()[0]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="bpl-", dir="/var/tmp"))
    made = Lab("metal", root=folder / "lab")
    try:
        made.up(0, bare=1, memory=1024)
        traces = Traces(made)
        yield made
        traces.note()
        made.down()
        assert_gone(made, traces)
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def off_and_whole(lab: Lab) -> Iterator[None]:
    yield
    lab.up()
    lab.power("metal1", "off")
    with lab.changing() as state:
        metal.eject(lab, state, state.servers["metal1"])
        state.servers["metal1"].boot, state.servers["metal1"].boot_once = "None", False
        lab.save(state)


@contextmanager
def served(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve a folder on the loopback; gives its URL."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "controller")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = (
        builder.not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = folder / "self.pem"
    pem.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def console(lab: Lab) -> str:
    path = lab.log("metal1", metal.CONSOLE)
    return path.read_text(errors="replace") if path.exists() else ""


def test_the_bmc_tells_what_the_server_is(lab: Lab) -> None:
    system = MetalBmc(lab, "metal1").system()
    one = lab.status().servers[0]
    assert (system.uuid, system.manufacturer, system.power_state.value) == (one.host_uuid, "Bedplate", "Off")
    assert system.json["MemorySummary"]["TotalSystemMemoryGiB"] == 1
    assert system.json["ProcessorSummary"]["LogicalProcessorCount"] == 2
    cards = [card.mac_address for card in system.ethernet_interfaces.get_members()]
    assert tuple(cards) == one.macs
    assert len({disk.serial for disk in one.disks}) == 2


def test_power_goes_on_and_off_and_reads_back(lab: Lab) -> None:
    managed = MetalBmc(lab, "metal1")
    managed.reset(sushy.ResetType.ON)
    assert (managed.power(), lab.status().servers[0].power) == ("On", "on")
    first = lab.load().servers["metal1"].process
    managed.reset(sushy.ResetType.ON)  # on already is on
    assert lab.load().servers["metal1"].process == first
    managed.reset(sushy.ResetType.FORCE_RESTART)
    assert managed.power() == "On"
    assert not processes.alive(first)
    managed.reset(sushy.ResetType.FORCE_OFF)
    assert managed.power() == "Off"
    assert not processes.marked(lab.folder, "metal1")


def test_an_override_for_once_boots_the_cd_once_and_then_the_disk(lab: Lab, tmp_path: Path) -> None:
    """The CD's program resets the machine: its second boot, without the BMC, is from the disk."""
    tiny_uefi.iso(tmp_path / "tiny.iso", "FROM-THE-CD", "reset")
    disk = metal.home(lab.folder, "metal1") / "disk0.raw"
    tiny_uefi.file_system(disk, "FROM-THE-DISK")
    managed = MetalBmc(lab, "metal1")
    with served(tmp_path) as url:
        managed.cd().insert_media(f"{url}/tiny.iso")
    drive = managed.cd()
    assert (drive.inserted, drive.image) == (True, f"{url}/tiny.iso")
    managed.system().set_system_boot_options(
        target=sushy.BootSource.CD, enabled=sushy.BootSourceOverrideEnabled.ONCE, mode=sushy.BootSourceOverrideMode.UEFI
    )
    assert managed.system().boot.enabled == sushy.BootSourceOverrideEnabled.ONCE
    managed.reset(sushy.ResetType.ON)
    assert managed.system().boot.enabled == sushy.BootSourceOverrideEnabled.DISABLED
    until(lambda: "FROM-THE-DISK" in console(lab), BOOT_LIMIT)
    assert console(lab).count("FROM-THE-CD") == 1


def test_media_come_over_tls_that_nobody_vouches_for_and_go_while_it_runs(lab: Lab, tmp_path: Path) -> None:
    tiny_uefi.iso(tmp_path / "tls.iso", "OVER-TLS")
    managed = MetalBmc(lab, "metal1")
    managed.reset(sushy.ResetType.ON)
    with served(tmp_path, self_signed(tmp_path)) as url:
        managed.cd().insert_media(f"{url}/tls.iso")
        with pytest.raises(sushy.exceptions.HTTPError):
            managed.cd().insert_media(f"{url}/missing.iso")
    assert managed.cd().image == f"{url}/tls.iso"  # what can't be fetched leaves the drive as it was
    managed.system().set_system_boot_options(
        target=sushy.BootSource.CD, enabled=sushy.BootSourceOverrideEnabled.CONTINUOUS
    )
    managed.reset(sushy.ResetType.FORCE_RESTART)
    until(lambda: "OVER-TLS" in console(lab), BOOT_LIMIT)
    assert managed.system().boot.enabled == sushy.BootSourceOverrideEnabled.CONTINUOUS
    managed.cd().eject_media()
    assert not managed.cd().inserted
    assert not metal.medium(lab.folder, "metal1").exists()
    assert managed.power() == "On"


def test_an_override_that_the_server_has_not_is_refused(lab: Lab) -> None:
    managed = MetalBmc(lab, "metal1")
    answer = managed.raw("PATCH", body='{"Boot": {"BootSourceOverrideTarget": "Floppy"}}')
    assert b" 400 " in answer.splitlines()[0]
    assert b"Floppy" in answer
    assert lab.load().servers["metal1"].boot == "None"


def test_power_faults_and_a_broken_bmc(lab: Lab) -> None:
    managed = MetalBmc(lab, "metal1")
    managed.reset(sushy.ResetType.ON)
    lab.fault("metal1", faults.BmcFault(lie="off", deaf=True))
    assert managed.power() == "Off"
    managed.reset(sushy.ResetType.FORCE_OFF)
    assert lab.powered("metal1")
    assert lab.clear("metal1", "bmc") == ["metal1"]
    lab.fault("metal1", faults.PowerOff())
    assert (managed.power(), lab.status().servers[0].faults) == ("Off", ("power-off",))
    assert lab.clear() == ["metal1"]
    assert managed.power() == "On"
    lab.fault("metal1", faults.PowerFeed())
    assert not lab.powered("metal1")
    with pytest.raises(TimeoutError):
        managed.raw(seconds=1)
    with pytest.raises(LabError, match="no power feed"):
        lab.power("metal1", "on")
    lab.clear("metal1")
    assert managed.power() == "On"
    with pytest.raises(LabError, match="can't have the fault hang"):
        lab.fault("metal1", faults.Hang())


def test_what_is_killed_is_mended_by_up(lab: Lab) -> None:
    managed = MetalBmc(lab, "metal1")
    managed.reset(sushy.ResetType.ON)
    state = lab.load()
    processes.kill(state.servers["metal1"].process)
    assert managed.power() == "Off"
    managed.reset(sushy.ResetType.ON)
    processes.kill(state.servers["metal1"].bmc.process)  # type: ignore[union-attr]
    assert lab.status().phase == "broken"
    lab.up()
    assert (lab.status().phase, managed.power()) == ("up", "On")
    processes.kill(lab.load().switch)
    lab.up()
    assert (lab.status().phase, managed.power()) == ("up", "Off")


def test_down_removes_all_after_parts_were_killed_and_a_start_was_never_noted() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bpl-", dir="/var/tmp"))
    made = Lab("killed", root=folder / "lab")
    try:
        made.up(0, bare=2)
        for name in ("metal1", "metal2"):
            made.power(name, "on")
        traces = Traces(made)
        traces.note()
        with made.changing() as state:
            state.servers["metal2"].process = None  # who started it was killed before the state was written
            made.save(state)
        assert made.powered("metal2")
        for process in (state.switch, state.gateway, state.servers["metal1"].bmc.process):  # type: ignore[union-attr]
            processes.kill(process)
        made.down()
        assert_gone(made, traces)
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_system_that_shuts_itself_down_reads_off_and_boots_again(lab: Lab) -> None:
    disk = metal.home(lab.folder, "metal1") / "disk0.raw"
    tiny_uefi.file_system(disk, "GOOD-NIGHT", "off")
    managed = MetalBmc(lab, "metal1")
    before = console(lab).count("GOOD-NIGHT")
    for times in (1, 2):
        managed.reset(sushy.ResetType.ON)
        until(lambda: managed.power() == "Off", BOOT_LIMIT)
        assert console(lab).count("GOOD-NIGHT") == before + times
    lab.up()  # which mends what is dead, and this is not
    assert (managed.power(), lab.status().phase) == ("Off", "up")


def test_a_fault_gives_back_only_the_power_that_it_took(lab: Lab) -> None:
    lab.fault("metal1", faults.PowerOff())
    lab.clear("metal1")
    assert not lab.powered("metal1")
    managed = MetalBmc(lab, "metal1")
    managed.reset(sushy.ResetType.ON)
    lab.fault("metal1", faults.PowerOff())
    lab.fault("metal1", faults.PowerFeed())
    lab.clear("metal1", "power-off")
    assert not lab.powered("metal1")
    lab.clear("metal1", "power-feed")
    assert managed.power() == "On"
    lab.fault("metal1", faults.PowerOff())
    managed.reset(sushy.ResetType.FORCE_OFF)
    lab.clear("metal1")
    assert managed.power() == "Off"


def test_a_start_that_was_interrupted_is_gone_on_with(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between QEMU's start and the firmware's: the override is used up, and must not hold any longer."""
    with lab.changing() as state:
        one = state.servers["metal1"]
        one.boot, one.boot_once = "Cd", True
        lab.save(state)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(metal, "_release", killed)
    with pytest.raises(KeyboardInterrupt):
        lab.power("metal1", "on")
    monkeypatch.undo()
    managed = MetalBmc(lab, "metal1")
    process = lab.load().servers["metal1"].process
    assert (managed.power(), managed.system().boot.enabled) == ("On", sushy.BootSourceOverrideEnabled.DISABLED)
    managed.reset(sushy.ResetType.ON)
    assert lab.load().servers["metal1"].process == process
    asked = [("query-status", {})]
    for device in ("cd", "disk0"):
        asked.append(("qom-get", {"path": f"/machine/peripheral/{device}", "property": "bootindex"}))
    status, cd, disk = qmp.ask(metal.monitor(lab.folder, "metal1"), *asked)
    assert status["status"] == "running"
    assert disk < cd


def test_a_medium_whose_server_must_be_vouched_for_needs_its_certificate(lab: Lab, tmp_path: Path) -> None:
    tiny_uefi.iso(tmp_path / "tls.iso", "OVER-TLS")
    managed = MetalBmc(lab, "metal1")
    with served(tmp_path, self_signed(tmp_path)) as url:
        drive = "/VirtualMedia/Cd"
        try:
            assert b" 204 " in managed.raw("PATCH", drive, '{"VerifyCertificate": true}').splitlines()[0]
            with pytest.raises(sushy.exceptions.HTTPError, match="CERTIFICATE_VERIFY_FAILED"):
                managed.cd().insert_media(f"{url}/tls.iso")
            pem = (tmp_path / "self.pem").read_text()
            known = json.dumps({"CertificateType": "PEM", "CertificateString": pem[pem.index("-----BEGIN CERT") :]})
            assert b" 204 " in managed.raw("POST", f"{drive}/Certificates", known).splitlines()[0]
            managed.cd().insert_media(f"{url}/tls.iso")
            assert managed.cd().inserted
        finally:
            managed.raw("DELETE", f"{drive}/Certificates/Default")
            managed.raw("PATCH", drive, '{"VerifyCertificate": false}')


def test_a_partition_cuts_both_cards_and_outlasts_a_power_cycle(lab: Lab) -> None:
    managed = MetalBmc(lab, "metal1")
    managed.reset(sushy.ResetType.ON)
    assert ports(lab) == {"metal1-0": True, "metal1-1": True}
    lab.fault("metal1", faults.Partition())
    assert ports(lab) == {"metal1-0": False, "metal1-1": False}
    managed.reset(sushy.ResetType.FORCE_RESTART)
    assert (managed.power(), ports(lab)) == ("On", {"metal1-0": False, "metal1-1": False})
    assert lab.clear("metal1", "partition") == ["metal1"]
    assert ports(lab) == {"metal1-0": True, "metal1-1": True}
    with pytest.raises(LabError, match="no shared disk pool"):
        lab.fault("metal1", faults.Partition(storage=True))


def ports(lab: Lab) -> dict[str, bool]:
    """The server's ports at the switch, and whether something passes them."""
    switch = lab.load().switch
    assert switch is not None
    argv = ["nsenter", f"--net=/proc/{switch.pid}/ns/net", "ip", "-json", "link", "show", "master", "sw0"]
    links = json.loads(processes.run(lab.folder, argv).stdout)
    return {link["ifname"]: "UP" in link["flags"] for link in links if link["ifname"].startswith("metal1-")}
