"""Servers that share a disk pool, on a clock that the test turns: keepers, guests, and a watchdog that bites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bedplate.agent.lease_files import LeaseFolder
from bedplate.agent.lease_keeper import TICK, LeaseKeeper
from bedplate.agent.leases import LeaseRecord, encode
from bedplate.agent.qemu_processes import Guest
from bedplate.model.agent_protocol import Pool
from bedplate.model.ids import MachineUid, ServerName, StoreId
from bedplate.model.inventory import LeaseView
from bedplate.model.leases import RENEW, WATCHDOG

STORE = StoreId("store-1")
GUEST = MachineUid("11111111-2222-4333-8444-555555555555")
POOL = Pool(name="shared", path="/pools/shared", type="shared")


class Storage:
    """The pool's lease files, and who reaches them."""

    def __init__(self) -> None:
        self.files: dict[ServerName, bytes] = {}
        self.cut: set[ServerName] = set()


class Files(LeaseFolder):
    """One server's way to the storage."""

    def __init__(self, storage: Storage, server: ServerName) -> None:
        super().__init__(POOL.path, STORE)
        self.storage = storage
        self.server = server

    def _reach(self) -> None:
        if self.server in self.storage.cut:
            raise OSError(5, "the storage is not reached")

    def write(self, record: LeaseRecord) -> None:
        self._reach()
        self.storage.files[record.server] = encode(record)

    def others(self, server: ServerName) -> list[tuple[ServerName, bytes]]:
        self._reach()
        return [(name, content) for name, content in self.storage.files.items() if name != server]

    def real_path(self) -> str:
        return POOL.path


class Dog:
    """A watchdog that cuts the power when it is not fed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.path = "/dev/watchdog"
        self.error = ""
        self.armed = False
        self.runs = False
        """The device counts, whoever has opened it."""
        self.works = True
        self._clock = clock
        self.fed = 0.0
        self.left = False

    def arm(self) -> bool:
        if self.works and not self.armed:
            self.armed = self.runs = True
            self.fed = self._clock()
        return self.armed

    def feed(self) -> None:
        self.fed = self._clock()

    def disarm(self) -> None:
        self.armed = self.runs = False

    def leave(self) -> None:
        self.left = True

    def bites(self) -> bool:
        return self.runs and self._clock() - self.fed >= WATCHDOG


class Server:
    """One server with its keeper, and perhaps a guest on the pool."""

    def __init__(self, world: World, name: str, runtime: Path) -> None:
        self.world = world
        self.name = ServerName(name)
        self.dog = Dog(world.clock)
        self.guest = False
        self.stubborn = False
        """The guest can't be killed."""
        self.power = True
        self.frozen = False
        self.told: list[LeaseView] = []
        self.unsure = 0
        self._due = True  # an agent renews first of all
        self._runtime = runtime
        self.keeper = self.agent()
        self.keeper.serve([POOL])

    def agent(self, **options: Any) -> LeaseKeeper:
        """A new agent's keeper of leases."""
        dog: Any = self.dog
        made = LeaseKeeper(
            STORE,
            self.name,
            f"boot-of-{self.name}",
            dog,
            self._runtime / f"{self.name}.json",
            lambda uid: uid == GUEST,
            clock=self.world.clock,
            find=lambda _: [Guest(GUEST, 4711)] if self.guest else [],
            end=self._kill,
            folders=lambda _pool, _store: Files(self.world.storage, self.name),
            spawn=lambda _work, _name: None,
            **options,
        )
        made.changed = self.told.append
        made.unsure = self._count
        return made

    def _count(self) -> None:
        self.unsure += 1

    def _kill(self, guests: list[Guest], _patience: float) -> list[Guest]:
        if self.stubborn:
            return guests
        self.guest = False
        return []

    def replace_agent(self) -> None:
        """The agent is killed; another one takes over."""
        self.dog.armed = False
        self.keeper = self.agent()
        self.keeper.take_over()
        self._due = True

    def start(self) -> None:
        """Start the guest, as a command of the controller does."""
        self.keeper.permit(POOL)
        self.guest = True

    def step(self, turn: int) -> None:
        """What happens in one tick of the clock."""
        if self.dog.bites():
            self.power = self.guest = False
        if not self.power or self.frozen:
            return
        if self._due or turn % round(RENEW / TICK) == 0:
            self._due = False
            self.keeper.renew()
            self.keeper.look()
        self.keeper.tick()

    def says(self, holder: Server) -> bool | None:
        """What this server says of another one's lease; None: nothing."""
        return next((v.held for v in self.keeper.views() if v.server == holder.name), None)


class World:
    """All of it."""

    def __init__(self, runtime: Path, *names: str) -> None:
        self.now = 1000.0
        self.turn = 0
        self.storage = Storage()
        self.servers = [Server(self, name, runtime) for name in names]

    def clock(self) -> float:
        return self.now

    def step(self) -> None:
        """One tick."""
        for server in self.servers:
            server.step(self.turn)
        self.turn += 1
        self.now += TICK

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.step()
