"""A server's BMC: what is told is what was read back, and what can't be known is never said to be done."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from redfish_rig import HV1, Clock, Emulated, Rig, Trouble, Troubled, rigs
from sim_bmc_rig import SimulatedBmc

from bedplate.model.inventory import BmcView
from bedplate.model.steps import Done, Failed, StepResult, Unknown

KINDS: dict[str, type[Rig]] = {"simulated": SimulatedBmc, "emulator": Emulated, "troubled": Troubled}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(params=list(KINDS))
async def rig(
    request: pytest.FixtureRequest, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    if request.param == "simulated":
        yield SimulatedBmc(clock)
        return
    async for made in rigs(request.param, clock, tmp_path, monkeypatch):
        yield made


def in_trouble(*troubles: Trouble) -> pytest.MarkDecorator:
    """Each of these on each rig that can make it; the test calls `rig.trouble(trouble)`."""
    pairs = [(kind, t) for kind, made in KINDS.items() for t in troubles if t in made.troubles]
    return pytest.mark.parametrize(("rig", "trouble"), pairs, indirect=["rig"])


def view(result: StepResult) -> BmcView:
    assert isinstance(result, Done), result
    [told] = result.views
    assert isinstance(told, BmcView)
    assert told.server == HV1
    return told


@pytest.mark.parametrize("power", ["on", "off"])
async def test_power_is_read(rig: Rig, power: str) -> None:
    rig.set_power(power)  # type: ignore[arg-type]
    told = view(await rig.read())
    assert (told.reachable, told.power, told.error) == (True, power, "")


async def test_power_off_is_read_back(rig: Rig) -> None:
    told = view(await rig.off())
    assert (told.reachable, told.power) == (True, "off")
    assert rig.power() == "off"


async def test_what_is_off_is_off(rig: Rig) -> None:
    rig.set_power("off")
    assert view(await rig.off()).power == "off"
    assert view(await rig.off()).power == "off"


@in_trouble("silent")
async def test_a_bmc_that_is_silent_is_told_and_nothing_is_done(rig: Rig, trouble: Trouble) -> None:
    rig.trouble(trouble)
    told = view(await rig.read())
    assert (told.reachable, told.power) == (False, "unknown")
    assert told.error
    assert isinstance(await rig.off(), Failed | Unknown)


@in_trouble("slow", "drops", "busy", "forgets", "says-500", "lies-once")
async def test_power_off_survives(rig: Rig, trouble: Trouble) -> None:
    rig.trouble(trouble)
    assert view(await rig.off()).power == "off"
    assert rig.power() == "off"


@in_trouble("slow", "drops", "busy", "forgets", "lies-once")
@pytest.mark.parametrize("power", ["on", "off"])
async def test_reading_survives(rig: Rig, trouble: Trouble, power: str) -> None:
    rig.trouble(trouble)
    rig.set_power(power)  # type: ignore[arg-type]
    for _ in range(5):
        told = view(await rig.read())
        assert (told.reachable, told.power) == (True, power), told.error


@in_trouble("fails", "garbage")
async def test_an_answer_that_is_none_is_none(rig: Rig, trouble: Trouble) -> None:
    rig.trouble(trouble)
    rig.set_power("off")
    told = view(await rig.read())
    assert (told.reachable, told.power) == (False, "unknown")
    assert told.error
    assert isinstance(await rig.off(), Failed | Unknown)


@in_trouble("keeps-on")
async def test_a_server_that_stays_on_is_never_said_to_be_off(rig: Rig, trouble: Trouble) -> None:
    rig.trouble(trouble)
    result = await rig.off()
    assert isinstance(result, Failed)
    assert result.reason == "PowerStillOn"
    assert "On" in result.message


@in_trouble("on-its-way")
async def test_on_its_way_off_is_not_off(rig: Rig, trouble: Trouble) -> None:
    rig.trouble(trouble)
    assert view(await rig.read()).power != "off"
    result = await rig.off()
    assert isinstance(result, Failed)
    assert result.reason == "PowerStillOn"
    assert "PoweringOff" in result.message


@pytest.mark.parametrize("deadline", [1, 4, 9, 14, 19, 24])
@in_trouble("slow")
async def test_what_comes_too_late_is_not_done(rig: Rig, trouble: Trouble, deadline: float) -> None:
    rig.trouble(trouble)
    begun = rig.clock()
    result = await rig.off(deadline)
    assert isinstance(result, Unknown | Failed | Done)
    assert not isinstance(result, Done) or rig.clock() - begun <= deadline
    rig.set_power("off")
    begun = rig.clock()
    told = view(await rig.read(deadline))
    assert (told.reachable, told.power) in {(False, "unknown"), (True, "off")}
    assert not told.reachable or rig.clock() - begun <= deadline
