"""`bedplate server power` over the real API: who asks is told what runs there, and gets what was read back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import GROUP, SECRETS, ApiServer, good, refusal, secret

from bedplate.api.hooks import Hooks, PowerAction
from bedplate.cli import power
from bedplate.cli.main import main
from bedplate.drivers.redfish.driver import PowerError
from bedplate.engine.messages import FollowBmcs
from bedplate.model.blueprint import AnyEntry, Blueprint, BmcRef, ImageRef, MachineEntry, Nic, ServerEntry
from bedplate.model.ids import Digest, MachineUid, ServerName, key
from bedplate.model.inventory import AnyView, BmcView, DomainView, Inventory, Observation, ServerView
from bedplate.model.steps import PowerOff, StepResult, Ticket, Unknown
from bedplate.runner.controller import Controller

HV1 = ServerName("hv1")
POWER = f"{GROUP}/servers/hv1/power"


class Bmcs:
    """In the driver's place."""

    def __init__(self) -> None:
        self.now = "on"
        self.asked: list[tuple[str, BmcRef, str]] = []
        self.refuse = ""

    async def read(self, server: ServerName, bmc: BmcRef) -> BmcView:
        self.asked.append((server, bmc, "read"))
        return BmcView(server=server, reachable=True, power=self.now)  # type: ignore[arg-type]

    async def power(self, server: ServerName, bmc: BmcRef, action: PowerAction) -> BmcView:
        self.asked.append((server, bmc, action))
        if self.refuse:
            raise PowerError(self.refuse)
        self.now = "off" if action == "off" else "on"
        return BmcView(server=server, reachable=True, power=self.now)  # type: ignore[arg-type]

    @property
    def orders(self) -> list[str]:
        return [action for _, _, action in self.asked if action != "read"]


class Desk:
    """The API's hook, with a controller that knows what the test says."""

    def __init__(self) -> None:
        self.bmcs = Bmcs()
        self.entries: list[AnyEntry] = []
        self.views: list[AnyView] = [ServerView(server=HV1, connected=True)]
        self.store: Any = None

    async def power(self, server: str, action: PowerAction, *, force: bool = False, dry_run: bool = False) -> Any:
        seen = {v.key: Observation(value=v, time=0.0, source="x") for v in self.views}
        engine: Any = SimpleNamespace(
            blueprint=Blueprint(entries={e.key: e for e in self.entries}),
            inventory=SimpleNamespace(inventory=Inventory(observations=seen)),
        )
        return await power.order(self.store, engine, self.bmcs, server, action, force=force, dry_run=dry_run)

    def ready(self) -> None:
        return None

    def gauges(self) -> list[Any]:
        return []

    def run(self, name: str, state: str = "running", **changes: Any) -> MachineEntry:
        """A machine on the server."""
        m = MachineEntry(
            uid=MachineUid(name),
            name=name,
            namespace="default",
            owner=key("nodepool", "default", "web"),
            role="worker",
            server=HV1,
            cpu=1,
            memory_mib=1024,
            disk_mib=1024,
            disk_pool="local",
            image=ImageRef(name="i", disk=Digest("d")),
            nic=Nic(network="lan", bridge="br0", mac="02:00:00:00:00:01", address="10.0.0.2", prefix=24),
            **changes,
        )
        self.entries.append(m)
        if state:
            self.views.append(DomainView(server=HV1, uid=m.uid, state=state))  # type: ignore[arg-type]
        return m


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def api(tmp_path: Path, desk: Desk) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path, Hooks(operator=desk))  # type: ignore[arg-type]
    desk.store = server.store
    server.create(SECRETS, secret("hv1-bmc", username="a", password="b"))
    bmc = {"address": "redfish+https://10.0.0.7", "credentials": {"secret": "hv1-bmc"}}
    for name, spec in (("hv1", {"bmc": bmc}), ("hv2", {})):
        server.create(f"{GROUP}/servers", {"kind": "Server", "metadata": {"name": name}, "spec": spec})
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def bedplate(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def call(*words: str, answer: str | None = None) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO() if answer is None else Terminal(f"{answer}\n"))
        return main(["server", "power", *words, "--kubeconfig", str(api.kubeconfig)])

    return call


# --- the action -------------------------------------------------------------------------------------------------


def test_what_was_read_back_is_the_answer(api: ApiServer, desk: Desk) -> None:
    assert good(api.call("POST", POWER, {"action": "off"})) == {"server": "hv1", "power": "off", "runs": []}
    assert desk.bmcs.asked == [("hv1", BmcRef(address="redfish+https://10.0.0.7", secret="default/hv1-bmc"), "off")]


@pytest.mark.parametrize(("body", "said"), [({}, "is missing"), ({"action": "reset"}, '"reset" is no power order')])
def test_an_order_that_is_none_is_refused(api: ApiServer, desk: Desk, body: dict[str, Any], said: str) -> None:
    status = refusal(api.call("POST", POWER, body), 400, "BadRequest")
    assert "action" in status["message"]
    assert said in status["message"]
    assert '"on", "off" or "cycle"' in status["message"]
    assert desk.bmcs.asked == []


def test_only_a_server_with_a_bmc_is_switched(api: ApiServer) -> None:
    status = refusal(api.call("POST", f"{GROUP}/servers/hv2/power", {"action": "on"}), 409, "Conflict")
    assert "spec.bmc" in status["message"]
    refusal(api.call("POST", f"{GROUP}/servers/hv9/power", {"action": "on"}), 404, "NotFound")
    refusal(api.call("GET", POWER), 405, "MethodNotAllowed")
    refusal(api.call("POST", f"{GROUP}/networks/lan/power", {"action": "on"}), 404, "NotFound")


