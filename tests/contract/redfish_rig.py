"""What the contract of servers' BMCs is asked on: the Redfish driver before a real emulator, and before a BMC that does
everything wrong. Another implementation of `ports.Bmc` joins by a `Rig` of its own.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import bcrypt
import pytest
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems import fakedriver
from troublesome_bmc import SESSIONS, SYSTEM, Drop, Hang, Say, TroublesomeBmc, error
from werkzeug.serving import make_server

from bedplate.drivers.redfish.driver import RedfishDriver
from bedplate.drivers.redfish.wire import Limits
from bedplate.model.blueprint import BmcRef, ServerEntry
from bedplate.model.ids import Epoch, OperationId, ServerName, StoreId
from bedplate.model.inventory import AnyView, BmcView, Observation
from bedplate.model.steps import BmcStep, Done, PowerOff, ReadPower, StepResult, Ticket
from bedplate.ports import Bmc

HV1 = ServerName("hv1")
SECRET = "default/hv1-bmc"
QUICK = Limits(connect=0.5, read=0.3, answer=0.6)
"""Real seconds: only a BMC that hangs makes a test wait for them."""

Trouble = Literal[
    "silent", "slow", "drops", "busy", "fails", "garbage", "forgets", "lies-once", "keeps-on", "on-its-way", "says-500"
]
"""`silent`: no answer. `slow`: 5 s an answer. `drops`: one request in ten is lost. `busy`: 503 with Retry-After, three
times. `fails`: 500 to all. `garbage`: half its JSON. `forgets`: each session is over after one request. `lies-once`:
one `Off` that is not so. `keeps-on`: it takes orders and does nothing. `on-its-way`: `PoweringOff` for ever.
`says-500`: it replies 500 to an order that it carries out."""


class Clock:
    """Time that passes when it is waited for: at once (`auto`), or as a test says."""

    def __init__(self, *, auto: bool = True) -> None:
        self.auto = auto
        self._now = 1_000_000.0
        self._lock = threading.Lock()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._numbers = itertools.count()
        self._change = asyncio.Event()

    def __call__(self) -> float:
        return self._now

    def spend(self, seconds: float) -> None:
        """Time passes by what somebody does; from any thread."""
        with self._lock:
            self._now += seconds

    async def sleep(self, seconds: float) -> None:
        if self.auto:
            self.spend(max(0.0, seconds))
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._numbers), woken))
        self._change.set()
        await woken.wait()

    async def next(self, sleepers: int = 1) -> None:
        """Once so many wait, wake the one that is due first, at its time."""
        async with asyncio.timeout(20):
            while len(self._sleepers) < sleepers:
                self._change.clear()
                await self._change.wait()
        due, _, woken = heapq.heappop(self._sleepers)
        with self._lock:
            self._now = max(self._now, due)
        woken.set()

    async def settle(self, sleepers: int = 1) -> None:
        """Wait until so many wait: what was under way is done."""
        async with asyncio.timeout(20):
            while len(self._sleepers) < sleepers:
                self._change.clear()
                await self._change.wait()


class News:
    """`ports.Sink`: what was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, BmcView]] = []

    def __call__(self, source: str, observations: Sequence[Observation[AnyView]], *, full: bool = False) -> None:
        for o in observations:
            assert o.source == source
            assert isinstance(o.value, BmcView)
            self.told.append((source, o.value))

    def views(self, server: ServerName = HV1) -> list[BmcView]:
        return [v for _, v in self.told if v.server == server]


