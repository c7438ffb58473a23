"""The Redfish driver before a BMC that does everything wrong: what it asks, how often, and what it believes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from redfish_rig import HV1, QUICK, Clock, Troubled, secret, throw
from troublesome_bmc import CHASSIS, RESET, SYSTEM, Drop, Hang, Say, TroublesomeBmc, error

from bedplate.drivers.redfish.driver import PowerError, RedfishDriver
from bedplate.drivers.redfish.wire import Limits
from bedplate.model.blueprint import BmcRef
from bedplate.model.ids import ServerName
from bedplate.model.inventory import BmcView
from bedplate.model.steps import Done, Failed, PowerOff, ReadPower, StepResult, Unknown


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Troubled]:
    made = Troubled(Clock())
    try:
        yield made
    finally:
        await made.stop()


def view(result: StepResult) -> BmcView:
    assert isinstance(result, Done), result
    [told] = result.views
    assert isinstance(told, BmcView)
    return told


def reads(bmc: TroublesomeBmc) -> int:
    return bmc.requests.count(f"GET {SYSTEM}")


# --- off --------------------------------------------------------------------------------------------------------


async def test_off_is_asked_twice_a_second_apart_before_it_is_believed(rig: Troubled) -> None:
    rig.set_power("off")
    begun = rig.clock()
    assert view(await rig.off()).power == "off"
    assert reads(rig.bmc) == 2
    assert rig.clock() - begun >= 1
    assert rig.bmc.orders == []


async def test_two_who_ask_at_once_do_not_confirm_each_other(rig: Troubled) -> None:
    rig.set_power("off")
    begun = rig.clock()
    results = await asyncio.gather(rig.read(), rig.off(), rig.read())
    assert {view(r).power for r in results} == {"off"}
    assert rig.clock() - begun >= 1
    assert reads(rig.bmc) > 3


async def test_off_is_not_believed_where_an_order_to_power_on_may_still_come_into_effect(rig: Troubled) -> None:
    """The order that undoes it does not get through: then `off` may be the quiet before it powers on."""
    rig.set_power("off")
    rig.bmc.takes_effect_after = 600.0
    with pytest.raises(PowerError):
        await rig.driver.power(HV1, rig.ref, "on")
    rig.bmc.trouble = lambda _m, path: throw(error(503)) if path == RESET else None
    assert isinstance(await rig.off(deadline=60), Unknown)
    assert view(await rig.read()).power == "unknown"
    rig.bmc.trouble = None
    assert view(await rig.off()).power == "off"
    assert rig.bmc.orders[-1] == "ForceOff"


async def test_what_was_just_read_as_off_twice_costs_a_slow_bmc_one_more_reading(rig: Troubled) -> None:
    rig.set_power("off")
    await rig.read()
    before = reads(rig.bmc)
    assert view(await rig.off()).power == "off"
    assert reads(rig.bmc) == before + 1


async def test_what_was_just_read_as_on_is_ordered_off_at_once(rig: Troubled) -> None:
    await rig.read()
    rig.bmc.requests.clear()
    await rig.off()
    assert rig.bmc.requests[0] == f"POST {RESET}"
    assert rig.bmc.orders == ["ForceOff"]


async def test_an_order_that_a_busy_bmc_drops_is_given_again(rig: Troubled) -> None:
    lost = iter([True, True])

    def trouble(method: str, path: str) -> None:
        if path == RESET and next(lost, False):
            raise error(503, "IDRAC.2.8.SYS518", Retry_After="5")

    rig.bmc.trouble = trouble
    assert view(await rig.off()).power == "off"
    assert rig.bmc.orders == ["ForceOff"]


@pytest.mark.parametrize(
    "reply",
    [
        error(409),
        error(400, "iLO.0.10.InvalidOperationForSystemState", "Power is off"),
        error(400, "IDRAC.1.6.SWC0700"),
        Drop(),
        Say(200, b"not JSON"),
        Say(202, b""),
    ],
)
async def test_the_reply_to_the_order_counts_for_nothing(rig: Troubled, reply: Exception) -> None:
    rig.bmc.order_reply = reply
    assert view(await rig.off()).power == "off"
    rig.set_power("on")
    rig.bmc.obeys = False
    result = await rig.off()
    assert isinstance(result, Failed)
    assert result.reason == "PowerStillOn"


async def test_an_order_with_no_reading_after_it_is_unknown(rig: Troubled) -> None:
    def trouble(method: str, path: str) -> None:
        if rig.bmc.orders and path == SYSTEM:
            raise error(500)

    rig.bmc.trouble = trouble
    assert isinstance(await rig.off(), Unknown)


@pytest.mark.parametrize("shown", ["off", "OFF", "Off ", "PoweringOff", "Paused", "Reset", "", None, 0, ["Off"]])
async def test_only_the_plain_word_off_is_off(rig: Troubled, shown: object) -> None:
    rig.bmc.obeys = False
    rig.bmc.lies = [shown] * 1000
    assert view(await rig.read()).power != "off"
    assert not isinstance(await rig.off(deadline=20), Done)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(lies=st.lists(st.sampled_from(["On", "Off", "PoweringOff", "PoweringOn", None, "drop", "500"]), max_size=8))
async def test_done_follows_only_on_two_offs_in_a_row(lies: list[str | None]) -> None:
    """Whatever a BMC says and does not say: the last two answers before Done were off, with nothing between."""
    rig = Troubled(Clock())
    answers: list[str] = []
    script = itertools.chain(lies, itertools.repeat("On"))

    def trouble(method: str, path: str) -> None:
        if path != SYSTEM:
            return
        say = next(script)
        answers.append(str(say))
        if say == "drop":
            raise Drop
        if say == "500":
            raise error(500)
        rig.bmc.lies = [say]

    rig.bmc.trouble, rig.bmc.obeys = trouble, False
    try:
        done = isinstance(await rig.off(deadline=12), Done)
        assert not done or answers[-2:] == ["Off", "Off"]
        assert done or ("Off", "Off") not in itertools.pairwise(answers)
    finally:
        await rig.stop()


async def test_off_right_after_an_order_to_power_on_is_not_believed(rig: Troubled) -> None:
    """The order to power on takes effect later: an off read before that would be the death of a rule."""
    rig.set_power("off")
    rig.bmc.takes_effect_after = 8.0
    ordering = asyncio.create_task(rig.driver.power(HV1, rig.ref, "on"))
    while not rig.bmc.orders:  # noqa: ASYNC110 - a BMC on a thread of its own
        await asyncio.sleep(0.001)
    assert view(await rig.off()).power == "off"
    assert rig.bmc.orders.count("ForceOff") >= 1
    with pytest.raises(PowerError):
        await ordering
    rig.clock.spend(60)
    assert rig.power() == "off"


# --- login ------------------------------------------------------------------------------------------------------


async def test_a_session_is_used_again_and_ended(rig: Troubled) -> None:
    for _ in range(5):
        await rig.read()
    assert (rig.bmc.logins, len(rig.bmc.sessions)) == (1, 1)
    rig.bmc.reset()
    assert view(await rig.read()).power == "on"
    assert rig.bmc.logins == 2
    await rig.driver.stop()
    assert rig.bmc.sessions == set()


async def test_a_bmc_whose_sessions_are_all_taken_gets_the_password(rig: Troubled) -> None:
    def trouble(method: str, path: str) -> None:
        if method == "POST" and path.endswith("/Sessions"):
            raise error(503, "IDRAC.2.4.RAC0218")

    rig.bmc.trouble = trouble
    assert view(await rig.read()).power == "on"
    assert rig.bmc.sessions == set()


async def test_a_right_password_that_is_refused_once_after_a_reset_is_tried_again(rig: Troubled) -> None:
    refuse = iter([True])

    def trouble(method: str, path: str) -> None:
        if path.endswith("/Sessions") and next(refuse, False):
            raise error(401)

    rig.bmc.trouble = trouble
    assert view(await rig.read()).power == "on"


async def test_a_wrong_password_is_not_hammered_and_a_corrected_one_is_taken_at_once(
    rig: Troubled, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rig.secrets[("default", "hv1-bmc")] = secret("admin", "s3cretw0rd")
    told = [view(await rig.read()) for _ in range(4)]
    result = await rig.off(deadline=20)
    assert rig.bmc.refused_logins <= 3
    assert not any(t.reachable for t in told)
    assert "user name and password" in told[-1].error
    assert "s3cretw0rd" not in caplog.text + str(told) + str(result)
    rig.secrets[("default", "hv1-bmc")] = secret("admin", "hunter2")
    assert view(await rig.read()).power == "on"


async def test_what_a_licence_does_not_cover_costs_no_login(rig: Troubled) -> None:
    def trouble(method: str, path: str) -> None:
        if path.endswith(("/Storage", "/Thermal")):
            raise error(403, "SMC.1.0.OemLicenseNotPassed", "DCMS")

    rig.bmc.trouble, rig.clock.auto = trouble, False
    rig.driver.follow({HV1: rig.ref})
    for _ in range(3):
        await rig.clock.next()
    await rig.clock.settle()
    assert rig.bmc.logins == 1
    assert [v.reachable for v in rig.news.views()] == [True]


@pytest.mark.parametrize("data", [None, {}, {"username": "YWRtaW4="}, {"username": "YWRtaW4=", "password": "%"}])
async def test_a_secret_that_is_not_there_is_told_with_its_remedy(rig: Troubled, data: dict[str, str] | None) -> None:
    rig.secrets.clear()
    if data is not None:
        rig.secrets[("default", "hv1-bmc")] = data
    told = view(await rig.read())
    assert not told.reachable
    assert "default/hv1-bmc" in told.error
    result = await rig.off()
    assert isinstance(result, Failed)
    assert result.reason == "BmcSettings"
    assert rig.bmc.requests == []


# --- addresses --------------------------------------------------------------------------------------------------


async def test_the_only_system_is_found(rig: Troubled) -> None:
    rig.ref = BmcRef(address=f"redfish+http://127.0.0.1:{rig.bmc.port}", secret=rig.ref.secret)
    assert view(await rig.off()).power == "off"


async def test_of_two_systems_one_must_be_named(rig: Troubled) -> None:
    rig.bmc.resources["/redfish/v1/Systems"]["Members"].append({"@odata.id": "/redfish/v1/Systems/2"})
    rig.ref = BmcRef(address=f"redfish+http://127.0.0.1:{rig.bmc.port}", secret=rig.ref.secret)
    told = view(await rig.read())
    assert not told.reachable
    assert "spec.bmc.address" in told.error
    assert "/redfish/v1/Systems/2" in told.error


async def test_nothing_is_sent_to_where_a_bmc_points(rig: Troubled) -> None:
    other = TroublesomeBmc(rig.clock.spend, rig.clock)
    other.start()
    try:
        target = f"http://127.0.0.1:{other.port}"
        rig.bmc.trouble = lambda method, path: (
            throw(Say(307, b"", Location=f"{target}{SYSTEM}")) if method == "GET" and path == SYSTEM else None
        )
        assert not view(await rig.read()).reachable
        rig.bmc.trouble = None
        rig.bmc.resources[SYSTEM]["Actions"]["#ComputerSystem.Reset"]["target"] = f"{target}{RESET}"
        assert view(await rig.off()).power == "off"
        assert other.requests == []
    finally:
        other.stop()


# --- many -------------------------------------------------------------------------------------------------------


async def test_hung_bmcs_hold_up_nobody() -> None:
    hung, well = [Troubled(Clock()) for _ in range(3)], Troubled(clock := Clock())
    keys = secret("admin", "hunter2")
    driver = RedfishDriver(lambda _n, _s: keys, well.news, limits=QUICK, clock=clock, sleep=clock.sleep)
    entries = [r.entry() for r in hung]
    for r in hung:
        r.bmc.trouble = lambda _m, _p: throw(Hang())
    try:
        waiting = [asyncio.create_task(driver.run(ReadPower(entry=e), well.ticket(60))) for e in entries for _ in "ab"]
        done = await driver.run(PowerOff(entry=well.entry()), well.ticket(60))
        assert view(done).power == "off"
        assert {view(r).reachable for r in await asyncio.gather(*waiting)} == {False}
    finally:
        for r in (*hung, well):
            await r.stop()
        await driver.stop()


async def test_an_answer_that_trickles_in_is_cut_off() -> None:
    """Each byte comes within the limit of silence, and the whole never does."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rig = Troubled(Clock(), Limits(connect=0.5, read=0.1, answer=0.1))
    rig.ref = BmcRef(address=f"redfish+http://127.0.0.1:{port}{SYSTEM}", secret=rig.ref.secret)
    try:
        async with asyncio.timeout(10):
            assert not view(await rig.read()).reachable
            await rig.driver.stop()  # no thread is left behind
    finally:
        await rig.stop()
        server.close()


