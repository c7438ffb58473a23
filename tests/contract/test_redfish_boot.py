"""Bare servers are booted by their BMCs: what was asked for starts, once, whatever is lost or killed on the way."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bootable_bmc import ANOTHER, BootableBmc
from redfish_rig import QUICK, SECRET, Clock, News, on, secret, throw
from troublesome_bmc import SYSTEM, Drop, Hang, error

from bedplate.drivers.redfish.driver import RedfishDriver
from bedplate.model.blueprint import BmcRef, MetalEntry, Nic, ServerEntry
from bedplate.model.ids import Epoch, OperationId, ServerName, StoreId
from bedplate.model.steps import BmcStep, BootDisk, BootMedia, Done, Failed, PowerOff, PowerOn, StepResult, Ticket
from bedplate.ports import NotOffered

URL = "https://10.0.0.1:7444/media/unguessable/ram.iso"
Make = Callable[..., "Bench"]


class Netboot:
    """Offers one medium, or none."""

    def __init__(self, why_not: str = "") -> None:
        self.why_not = why_not
        self.before: Callable[[], object] | None = None
        """Gives what is awaited while the medium is asked for."""
        self.withdrawn: list[str] = []

    async def offer(self, entry: MetalEntry) -> str:
        if self.before is not None:
            await self.before()  # type: ignore[misc]
        if self.why_not:
            raise NotOffered(self.why_not)
        return URL

    async def withdraw(self, server: ServerName) -> None:
        self.withdrawn.append(server)


class Bench:
    """One bare server with its BMC."""

    def __init__(self, *, under_manager: bool = False) -> None:
        self.clock = Clock()
        self.bmc = BootableBmc(self.clock.spend, self.clock, under_manager=under_manager)
        self.bmc.start()
        self.netboot = Netboot()
        self._numbers = itertools.count(1)
        ref = BmcRef(address=f"redfish+http://127.0.0.1:{self.bmc.port}{SYSTEM}", secret=SECRET)
        nic = Nic(network="", bridge="", mac="", address="", prefix=0)
        self.entry = MetalEntry(
            server=ServerName("m1"), uid="u1", state="inspecting", since=0.0, bmc=ref, nic=nic
        )  # fmt: skip

    def driver(self, *, media: bool = True) -> RedfishDriver:
        """A controller's, as it begins."""
        return RedfishDriver(
            lambda _namespace, _name: secret("admin", "hunter2"),
            News(),
            netboot=self.netboot if media else None,
            limits=QUICK,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    async def run(
        self, step: BmcStep, deadline: float = 600, *, driver: RedfishDriver | None = None, media: bool = True
    ) -> StepResult:
        """Run it, by a driver of its own where none is given."""
        used = driver or self.driver(media=media)
        number = OperationId(f"1-{next(self._numbers)}")
        try:
            return await used.run(step, Ticket(operation=number, store=StoreId("s"), epoch=Epoch(1), deadline=deadline))
        finally:
            if driver is None:
                await used.stop()

    async def media(self, deadline: float = 600) -> StepResult:
        return await self.run(BootMedia(entry=self.entry), deadline)

    async def disk(self, deadline: float = 600) -> StepResult:
        return await self.run(BootDisk(entry=self.entry), deadline)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Bench] = []

    def bench(**options: bool) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield bench
    for b in made:
        b.bmc.stop()


@pytest.mark.parametrize("power", ["On", "Off"])
@pytest.mark.parametrize("under_manager", [False, True])
async def test_the_medium_is_booted_from_whatever_state(make: Make, power: str, under_manager: bool) -> None:
    bench = make(under_manager=under_manager)
    bench.bmc.power = power
    bench.bmc.cd.update(Inserted=True, Image=ANOTHER)
    on(await bench.media())
    assert bench.bmc.booted == [URL]
    assert bench.bmc.cd["Image"] == URL
    assert not bench.bmc.resources[f"{bench.bmc.media}/Floppy"]["Inserted"]


async def test_the_medium_is_booted_once_and_then_the_disk_also_on_boards_that_forget_once(make: Make) -> None:
    bench = make()
    bench.bmc.forgets_once = False
    on(await bench.media())
    assert bench.bmc.boot["BootSourceOverrideEnabled"] == "Once"
    on(await bench.disk())
    assert bench.bmc.booted == [URL, "disk"]
    assert bench.bmc.boot["BootSourceOverrideEnabled"] == "Disabled"
    assert not bench.bmc.cd["Inserted"]


async def test_the_certificate_is_left_unchecked_only_where_the_bmc_has_that_choice(make: Make) -> None:
    having, lacking = make(), make()
    having.bmc.cd["VerifyCertificate"] = True
    on(await having.media())
    on(await lacking.media())
    assert having.bmc.cd["VerifyCertificate"] is False
    assert "VerifyCertificate" not in lacking.bmc.cd


