"""The Redfish driver reads and boots by answers that others have recorded; see `recorded_bmc`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from recorded_bmc import SAMPLES, RecordedBmc, refusal, sample
from redfish_rig import QUICK, SECRET, Clock, News, on, secret
from troublesome_bmc import Say

from bedplate.drivers.redfish.description import DescriptionReader, described
from bedplate.drivers.redfish.driver import RedfishDriver
from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.health import HealthReader
from bedplate.model.blueprint import BmcRef, MetalEntry, Nic
from bedplate.model.ids import Epoch, OperationId, ServerName, StoreId
from bedplate.model.inventory import BmcView
from bedplate.model.metal import Described
from bedplate.model.steps import BmcStep, BootDisk, BootMedia, Done, Failed, ReadPower, StepResult, Ticket

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="this sushy came without its samples")

URL = "https://10.0.0.1:7444/media/unguessable/ram.iso"
Make = Callable[..., "Bench"]
NEW = {"system": "systemv1_20", "names": ("virtual_media_collectionv1_6", "virtual_mediav1_6")}
"""The DMTF's example of 2023: the drive lies under the system, and has no actions."""
CD = "/redfish/v1/Managers/BMC/VirtualMedia/CD1"


class Netboot:
    async def offer(self, entry: MetalEntry) -> str:
        return URL

    async def withdraw(self, server: ServerName) -> None:
        return


class Bench:
    """A server with such a BMC."""

    def __init__(self, *names: str, system: str = "system") -> None:
        self.clock = Clock()
        self.bmc = RecordedBmc(self.clock.spend, self.clock, *names, system=system)
        self.bmc.start()
        ref = BmcRef(address=f"redfish+http://127.0.0.1:{self.bmc.port}", secret=SECRET)
        nic = Nic(network="", bridge="", mac="", address="", prefix=0)
        self.entry = MetalEntry(server=ServerName("m1"), uid="u1", state="inspecting", since=0.0, bmc=ref, nic=nic)

    async def run(self, step: BmcStep, deadline: float = 600) -> StepResult:
        driver = RedfishDriver(
            lambda _namespace, _name: secret("admin", "hunter2"), News(), netboot=Netboot(), limits=QUICK,
            clock=self.clock, sleep=self.clock.sleep,
        )  # fmt: skip
        ticket = Ticket(operation=OperationId("1-1"), store=StoreId("s"), epoch=Epoch(1), deadline=deadline)
        try:
            return await driver.run(step, ticket)
        finally:
            await driver.stop()

    async def media(self) -> StepResult:
        return await self.run(BootMedia(entry=self.entry))

    def cd_under_the_manager(self) -> dict[str, Any]:
        """The recorded floppy drive made a CD drive: no CD drive with actions was recorded."""
        text = {"MediaTypes": ["CD"], "Inserted": False, "Image": None, "@odata.id": CD}
        actions = {
            f"#VirtualMedia.{a}": {"target": f"{CD}/Actions/VirtualMedia.{a}"} for a in ("InsertMedia", "EjectMedia")
        }
        drive = {**sample("virtual_media"), **text, "Actions": actions}
        collection = sample("virtual_media_collection")
        self.bmc.resources[collection["@odata.id"]] = {**collection, "Members": [{"@odata.id": CD}]}
        self.bmc.resources[CD] = drive
        return drive

    async def health(self) -> tuple[str, tuple[str, ...]]:
        return await HealthReader().read(self.bmc.system, self.get, deep=True)

    async def described(self) -> Described:
        return await DescriptionReader().read(self.bmc.system, self.get, deep=True)

    async def get(self, path: str) -> dict[str, Any]:
        found = self.bmc.resources.get(path)
        if found is None:
            raise BmcError("missing", "it has no such resource")
        return found


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Bench] = []

    def bench(*names: str, system: str = "system") -> Bench:
        made.append(Bench(*names, system=system))
        return made[-1]

    yield bench
    for b in made:
        b.bmc.stop()