# --- people -----------------------------------------------------------------------------------------------------


async def test_a_person_switches_and_gets_what_was_read_back(rig: Troubled) -> None:
    assert (await rig.driver.power(HV1, rig.ref, "off")).power == "off"
    assert rig.power() == "off"
    assert (await rig.driver.power(HV1, rig.ref, "on")).power == "on"
    assert rig.power() == "on"
    assert (await rig.driver.power(HV1, rig.ref, "cycle")).power == "on"
    assert rig.bmc.orders == ["ForceOff", "On", "ForceOff", "On"]


@pytest.mark.parametrize("action", ["on", "off", "cycle"])
async def test_a_person_is_told_what_did_not_happen(rig: Troubled, action: str) -> None:
    rig.set_power("off" if action == "on" else "on")
    rig.bmc.obeys = False
    with pytest.raises(PowerError, match="server hv1 is not surely"):
        await rig.driver.power(HV1, rig.ref, action)  # type: ignore[arg-type]


async def test_one_order_at_a_time(rig: Troubled) -> None:
    rig.bmc.takes_effect_after = 5.0
    first = asyncio.create_task(rig.driver.power(HV1, rig.ref, "off"))
    await asyncio.sleep(0)
    with pytest.raises(PowerError, match="in progress"):
        await rig.driver.power(HV1, rig.ref, "on")
    assert (await first).power == "off"


