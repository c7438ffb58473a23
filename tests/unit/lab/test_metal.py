"""Bare servers of a lab as state: what they are, the machine they become, and what a lab refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bedplate.lab import config, metal, preflight
from bedplate.lab.config import LabNetwork, LabState, MetalDisk, MetalState
from bedplate.lab.errors import LabError
from bedplate.lab.metal_bmc import fetch, told_boot, trusted

UID = "6a0f6f0e-7d3f-4d5c-9a55-0f4a6a1c2b3d"
FOLDER = Path("/l,ab")


def new(index: int = 0) -> MetalState:
    return config.new_server(LabState(uid=UID, network=LabNetwork()), index)


def devices(one: MetalState) -> dict[str, dict[str, Any]]:
    argv = metal.command(FOLDER, one, kvm=False)
    words = [argv[place + 1] for place, word in enumerate(argv) if word == "-device" and argv[place + 1][0] == "{"]
    return {device["id"]: device for device in map(json.loads, words)}


def order(one: MetalState) -> list[str]:
    found = devices(one)
    return sorted(found, key=lambda name: found[name]["bootindex"])


def test_no_two_servers_share_a_name_an_identity_a_card_or_a_disk() -> None:
    made = [new(index) for index in range(config.MOST_SERVERS)]
    assert [one.name for one in made[:2]] == ["metal1", "metal2"]
    for values in (
        [one.host_uuid for one in made],
        [mac for one in made for mac in one.macs],
        [disk.serial for one in made for disk in one.disks],
        [tap for one in made for tap in metal.taps(one)],
    ):
        assert len(set(values)) == len(values)
    assert all(len(tap) <= 15 for one in made for tap in metal.taps(one))  # the kernel's limit
    assert all(len(disk.serial) <= 20 for one in made for disk in one.disks)  # virtio's and NVMe's
    assert made[0] == new(0)


def test_the_override_decides_what_is_tried_first_and_nothing_is_left_out() -> None:
    one = new()
    assert order(one) == ["disk0", "disk1", "cd", "card0", "card1"]
    one.boot = "Cd"
    assert order(one) == ["cd", "disk0", "disk1", "card0", "card1"]
    one.boot = "Pxe"
    assert order(one) == ["card0", "card1", "disk0", "disk1", "cd"]


def test_disks_have_their_bus_and_serial_and_the_drive_its_medium() -> None:
    one = new()
    one.disks = (MetalDisk("sata", 1 << 30, "A1"), MetalDisk("nvme", 1 << 30, "B2"), MetalDisk("virtio", 1 << 30, "C3"))
    found = devices(one)
    assert [(found[f"disk{n}"]["driver"], found[f"disk{n}"]["serial"]) for n in range(3)] == [
        ("ide-hd", "A1"),
        ("nvme", "B2"),
        ("virtio-blk-pci", "C3"),
    ]
    assert "drive" not in found["cd"]
    one.medium = "http://127.0.0.1/x.iso"
    assert devices(one)["cd"]["drive"] == "medium"
    argv = metal.command(FOLDER, one, kvm=True)
    assert argv[argv.index("-accel") + 1] == "kvm"
    assert any("path=/l,,ab/metal1/qmp" in word for word in argv)  # a comma in the folder's name ends no option


def test_once_is_told_until_it_is_used_up() -> None:
    one = new()
    assert told_boot(one)["BootSourceOverrideEnabled"] == "Disabled"
    one.boot, one.boot_once = "Cd", True
    assert told_boot(one)["BootSourceOverrideEnabled"] == "Once"
    one.boot_once = False
    assert told_boot(one)["BootSourceOverrideEnabled"] == "Continuous"


def test_a_state_from_before_there_were_bare_servers_can_be_read() -> None:
    old = msgspec.to_builtins(LabState(uid=UID, network=LabNetwork()))
    del old["servers"]
    assert msgspec.convert(old, LabState).servers == {}


def test_missing_firmware_and_a_url_of_another_kind_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="apt install ovmf"):
        preflight.check_firmware(tmp_path)
    with pytest.raises(LabError, match="no http or https URL"):
        fetch("file:///etc/passwd", ("", ""), trusted(False))
    with pytest.raises(LabError, match="as PEM"):
        trusted(True, "no certificate")
