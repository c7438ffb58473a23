"""The RAM system's medium: its place for settings is found, and what is written there is read from the ISO's file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bedplate.drivers.artifacts import iso
from bedplate.drivers.artifacts.proc import ArtifactError
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.ids import ServerName, StoreId
from bedplate.model.metal_protocol import (
    MEDIUM_LABEL,
    SETTINGS_MAGIC,
    SETTINGS_PATH,
    SETTINGS_SIZE,
    RamSettings,
    read_settings,
    settings_block,
)


def _medium(folder: Path) -> tuple[Path, int]:
    root, uki, made = folder / "root", folder / "uki", folder / "made.iso"
    (root / "etc").mkdir(parents=True)
    # The same words elsewhere are no place for settings.
    (root / "etc" / "settings").write_bytes(SETTINGS_MAGIC * 100)
    uki.write_bytes(SETTINGS_MAGIC + b"kernel")
    iso.pack(root, folder / "system", folder / "log")
    return made, iso.write(made, folder / "system", uki, folder, folder / "log")


def test_settings_written_at_the_offset_are_the_mediums_file(tmp_path: Path) -> None:
    medium, offset = _medium(tmp_path)
    enrol = EnrolFile(server=ServerName("m1"), store=StoreId("s"), controller="10.0.0.1:7443", ca="ca", token="t")
    settings = RamSettings(enrol=enrol, run=3, mac="52:54:00:00:00:01", address="10.0.0.9/24")
    with medium.open("r+b") as file:
        file.seek(offset)
        file.write(settings_block(settings))
    out = tmp_path / "settings"
    xorriso = ["xorriso", "-osirrox", "on", "-indev", str(medium), "-extract", f"/{SETTINGS_PATH}", str(out)]
    done = subprocess.run(xorriso, check=True, capture_output=True, text=True)
    assert f"Volume id    : '{MEDIUM_LABEL}'" in done.stderr
    assert out.stat().st_size == SETTINGS_SIZE
    assert read_settings(out.read_bytes()) == settings


def test_a_medium_whose_settings_are_filled_already_has_no_place_for_them(tmp_path: Path) -> None:
    medium, offset = _medium(tmp_path)
    with medium.open("r+b") as file:
        file.seek(offset + len(SETTINGS_MAGIC))
        file.write(b"{}")
    with pytest.raises(ArtifactError, match="0 places for settings"):
        iso.settings_offset(medium)


def test_a_place_for_settings_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    medium, offset = _medium(tmp_path)
    with medium.open("r+b") as file:
        file.seek(offset + SETTINGS_SIZE - 1)
        file.write(b"x")
    with pytest.raises(ArtifactError, match="not whole"):
        iso.settings_offset(medium)