# --- following --------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def followed(rig: Troubled) -> Troubled:
    rig.clock.auto = False
    rig.driver.follow({HV1: rig.ref})
    await rig.clock.next()
    await rig.clock.settle()
    return rig


async def look(rig: Troubled, times: int = 1) -> None:
    for _ in range(times):
        await rig.clock.next()
        await rig.clock.settle()


async def test_changes_alone_are_told(followed: Troubled) -> None:
    assert [(v.reachable, v.power, v.health, v.problems) for v in followed.news.views()] == [(True, "on", "ok", ())]
    await look(followed, 5)
    assert len(followed.news.told) == 1
    assert followed.news.told[0][0] == "bmc/hv1"
    followed.set_power("off")
    await look(followed, 2)
    assert [v.power for v in followed.news.views()] == ["on", "off"]


async def test_looks_are_about_a_minute_apart(followed: Troubled) -> None:
    begun = followed.clock()
    await look(followed, 10)
    assert 50 <= (followed.clock() - begun) / 10 <= 70


async def test_one_lie_is_not_told(followed: Troubled) -> None:
    followed.bmc.lies = ["Off"]
    await look(followed, 4)
    assert [v.power for v in followed.news.views()] == ["on"]


async def test_a_bmc_that_contradicts_itself_is_told_to_do_so(followed: Troubled) -> None:
    followed.bmc.lies = ["Off", "PoweringDown"] * 20
    await look(followed, 8)
    last = followed.news.views()[-1]
    assert last.power == "unknown"
    assert "contradict" in last.error