SYSTEMS = ["system", "systemv1_20", "system_managedby_missing_manager_present"]


@pytest.mark.parametrize("system", SYSTEMS)
async def test_the_only_system_is_found_and_its_power_is_read(make: Make, system: str) -> None:
    bench = make(system=system)
    on(await bench.run(ReadPower(entry=bench.entry)))
    bench.bmc.power = "Off"
    result = await bench.run(ReadPower(entry=bench.entry))
    assert isinstance(result, Done)
    assert [v.power for v in result.views if isinstance(v, BmcView)] == ["off"]


@pytest.mark.parametrize("system", SYSTEMS)
async def test_a_server_that_is_well_is_well_whatever_is_not_there(make: Make, system: str) -> None:
    bench = make(system=system)
    assert await bench.health() == ("ok", ())


async def test_parts_of_chassis_and_storage_are_read(make: Make) -> None:
    names = ("chassis", "thermal", "storage_collection", "storage", "drive", "drive2", "drive3", "processor_collection")
    bench = make(*names)
    bench.bmc.system["Links"]["Chassis"] = [{"@odata.id": sample("chassis")["@odata.id"]}]
    assert await bench.health() == ("ok", ())
    fan = bench.bmc.resources[sample("thermal")["@odata.id"]]["Fans"][0]
    fan["Status"] = {"State": "Enabled", "Health": "Critical"}
    _, problems = await bench.health()
    assert len(problems) == 1
    assert problems[0].startswith("Fan ")


async def test_a_server_is_described_before_anything_is_booted(make: Make) -> None:
    bench = make("ethernet_interfaces_collection", "ethernet_interfaces")
    assert await bench.described() == Described(
        vendor="Contoso",
        product="3500",
        serial="437XR1138R2",
        bios="P79 v1.45 (12/06/2017)",
        sockets=2,
        memory_mib=96 * 1024,
        macs=("12:44:6a:3b:04:11",),
    )
    del bench.bmc.resources[bench.bmc.system["EthernetInterfaces"]["@odata.id"]]
    assert (await bench.described()).macs == (), "it says that it has none to show"


def test_what_a_bmc_says_in_its_own_way_is_left_out() -> None:
    odd = {"Manufacturer": None, "Model": 7, "SerialNumber": " \x07AB1\n ", "ProcessorSummary": []}
    odd |= {"BiosVersion": "x" * 900, "MemorySummary": {"TotalSystemMemoryGiB": "96"}}
    assert described(odd) == Described(serial="AB1", bios="x" * 80)


async def test_a_disk_that_only_the_simple_storage_tells_of_is_told(make: Make) -> None:
    bench = make("simple_storage_collection", "simple_storage", system="systemv1_20")
    _, problems = await bench.health()
    assert problems == ("Drive SATA Bay 2 is critical.",)