async def test_a_bmc_that_refuses_to_be_told_more_than_the_image_is_told_that(make: Make) -> None:
    bench = make()
    bench.bmc.image_only = True
    on(await bench.media())
    assert bench.bmc.booted == [URL]


async def test_what_somebody_else_has_inserted_meanwhile_is_not_booted(make: Make) -> None:
    bench = make()
    bench.bmc.inserts_another = 2
    on(await bench.media())
    assert bench.bmc.booted == [URL]


async def test_a_drive_that_keeps_another_medium_fails_the_boot_and_the_power_is_left(make: Make) -> None:
    bench = make()
    bench.bmc.inserts_another = 1_000
    result = await bench.media()
    assert isinstance(result, Failed)
    assert "another medium is in it" in result.message
    assert bench.bmc.orders == []


@pytest.mark.parametrize(
    "shown",
    ["https://bmc.example/media/unguessable/ram.iso", "//10.0.0.1:7444/media/unguessable/ram.iso", "RAM.ISO", None],
)
async def test_bmcs_may_show_the_image_in_their_own_way(make: Make, shown: str | None) -> None:
    bench = make()
    bench.bmc.shows = lambda _url: shown
    on(await bench.media())
    assert bench.bmc.booted == [URL]


async def test_another_path_of_our_own_listener_is_another_medium(make: Make) -> None:
    bench = make()
    bench.bmc.shows = lambda url: url.replace("unguessable", "of-an-earlier-boot")
    result = await bench.media()
    assert isinstance(result, Failed)
    assert bench.bmc.orders == []


async def test_a_server_that_boots_by_bios_is_told_to_boot_by_uefi(make: Make) -> None:
    bench = make()
    bench.bmc.boot["BootSourceOverrideMode"] = "Legacy"
    count = itertools.count(1)
    told: list[str] = []

    def lose_the_first(method: str, path: str) -> None:
        if method == "PATCH" and path == SYSTEM:
            told.append(path)
            if next(count) == 1:
                raise error(500)

    bench.bmc.trouble = lose_the_first
    on(await bench.media())
    assert len(told) > 1
    assert bench.bmc.boot["BootSourceOverrideMode"] == "UEFI"
    assert bench.bmc.booted == [URL]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BootSourceOverrideMode", "Legacy"),
        ("BootSourceOverrideTarget", "Pxe"),
        ("BootSourceOverrideEnabled", "Disabled"),
    ],
)
async def test_an_override_that_reads_back_as_another_fails_the_boot_and_the_power_is_left(
    make: Make, name: str, value: str
) -> None:
    bench = make()
    bench.bmc.boot[name] = value
    bench.bmc.keeps = {name: value}
    result = await bench.media()
    assert isinstance(result, Failed)
    assert f"{name.removeprefix('BootSourceOverride')} {value}" in result.message
    assert bench.bmc.orders == []


async def test_a_disk_for_good_is_booted_by_uefi(make: Make) -> None:
    bench = make()
    bench.bmc.boot.update(BootSourceOverrideEnabled="Continuous", BootSourceOverrideMode="Legacy")
    bench.bmc.keeps = {"BootSourceOverrideEnabled": "Continuous"}
    bench.bmc.boot["BootSourceOverrideTarget"] = "Cd"
    on(await bench.disk())
    assert bench.bmc.boot["BootSourceOverrideTarget"] == "Hdd"
    assert bench.bmc.boot["BootSourceOverrideMode"] == "UEFI"


@pytest.mark.parametrize("step", [BootMedia, BootDisk])
async def test_a_server_that_was_not_switched_off_is_not_said_to_have_started(
    make: Make, step: type[BootMedia] | type[BootDisk]
) -> None:
    bench = make()
    bench.bmc.obeys = False
    result = await bench.run(step(entry=bench.entry), 120)
    assert not isinstance(result, Done)
    assert bench.bmc.booted == []


async def test_a_server_that_is_fenced_meanwhile_stays_off(make: Make) -> None:
    bench = make()
    driver = bench.driver()
    fenced: list[StepResult] = []

    async def fence() -> None:
        fenced.append(await bench.run(PowerOff(entry=bench.entry), driver=driver))

    bench.netboot.before = fence
    try:
        result = await bench.run(BootMedia(entry=bench.entry), driver=driver)
    finally:
        await driver.stop()
    assert isinstance(fenced[0], Done)
    assert isinstance(result, Failed)
    assert "fenced" in result.message
    assert bench.bmc.really() == "Off"
    assert bench.bmc.booted == []


async def test_one_request_in_ten_may_be_lost(make: Make) -> None:
    bench = make()
    count = itertools.count(1)
    bench.bmc.trouble = lambda _m, _p: throw(Drop()) if next(count) % 10 == 0 else None
    on(await bench.media())
    on(await bench.disk())
    assert bench.bmc.booted == [URL, "disk"]


