"""The event heap on a virtual clock, with what all that happens on it shares: a world, a store, controllers, a history.

Everything is an event with its time; nothing happens by ticks. The same seed gives the same history, line by line.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from bedplate.model.ids import Key, ServerName
from bedplate.sim import react, truth
from bedplate.sim.durations import Durations
from bedplate.sim.store import SimStore
from bedplate.sim.things import Process, SimServer
from bedplate.sim.world import World

if TYPE_CHECKING:
    from bedplate.sim.controller import SimController

FULL_CHECK = 20_000
"""Events after which all of the world is checked, and not only what was touched."""


class Stage:
    """Time, and who is there."""

    def __init__(self, world: World, store: SimStore, durations: Durations, *, seed: int, start: float, verify: bool):
        self.world = world
        self.store = store
        self.now = start
        self.start = start
        self.active = start
        """When something last happened but time passing."""
        self.trace: list[str] = []
        self.telling = True
        """False: no history is kept (for long runs of large fleets)."""
        self.controllers: list[SimController] = []
        self.events = 0
        """Events that have happened."""
        self.onlookers: list[Callable[[list[Key]], None]] = []
        """Called after each event with the keys that it touched; they change nothing."""
        self.chance = random.Random(f"{seed}/chance")
        """For what happens by chance in scripts: draws that the world's own do not disturb."""
        self._durations = durations
        self._verify = verify
        self._heap: list[tuple[float, int, Callable[[], None], bool]] = []
        self._sequence = 0
        self._broken: set[str] = set()
        self._waiting: dict[ServerName, list[Callable[[], None]]] = {}
        world.now = start
        world.durations = durations
        world.spawn = self._spawn
        world.say = self.say
        for server in world.servers.values():
            for lease in server.leases.values():
                lease.since = start
            if server.witnessing < start:
                server.witnessing = start - 3600.0  # it has been there for long

    # --- the clock ------------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], None], *, idle: bool = False) -> None:
        """Do something at a time. `idle`: it is no activity by itself."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now), self._sequence, action, idle))

    def after(self, seconds: float, action: Callable[[], None], *, idle: bool = False) -> None:
        """Do something in a while."""
        self.at(self.now + seconds, action, idle=idle)

    def say(self, who: str, what: str) -> None:
        """Add a line to the history."""
        if self.telling:
            self.trace.append(f"{self.now - self.start:9.2f}  {who}: {what}")

    def run(
        self,
        stop: Callable[[], bool] | None = None,
        *,
        seconds: float = 86_400.0,
        quiet: float = 4_000.0,
        events: int = 1_000_000,
    ) -> bool:
        """Let time pass until `stop`, or nothing has happened for `quiet` seconds, or a bound is reached.

        Returns:
            True where `stop` came true (or, without one, all fell quiet).
        """
        end = self.now + seconds
        for _ in range(events):
            if stop is not None and stop():
                return True
            if not self._heap or self._heap[0][0] > self.active + quiet:
                return stop is None
            if self._heap[0][0] > end:
                self.now = self.world.now = end
                return False
            self._next()
        return False

    def _next(self) -> None:
        time, _, action, idle = heapq.heappop(self._heap)
        self.now = self.world.now = time
        self.events += 1
        if not idle:
            self.active = time
        action()
        dirty = react.settle(self.world)
        if self._verify and self.events % FULL_CHECK == 0:
            self._broke(truth.check(self.world))
        if dirty:
            self._touched(dirty)
        for look in self.onlookers:
            look(dirty)

    def _touched(self, dirty: list[Key]) -> None:
        if not all(k.startswith("load/") for k in dirty):
            self.active = self.now
        if self._verify:
            self._broke(truth.look(self.world, dirty))
        for controller in self.controllers:
            if controller.alive:
                controller.observe(dirty)

    def _broke(self, sentences: list[str]) -> None:
        for sentence in sentences:
            if sentence not in self._broken:
                self._broken.add(sentence)
                self.world.violation("truth", sentence)

    def _spawn(self, process: Process) -> None:
        def go() -> None:
            try:
                delay = next(process)
            except StopIteration:
                return
            self.at(self.now + delay, go, idle=True)

        go()

    # --- looking --------------------------------------------------------------------------------------------------

    def server(self, name: str) -> SimServer:
        """The server of that name. Raises `KeyError`."""
        return self.world.servers[ServerName(name)]

    def touched(self) -> None:
        """Have what a script changed by hand in the world noticed now."""
        self.active = self.now
        self.at(self.now, _nothing)


def _nothing() -> None:
    """Only time passes."""
