"""The verdict about KVM: by comparison with emulation, and remembered for one boot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bedplate.agent import kvm_probe
from bedplate.agent.kvm_probe import KvmVerdict


@pytest.fixture
def a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(shutil, "which", lambda command: command)


@pytest.mark.usefixtures("a_device")
@pytest.mark.parametrize(
    ("emulated", "real", "works"),
    [(0.1, 0.1, True), (0.1, 0.45, True), (0.1, 1.3, False), (2.0, 3.0, True), (0.1, None, False), (None, 0.1, False)],
)
def test_kvm_must_not_be_slower_than_emulation(
    monkeypatch: pytest.MonkeyPatch, emulated: float | None, real: float | None, works: bool
) -> None:
    monkeypatch.setattr(kvm_probe, "boot_time", lambda accel, cpu: {"tcg": emulated, "kvm": real}[accel])
    verdict = kvm_probe.look()
    assert verdict.works is works
    assert verdict.reason


def test_the_verdict_is_remembered_for_this_boot_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = [KvmVerdict(False, "first"), KvmVerdict(True, "second")]
    monkeypatch.setattr(kvm_probe, "look", lambda: answers.pop(0))
    assert kvm_probe.probe(tmp_path).reason == "first"
    assert kvm_probe.probe(tmp_path).reason == "first"
    remembered = tmp_path / "kvm-probe.json"
    remembered.write_text(remembered.read_text().replace('"boot":"', '"boot":"before-'))
    assert kvm_probe.probe(tmp_path).reason == "second"
    remembered.write_text("{")
    answers.append(KvmVerdict(True, "third"))
    assert kvm_probe.probe(tmp_path).reason == "third"


@pytest.mark.skipif(shutil.which(kvm_probe.QEMU) is None, reason="needs QEMU")
def test_the_tiny_guest_boots_under_emulation() -> None:
    assert kvm_probe.boot_time("tcg", "max") is not None


def test_kvm_of_an_emulated_processor_is_not_used(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n")
    assert kvm_probe.look(cpuinfo) == KvmVerdict(False, "the processor is emulated itself")