async def test_three_looks_in_vain_make_it_unreachable_and_one_good_answer_reachable(followed: Troubled) -> None:
    followed.bmc.trouble = lambda _m, _p: throw(error(500))
    await look(followed, 2)
    assert len(followed.news.told) == 1
    await look(followed)
    last = followed.news.views()[-1]
    assert (last.reachable, last.power) == (False, "unknown")
    assert last.error
    await look(followed, 3)
    assert len(followed.news.told) == 2
    followed.bmc.trouble = None
    await look(followed, 2)
    assert (followed.news.views()[-1].reachable, len(followed.news.told)) == (True, 3)


async def test_a_bmc_that_asks_for_time_gets_it(followed: Troubled) -> None:
    followed.bmc.trouble = lambda _m, _p: throw(error(429, Retry_After="300"))
    await look(followed)
    begun, count = followed.clock(), len(followed.bmc.requests)
    await look(followed)
    assert followed.clock() - begun >= 250
    assert len(followed.bmc.requests) == count + 1


async def test_a_lost_request_in_ten_is_not_seen(followed: Troubled) -> None:
    followed.trouble("drops")
    await look(followed, 30)
    assert {v.reachable for v in followed.news.views()} == {True}


async def test_what_a_step_told_is_where_changes_begin(followed: Troubled) -> None:
    """Else a server that was fenced and is on again would be off for ever to whoever heard the step."""
    followed.clock.auto = True
    await followed.off()
    followed.set_power("on")
    followed.clock.auto = False
    await look(followed, 2)
    assert [v.power for v in followed.news.views()] == ["on", "on"]