async def test_a_cd_drive_under_the_system_without_actions_is_changed_as_a_resource(make: Make) -> None:
    bench = make(*NEW["names"], system=NEW["system"])  # type: ignore[misc]
    on(await bench.media())
    drive = bench.bmc.resources[sample("virtual_mediav1_6")["@odata.id"]]
    assert (drive["Image"], drive["Inserted"], drive["VerifyCertificate"]) == (URL, True, False)
    boot = bench.bmc.system["Boot"]
    assert (boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"]) == ("Cd", "Once")
    on(await bench.run(BootDisk(entry=bench.entry)))
    assert (drive["Image"], drive["Inserted"]) == (None, False)
    assert bench.bmc.system["Boot"]["BootSourceOverrideEnabled"] == "Disabled"


async def test_a_bmc_with_a_floppy_drive_alone_says_so_and_the_power_is_left(make: Make) -> None:
    bench = make("virtual_media_collection", "virtual_media")
    result = await bench.media()
    assert isinstance(result, Failed)
    assert "no virtual CD drive" in result.message
    assert bench.bmc.changes == []
    assert bench.bmc.orders == []


@pytest.mark.parametrize("system", ["system", "system_managedby_missing_manager_present"])
async def test_the_drive_under_the_manager_is_found_however_the_system_names_it(make: Make, system: str) -> None:
    bench = make(system=system)
    drive = bench.cd_under_the_manager()
    on(await bench.media())
    assert drive["Image"] == URL


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("transfer_proto_required_error", {"TransferProtocolType": "HTTPS"}),
        ("transfer_proto_required_error2", {"TransferProtocolType": "HTTPS"}),
        ("transfer_proto_required_error3", {"TransferProtocolType": "HTTPS"}),
        ("transfer_proto_required_error4", {"TransferProtocolType": "HTTPS"}),
        ("transfer_method_required_error", {"TransferMethod": "Stream"}),
        ("credentials_required_error", {"UserName": "none", "Password": "none"}),
    ],
)
async def test_what_a_bmc_wants_to_be_told_of_a_medium_it_is_told(
    make: Make, said: str, wanted: dict[str, str]
) -> None:
    bench = make()
    drive = bench.cd_under_the_manager()

    def insist(told: dict[str, Any]) -> None:
        if not wanted.items() <= told.items():
            raise refusal(said)

    bench.bmc.before_insert = insist
    on(await bench.media())
    assert drive["Image"] == URL


async def test_a_bmc_that_wants_one_thing_after_another_is_told_all(make: Make) -> None:
    bench = make()
    bench.cd_under_the_manager()
    told_last: list[dict[str, Any]] = []

    def insist(told: dict[str, Any]) -> None:
        told_last[:] = [told]
        asked = {
            "TransferProtocolType": "transfer_proto_required_error2",
            "TransferMethod": "transfer_method_required_error",
        }
        for name, said in asked.items():
            if name not in told:
                raise refusal(said)
        if "Inserted" in told:
            raise Say(400, sample("error"))

    bench.bmc.before_insert = insist
    on(await bench.media())
    assert told_last == [{"Image": URL, "TransferProtocolType": "HTTPS", "TransferMethod": "Stream"}]


async def test_a_boot_override_that_waits_in_a_resource_of_settings_is_set_there(make: Make) -> None:
    bench = make(*NEW["names"], "settings-body-nokia", system=NEW["system"])  # type: ignore[misc]
    bench.bmc.system.update(sample("settings-nokia"))
    on(await bench.media())
    pending = sample("settings-body-nokia")["@odata.id"]
    changed = [path for path, told in bench.bmc.changes if "Boot" in told]
    assert set(changed) == {pending}
    boot = bench.bmc.resources[pending]["Boot"]
    assert (boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"]) == ("Cd", "Once")


@pytest.mark.parametrize("kind", ["lenovo-se450", "bootsourceoverridemode-only"])
async def test_settings_that_know_no_override_leave_it_with_the_system(make: Make, kind: str) -> None:
    body = sample(f"settings-body-{kind}")
    bench = make(*NEW["names"], f"settings-body-{kind}", system=NEW["system"])  # type: ignore[misc]
    bench.bmc.system["@Redfish.Settings"] = {"SettingsObject": {"@odata.id": body["@odata.id"]}}
    on(await bench.media())
    changed = [path for path, told in bench.bmc.changes if "Boot" in told]
    assert set(changed) == {bench.bmc.path}


async def test_a_maker_that_boots_virtual_media_by_another_name_is_told_that(make: Make) -> None:
    """Not recorded: sushy knows it of Supermicro."""
    bench = make(*NEW["names"], system=NEW["system"])  # type: ignore[misc]
    bench.bmc.system["Manufacturer"] = "Supermicro"
    bench.bmc.system["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"].append("UsbCd")
    on(await bench.media())
    assert bench.bmc.system["Boot"]["BootSourceOverrideTarget"] == "UsbCd"
