"""What the RAM system does before its agent: settings from the medium, a network from the settings."""

from __future__ import annotations

import stat
from configparser import ConfigParser
from pathlib import Path

import msgspec
import pytest

from bedplate.agent.ram_setup import Interface, keep_settings, named, network_file, physical, used
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.ids import ServerName, StoreId
from bedplate.model.metal_protocol import SETTINGS_MAGIC, SETTINGS_SIZE, RamSettings, settings_block

ENROL = EnrolFile(server=ServerName("m1"), store=StoreId("s"), controller="10.0.0.1:7443", ca="ca", token="t")


def _network(settings: RamSettings) -> ConfigParser:
    parsed = ConfigParser()
    parsed.optionxform = str  # type: ignore[method-assign,assignment]
    parsed.read_string(network_file(settings, "eno1"))
    return parsed


def test_settings_are_kept_for_root_alone_whatever_lay_there(tmp_path: Path) -> None:
    settings = RamSettings(enrol=ENROL, run=4)
    medium, target = tmp_path / "medium", tmp_path / "settings.json"
    medium.write_bytes(settings_block(settings))
    target.write_text("old")
    assert keep_settings(medium, target) == settings
    assert msgspec.json.decode(target.read_bytes(), type=RamSettings) == settings
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_medium_that_no_controller_gave_out_is_refused(tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    medium.write_bytes(SETTINGS_MAGIC.ljust(SETTINGS_SIZE, b"\n"))
    with pytest.raises(ValueError, match="not given out by a controller"):
        keep_settings(medium, tmp_path / "settings.json")
    assert not (tmp_path / "settings.json").exists()


def test_an_address_is_configured_with_its_gateway_and_without_dhcp() -> None:
    settings = RamSettings(
        enrol=ENROL, run=1, address="10.0.0.9/24", gateway="10.0.0.1", name_servers=("9.9.9.9",), mtu=9000
    )
    made = _network(settings)
    assert dict(made["Match"]) == {"Name": "eno1"}
    assert dict(made["Link"]) == {"MTUBytes": "9000"}
    assert dict(made["Network"]) == {"Address": "10.0.0.9/24", "Gateway": "10.0.0.1", "DNS": "9.9.9.9"}


def test_without_an_address_it_is_asked_for_by_dhcp() -> None:
    assert dict(_network(RamSettings(enrol=ENROL, run=1))["Network"]) == {"DHCP": "yes"}


def test_the_interface_is_found_by_the_address_it_was_made_with(tmp_path: Path) -> None:
    for name in ("eno1", "eno2"):
        (tmp_path / name / "device").mkdir(parents=True)
    (tmp_path / "bond0").mkdir()
    shared = "02:00:00:00:00:ff"
    links: list[dict[str, object]] = [
        {"ifname": "bond0", "address": shared, "flags": ["UP", "LOWER_UP"]},
        {"ifname": "eno2", "address": shared, "permaddr": "52:54:00:00:00:02", "flags": ["UP"]},
        {"ifname": "eno1", "address": "52:54:00:00:00:01", "flags": ["UP", "LOWER_UP"]},
    ]
    found = physical(links, tmp_path)
    assert found == [
        Interface("eno1", "52:54:00:00:00:01", True),
        Interface("eno2", "52:54:00:00:00:02", False),
    ]
    assert named(found, "52:54:00:00:00:02".upper()) == found[1]
    assert named(found, shared) is None
    assert named(found, "") is None


def test_the_interface_that_is_configured_is_known_again(tmp_path: Path) -> None:
    file = tmp_path / "10-bedplate.network"
    assert used(file) == ""
    file.write_text(network_file(RamSettings(enrol=ENROL, run=1), "eno2"))
    assert used(file) == "eno2"