async def test_problems_are_told_one_sentence_each(followed: Troubled) -> None:
    parts = followed.bmc.resources
    parts[CHASSIS]["Status"] = {"Health": "Critical"}
    parts[f"{CHASSIS}/Thermal"]["Fans"] = [
        {"Name": "Fan 1", "Status": {"State": "Enabled", "Health": "Critical"}},
        {"Name": "Fan 2", "Status": {"State": "Absent", "Health": "Critical"}},
    ]
    parts[f"{CHASSIS}/Power"]["PowerSupplies"][0]["Status"] = {"State": "UnavailableOffline", "Health": "Warning"}
    parts[SYSTEM]["MemorySummary"]["Status"] = {"HealthRollup": "Warning"}
    parts[f"{SYSTEM}/Memory/A1"]["Status"] = {"Health": "Warning", "State": "Enabled"}
    parts[f"{SYSTEM}/Storage/1"]["Status"] = {"Health": "Warning"}
    parts[f"{SYSTEM}/Storage/1/Drives/0"]["FailurePredicted"] = True
    await look(followed, 2)
    last = followed.news.views()[-1]
    assert last.health == "critical"
    assert set(last.problems) == {
        "Fan Fan 1 is critical.",
        "Power supply PSU 1 needs attention (UnavailableOffline).",
        "Memory module DIMM A1 needs attention.",
        "Storage RAID 1 needs attention.",
        "Drive Disk 0 predicts its own failure.",
    }
    followed.bmc.trouble = lambda _m, path: throw(error(500)) if path.endswith("/Thermal") else None
    await look(followed, 3)  # a part that does not answer has not healed
    assert "Fan Fan 1 is critical." in followed.news.views()[-1].problems


async def test_a_roll_up_that_nothing_explains_is_a_problem(followed: Troubled) -> None:
    followed.bmc.resources[SYSTEM]["Status"] = {"Health": "Warning"}
    await look(followed, 2)
    assert followed.news.views()[-1].problems == ("The server needs attention; its BMC does not say why.",)


async def test_another_address_is_followed_and_the_old_one_logged_out(followed: Troubled) -> None:
    other = TroublesomeBmc(followed.clock.spend, followed.clock)
    other.power = "Off"
    other.start()
    try:
        ref = BmcRef(address=f"redfish+http://127.0.0.1:{other.port}{SYSTEM}", secret=followed.ref.secret)
        followed.driver.follow({HV1: ref})
        await followed.clock.next(2)  # the old one's sleep is left behind
        await followed.clock.next()
        await followed.clock.next()
        await followed.clock.settle()
        assert followed.news.views()[-1].power == "off"
        followed.driver.follow({})
        await followed.driver.stop()
        assert (followed.bmc.sessions, other.sessions) == (set(), set())
    finally:
        other.stop()


async def test_an_address_that_can_not_be_used_is_told_once(rig: Troubled) -> None:
    bad = BmcRef(address="https://10.0.0.7", secret=rig.ref.secret)
    for _ in range(3):
        rig.driver.follow({ServerName("hv9"): bad})
    [told] = rig.news.views(ServerName("hv9"))
    assert not told.reachable
    assert "redfish+https://" in told.error


async def test_no_more_than_32_are_looked_at_at_once() -> None:
    rig = Troubled(clock := Clock(auto=False), Limits(connect=60, read=60, answer=60))
    go, inside, peak, lock = threading.Event(), set[int](), 0, threading.Lock()

    def trouble(_method: str, _path: str) -> None:
        nonlocal peak
        with lock:
            inside.add(threading.get_ident())
            peak = max(peak, len(inside))
        go.wait()
        with lock:
            inside.discard(threading.get_ident())
        raise Drop

    rig.bmc.trouble = trouble
    rig.driver.follow({ServerName(f"hv{n}"): rig.ref for n in range(50)})
    try:
        for _ in range(50):
            await clock.next()
        while peak < 32:  # noqa: ASYNC110 - a BMC on threads of its own
            await asyncio.sleep(0.001)
        go.set()
        await clock.settle(50)  # all had their turn
        assert peak == 32
    finally:
        go.set()
        await rig.stop()
