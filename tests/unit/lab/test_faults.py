"""Faults as values: what can be asked for, how it is kept, and how it reads."""

from __future__ import annotations

import msgspec
import pytest

from bedplate.cli import lab_faults
from bedplate.cli.main import main
from bedplate.cli.parsing import Parser, add_actions
from bedplate.lab import faults
from bedplate.lab.config import HypervisorState
from bedplate.lab.errors import LabError
from bedplate.lab.faults import BmcFault, Fault, KeptFault, Partition, SlowDisk


def asked(*argv: str) -> Fault:
    """The fault that a command line asks for."""
    parser = Parser("lab")
    lab_faults.configure(add_actions(parser))
    return lab_faults.wanted(parser.parse(["fault", *argv]))


@pytest.mark.parametrize(
    ("argv", "fault", "words"),
    [
        (["power-off", "hv1"], faults.PowerOff(), "power-off"),
        (["power-feed", "hv1", "hv2"], faults.PowerFeed(), "power-feed"),
        (["hang", "hv1"], faults.Hang(), "hang"),
        (["libvirt-hang", "hv1"], faults.LibvirtHang(), "libvirt-hang"),
        (["partition", "hv1"], Partition(), "partition"),
        (["partition", "hv1", "--storage"], Partition(storage=True), "partition (with storage)"),
        (["slow-disk", "hv1"], SlowDisk(1 << 20), "slow-disk (1024 KiB/s)"),
        (["slow-disk", "hv1", "--rate", "512K"], SlowDisk(512 << 10), "slow-disk (512 KiB/s)"),
        (["bmc", "hv1", "--delay", "5s", "--drop", "10%"], BmcFault(delay=5, drop=0.1), "bmc (5 s late, drops 10%)"),
        (["bmc", "hv1", "--error", "500", "--lie", "on"], BmcFault(error=500, lie="on"), "bmc (answers 500, says on)"),
        (
            ["bmc", "hv1", "--deaf", "--health", "Critical", "--problem", "Fan 3 stands still."],
            BmcFault(deaf=True, health="Critical", problem="Fan 3 stands still."),
            "bmc (deaf, Critical: Fan 3 stands still.)",
        ),
    ],
)  # fmt: skip
def test_every_fault_is_asked_for_kept_and_told(argv: list[str], fault: Fault, words: str) -> None:
    assert asked(*argv) == fault
    faults.check(fault)
    assert faults.describe(fault) == words
    assert faults.kind(fault) == argv[0]
    one = HypervisorState("hv1", "10.88.0.11", "02:bd:00:00:00:01", "uuid")
    one.faults[faults.kind(fault)] = KeptFault(fault, 1.5)
    assert msgspec.json.decode(msgspec.json.encode(one), type=HypervisorState) == one


def test_a_state_from_before_there_were_faults_is_read() -> None:
    old = b'{"name": "hv1", "address": "10.88.0.11", "mac": "02:bd:00:00:00:01", "host_uuid": "u", "power": "on"}'
    one = msgspec.json.decode(old, type=HypervisorState)
    assert (one.faults, one.bmc, one.watchdog) == ({}, None, None)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (BmcFault(), "say what is wrong with the BMC"),
        (BmcFault(drop=1.5), "0% to 100%"),
        (BmcFault(error=200), "400 to 599"),
        (BmcFault(delay=-1), "can't be"),
        (BmcFault(problem="hot"), "needs a health"),
        (SlowDisk(100), "at least 4096"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_the_reason(fault: Fault, said: str) -> None:
    with pytest.raises(LabError, match=said):
        faults.check(fault)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["partitin", "hv1"], 'did you mean "partition"'),
        (["bmc", "hv1", "--drop", "lots"], "write it as 10% or 0.1"),
        (["slow-disk", "hv1", "--rate", "fast"], "write it as 512K or 4M"),
        (["bmc", "hv1", "--lie", "maybe"], "write one of on, off"),
        (["power-off"], "SERVER"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "fault", *argv]) == 1
    assert said in capsys.readouterr().err


def test_where_no_lab_is_nothing_can_be_broken(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")
    for argv in (["power-off", "hv1"], ["clear"], ["ls"]):
        assert main(["lab", "fault", *argv]) == 1
        assert "there is no lab" in capsys.readouterr().err