async def test_orders_that_are_carried_out_and_said_to_have_failed_do_no_harm(make: Make) -> None:
    bench = make()
    bench.bmc.order_reply = error(500)
    on(await bench.media())
    assert bench.bmc.booted == [URL]


@pytest.mark.parametrize("first", range(1, 40, 3))
async def test_killed_at_any_request_it_can_be_repeated(make: Make, first: int) -> None:
    bench = make()
    bench.bmc.cd.update(Inserted=True, Image=ANOTHER)
    count, loop = itertools.count(1), asyncio.get_running_loop()
    killed = bench.driver()
    task = asyncio.create_task(bench.run(BootMedia(entry=bench.entry), driver=killed))

    def kill(_method: str, _path: str) -> None:
        if next(count) >= first:
            loop.call_soon_threadsafe(task.cancel)
            raise Drop

    bench.bmc.trouble = kill
    await asyncio.wait({task})
    bench.bmc.trouble = None
    await killed.stop()
    on(await bench.media())
    assert bench.bmc.booted[-1] == URL


@pytest.mark.parametrize(
    ("why", "media", "said"),
    [("", False, "no media"), ("build it: bedplate image build --ram", True, "bedplate image build --ram")],
)
async def test_without_a_medium_nothing_is_touched(make: Make, why: str, media: bool, said: str) -> None:
    bench = make()
    bench.netboot.why_not = why
    result = await bench.run(BootMedia(entry=bench.entry), media=media)
    assert isinstance(result, Failed)
    assert result.reason == "NoMedium"
    assert said in result.message
    assert bench.bmc.orders == []


async def test_a_bmc_without_a_cd_drive_says_so_and_the_power_is_left(make: Make) -> None:
    bench = make()
    bench.bmc.cd["MediaTypes"] = ["USBStick"]
    result = await bench.media()
    assert isinstance(result, Failed)
    assert "no virtual CD drive" in result.message
    assert "set spec.metal.boot to network" in result.message
    assert bench.bmc.orders == []


@pytest.mark.parametrize("once", [True, False])
async def test_a_server_without_a_cd_drive_boots_from_the_network(make: Make, once: bool) -> None:
    bench = make()
    bench.bmc.cd["MediaTypes"] = ["USBStick"]
    bench.bmc.forgets_once = once
    bench.entry = msgspec.structs.replace(bench.entry, boots_from="network")
    on(await bench.media())
    on(await bench.disk())
    assert bench.bmc.booted == ["network", "disk"]
    off = await bench.run(PowerOff(entry=bench.entry))
    assert isinstance(off, Done)
    assert bench.netboot.withdrawn == ["m1"]


async def test_a_silent_bmc_ends_the_step_by_its_deadline(make: Make) -> None:
    bench = make()
    bench.bmc.trouble = lambda _m, _p: throw(Drop())
    began = bench.clock()
    assert not isinstance(await bench.media(60), Done)
    assert bench.clock() - began <= 60


async def test_a_server_on_which_nothing_is_to_run_keeps_no_medium(make: Make) -> None:
    bench = make()
    on(await bench.media())
    result = await bench.run(PowerOff(entry=bench.entry), 60)
    assert isinstance(result, Done)
    assert not bench.bmc.cd["Inserted"]
    assert bench.netboot.withdrawn == ["m1"]
    assert bench.bmc.booted == [URL]


async def test_a_fence_leaves_the_drive_alone(make: Make) -> None:
    bench = make()
    on(await bench.media())
    hypervisor = ServerEntry(server=bench.entry.server, standing="fence", since=0.0, bmc=bench.entry.bmc)
    bench.bmc.requests.clear()
    assert isinstance(await bench.run(PowerOff(entry=hypervisor), 60), Done)
    assert bench.bmc.cd["Inserted"]
    assert not [r for r in bench.bmc.requests if "VirtualMedia" in r]


@pytest.mark.parametrize("fault", [error(500), Hang()])
async def test_a_drive_that_can_not_be_emptied_takes_nothing_from_being_off(make: Make, fault: Exception) -> None:
    bench = make()
    on(await bench.media())
    bench.bmc.trouble = lambda _m, path: throw(fault) if "VirtualMedia" in path else None
    began = bench.clock()
    result = await bench.run(PowerOff(entry=bench.entry), 60)
    assert isinstance(result, Done)
    assert bench.bmc.really() == "Off"
    assert bench.clock() - began <= 60


async def test_power_on_is_read_back(make: Make) -> None:
    bench = make()
    bench.bmc.power = "Off"
    on(await bench.run(PowerOn(entry=bench.entry)))
    on(await bench.run(PowerOn(entry=bench.entry)))
    assert bench.bmc.orders == ["On"]
