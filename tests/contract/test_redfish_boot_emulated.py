"""The Redfish driver, sushy-tools' emulator and the agents' listener together: a BMC fetches a server's own medium."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from redfish_rig import Clock, Emulated
from test_media import OFFSET, SETTINGS_SIZE, SIZE, Site, entry, site

from bedplate.drivers.redfish.driver import RedfishDriver
from bedplate.drivers.redfish.wire import Limits
from bedplate.model.metal_protocol import read_settings
from bedplate.model.steps import BmcStep, BootDisk, BootMedia, Done, PowerOff

__all__ = ["site"]


@pytest_asyncio.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulated]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the emulator leaves folders
    made = Emulated(Clock(), tmp_path, monkeypatch)
    try:
        yield made
    finally:
        await made.stop()


async def test_the_bmc_has_the_servers_own_medium_and_gives_it_up_for_the_disk(rig: Emulated, site: Site) -> None:
    driver = RedfishDriver(
        lambda namespace, name: rig.secrets.get((namespace, name)),
        rig.news,
        netboot=site.media,
        limits=Limits(),
        clock=rig.clock,
        sleep=rig.clock.sleep,
    )
    metal = msgspec.structs.replace(entry(run=3), bmc=rig.ref)

    async def done(step: BmcStep) -> None:
        result = await driver.run(step, rig.ticket(600))
        assert isinstance(result, Done), result

    try:
        await done(BootMedia(entry=metal))
        assert rig.power() == "on"
        held = rig.medium()
        assert held is not None
        assert len(held) == SIZE
        assert read_settings(held[OFFSET : OFFSET + SETTINGS_SIZE]).run == 3
        await done(BootDisk(entry=metal))
        assert rig.power() == "on"
        assert rig.medium() is None
        await done(PowerOff(entry=metal))
        assert rig.power() == "off"
    finally:
        await driver.stop()