@pytest.mark.parametrize("action", ["off", "cycle"])
def test_a_server_with_machines_is_not_cut_without_force(api: ApiServer, desk: Desk, action: str) -> None:
    desk.run("web-1")
    desk.run("web-2", "paused")
    desk.run("gone", "shutoff")
    status = refusal(api.call("POST", POWER, {"action": action}), 409, "Conflict")
    assert "2 machines run on server hv1 (default/web-1 and default/web-2)" in status["message"]
    assert "--force" in status["message"]
    assert desk.bmcs.orders == []
    told = good(api.call("POST", POWER, {"action": action, "dryRun": True}))
    assert (told["runs"], told["power"], desk.bmcs.orders) == (["default/web-1", "default/web-2"], "on", [])
    good(api.call("POST", POWER, {"action": action, "force": True}))
    assert desk.bmcs.orders == [action]


def test_of_a_server_that_is_not_heard_of_the_worst_is_thought(api: ApiServer, desk: Desk) -> None:
    desk.views[0] = ServerView(server=HV1, connected=False)
    desk.run("web-1", "")
    refusal(api.call("POST", POWER, {"action": "off"}), 409, "Conflict")
    desk.entries.append(ServerEntry(server=HV1, standing="dead", since=0.0, confirmed=1.0, by="power"))
    good(api.call("POST", POWER, {"action": "off"}))


def test_a_move_under_way_counts_at_both_ends(api: ApiServer, desk: Desk) -> None:
    leaving = desk.run("web-1", source=HV1)
    desk.entries = [msgspec.structs.replace(leaving, server=ServerName("hv2"))]
    assert "default/web-1" in refusal(api.call("POST", POWER, {"action": "off"}), 409, "Conflict")["message"]


def test_who_is_being_fenced_is_not_powered_on(api: ApiServer, desk: Desk) -> None:
    desk.entries.append(ServerEntry(server=HV1, standing="fence", since=0.0, reason="its agent is not heard of"))
    assert "being fenced" in refusal(api.call("POST", POWER, {"action": "on"}), 409, "Conflict")["message"]
    assert desk.bmcs.orders == []
    good(api.call("POST", POWER, {"action": "off"}))


def test_what_did_not_happen_is_told(api: ApiServer, desk: Desk) -> None:
    desk.bmcs.refuse = 'server hv1 is not surely off: its BMC reads "On"; try again, or look at its BMC'
    assert refusal(api.call("POST", POWER, {"action": "off"}), 409, "Conflict")["message"] == desk.bmcs.refuse


# --- the command ------------------------------------------------------------------------------------------------


def test_on_asks_nothing(bedplate: Callable[..., int], desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedplate("on", "hv1") == 0
    assert capsys.readouterr().out == "server hv1 is on, as its BMC was read back\n"
    assert [action for _, _, action in desk.bmcs.asked] == ["on"]


def test_off_says_what_runs_and_waits_for_a_yes(
    bedplate: Callable[..., int], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bedplate("off", "hv1", answer="n") == 1
    assert desk.bmcs.orders == []
    assert "No machine runs on it." in capsys.readouterr().err
    desk.run("web-1")
    assert bedplate("off", "hv1", "--force", answer="yes") == 0
    shown = capsys.readouterr()
    assert "These machines run on it and end at once: default/web-1." in shown.err
    assert shown.out == "server hv1 is off, as its BMC was read back\n"


def test_machines_are_named_and_nothing_is_asked_without_force(
    bedplate: Callable[..., int], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.run("web-1")
    assert bedplate("cycle", "hv1", answer="y") == 1
    said = capsys.readouterr().err
    assert "1 machine runs on server hv1 (default/web-1)" in said
    assert "[y/N]" not in said
    assert bedplate("cycle", "hv1", "--yes") == 1
    assert desk.bmcs.orders == []


def test_a_script_must_say_yes(bedplate: Callable[..., int], desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedplate("off", "hv1") == 1
    assert "add --yes" in capsys.readouterr().err
    assert bedplate("off", "hv1", "--yes") == 0
    assert desk.bmcs.orders == ["off"]


# --- the runner -------------------------------------------------------------------------------------------------


async def test_the_controller_hands_bmc_steps_and_whom_to_follow_to_the_driver() -> None:
    class Driver:
        def __init__(self) -> None:
            self.followed: list[Any] = []

        async def run(self, step: Any, ticket: Ticket) -> StepResult:
            return Unknown(message=f"{step.name} for {ticket.deadline:g} s")

        def follow(self, servers: Any) -> None:
            self.followed.append(servers)

    driver, nobody = Driver(), Any
    controller = Controller(nobody, nobody, nobody, nobody, nobody, driver)  # type: ignore[arg-type]
    ref = BmcRef(address="redfish+https://10.0.0.7", secret="default/hv1-bmc")
    await controller._carry_out([FollowBmcs(servers={HV1: ref})])
    assert driver.followed == [{HV1: ref}]
    step = PowerOff(entry=ServerEntry(server=HV1, standing="fence", since=0.0, bmc=ref))
    ticket: Any = SimpleNamespace(deadline=60.0, operation="1-1")
    result = await controller._dispatch(SimpleNamespace(step=step, ticket=ticket))  # type: ignore[arg-type]
    assert result == Unknown(message="PowerOff for 60 s")
    controller._store_thread.shutdown()