class Rig(ABC):
    """One server with a BMC, and the driver."""

    driver: Bmc
    ref: BmcRef
    troubles: frozenset[Trouble] = frozenset()
    """What this rig can make go wrong."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.news = News()
        self._numbers = itertools.count(1)

    def ticket(self, deadline: float) -> Ticket:
        number = OperationId(f"1-{next(self._numbers)}")
        return Ticket(operation=number, store=StoreId("s"), epoch=Epoch(1), deadline=deadline)

    def entry(self, ref: BmcRef | None = None) -> ServerEntry:
        return ServerEntry(server=HV1, standing="suspect", since=self.clock(), bmc=ref or self.ref)

    async def run(self, step: BmcStep, deadline: float = 60) -> StepResult:
        return await self.driver.run(step, self.ticket(deadline))

    async def read(self, deadline: float = 60) -> StepResult:
        return await self.run(ReadPower(entry=self.entry()), deadline)

    async def off(self, deadline: float = 60) -> StepResult:
        return await self.run(PowerOff(entry=self.entry()), deadline)

    @abstractmethod
    def set_power(self, power: Literal["on", "off"]) -> None:
        """Somebody switches the server."""

    @abstractmethod
    def power(self) -> Literal["on", "off"]:
        """The truth."""

    def trouble(self, trouble: Trouble) -> None:
        """From now on this goes wrong."""
        raise NotImplementedError

    @abstractmethod
    async def stop(self) -> None:
        """Nothing is left."""


class _Real(Rig):
    """The Redfish driver."""

    driver: RedfishDriver

    def __init__(self, clock: Clock, port: int, system: str, limits: Limits = QUICK) -> None:
        super().__init__(clock)
        self.secrets: dict[tuple[str, str], dict[str, str]] = {
            ("default", "hv1-bmc"): secret("admin", "hunter2"),
        }
        self.ref = BmcRef(address=f"redfish+http://127.0.0.1:{port}{system}", secret=SECRET)
        self.driver = RedfishDriver(
            lambda namespace, name: self.secrets.get((namespace, name)),
            self.news,
            limits=limits,
            clock=clock,
            sleep=clock.sleep,
        )

    async def stop(self) -> None:
        await self.driver.stop()


class Emulated(_Real):
    """Before sushy-tools' emulator with its fake system: no sessions, and orders take effect seconds later."""

    troubles = frozenset[Trouble]({"silent"})

    def __init__(self, clock: Clock, folder: Path, patch: pytest.MonkeyPatch) -> None:
        users = folder / "users"
        users.write_bytes(b"admin:" + bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)) + b"\n")
        self._system = {"uuid": "27946b59-9e44-4fa7-8e91-f3527a1ef094", "name": "fake", "power_state": "On", "nics": []}
        app = emulator.Application()
        app.url_map = emulator.app.url_map  # the routes of the one that the module makes
        app.view_functions = emulator.app.view_functions
        app.error_handler_spec = emulator.app.error_handler_spec
        app.configure(
            extra_config={
                "SUSHY_EMULATOR_FAKE_DRIVER": True,
                "SUSHY_EMULATOR_FAKE_SYSTEMS": [self._system],
                "SUSHY_EMULATOR_STATE_DIR": str(folder),
                "SUSHY_EMULATOR_AUTH_FILE": str(users),
            }
        )
        patch.setattr(emulator, "app", app)
        patch.setattr(fakedriver, "time", SimpleNamespace(time=clock))  # its orders take effect on the tests' clock
        self._app = app
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        # By name: the emulator answers that with a redirect, as some BMCs do.
        super().__init__(clock, self._server.server_port, "/redfish/v1/Systems/fake")

    def set_power(self, power: Literal["on", "off"]) -> None:
        self._app.systems._update(self._system["uuid"], power_state=power.capitalize(), pending_power=None)

    def power(self) -> Literal["on", "off"]:
        return self._app.systems.get_power_state(self._system["uuid"]).lower()

    def medium(self) -> bytes | None:
        """What is in the CD drive."""
        path = self._app.systems.get_boot_image(self._system["uuid"], "Cd")[0]
        return Path(path).read_bytes() if path else None

    def trouble(self, trouble: Trouble) -> None:
        assert trouble == "silent"
        self._end()

    async def stop(self) -> None:
        await super().stop()
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class Troubled(_Real):
    """Before a BMC that does everything wrong."""

    troubles = frozenset[Trouble](
        {"silent", "slow", "drops", "busy", "fails", "garbage", "forgets", "lies-once", "keeps-on", "on-its-way",
         "says-500"}
    )  # fmt: skip

    def __init__(self, clock: Clock, limits: Limits = QUICK) -> None:
        self.bmc = TroublesomeBmc(clock.spend, clock)
        self.bmc.start()
        super().__init__(clock, self.bmc.port, SYSTEM, limits)

    def set_power(self, power: Literal["on", "off"]) -> None:
        self.bmc.power = power.capitalize()

    def power(self) -> Literal["on", "off"]:
        return "off" if self.bmc.really() == "Off" else "on"

    def trouble(self, trouble: Trouble) -> None:
        bmc, count = self.bmc, itertools.count(1)
        acts: Mapping[Trouble, Callable[[str, str], None]] = {
            "silent": lambda _m, _p: throw(Hang()),
            "drops": lambda _m, _p: throw(Drop()) if next(count) % 10 == 0 else None,
            "busy": lambda _m, _p: throw(error(503, Retry_After="3")) if next(count) <= 3 else None,
            "fails": lambda _m, _p: throw(error(500)),
            "garbage": lambda _m, _p: throw(Say(200, b'{"Id": "1", "PowerState": "O')),
            "forgets": lambda _m, _p: bmc.reset() if bmc.requests[-2:-1] != [f"POST {SESSIONS}"] else None,
        }
        match trouble:
            case "slow":
                bmc.answer_seconds = 5.0
            case "lies-once":
                bmc.lies = ["Off"]
            case "keeps-on":
                bmc.obeys = False
            case "on-its-way":
                bmc.lies = ["PoweringOff"] * 1000
            case "says-500":
                bmc.order_reply = error(500)
            case _:
                bmc.trouble = acts[trouble]

    async def stop(self) -> None:
        self.bmc.stop()
        await super().stop()


def on(result: StepResult) -> None:
    """The step has ended well, and the server's power was read back as on."""
    assert isinstance(result, Done), result
    (view,) = result.views
    assert isinstance(view, BmcView)
    assert view.power == "on"


def throw(error: Exception) -> None:
    raise error


def secret(username: str, password: str) -> dict[str, str]:
    """A Secret's data."""
    pairs = (("username", username), ("password", password))
    return {key: base64.b64encode(value.encode()).decode() for key, value in pairs}


async def rigs(kind: str, clock: Clock, folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A rig of that kind, ended afterwards."""
    rig: Rig = Emulated(clock, folder, patch) if kind == "emulator" else Troubled(clock)
    try:
        yield rig
    finally:
        await rig.stop()
