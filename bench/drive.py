"""The real engine on a real store, driven one turn after another as the runner does it, but without waiting.

What the runner waits for (the tick in which news is gathered) is skipped on a clock of its own; all work is done.
Steps are journalled and handed out, and nobody carries them out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bedplate.checks.blueprint import Checker
from bedplate.engine import messages as msg
from bedplate.engine.engine import Engine
from bedplate.model.blueprint import Delta
from bedplate.model.ids import Key, Revision
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.policy import Policy
from bedplate.runner.persistence import StorePersistence, spec_changed
from bedplate.store.changelog import Change
from bedplate.store.store import DATABASE, Store
from bench import fleet


class Drive:
    """A controller without drivers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder)
        self.now = fleet.NOW
        self.begun: list[msg.Run] = []
        """Steps that were handed out and have not ended."""
        self.commits = 0
        self._policy = Policy()
        self.engine = Engine(self._policy, seed=fleet.SEED, checker=Checker())
        self._persistence = StorePersistence(self.store, "bench")
        self._events: deque[msg.Event] = deque()

    def close(self) -> None:
        self.store.close()

    def start(self, size: fleet.Size) -> None:
        """Declare the fleet, plan it, and come to rest with all of it running and shown.

        To save time, the blueprint is committed as it is once all has joined, the engine only observes until all is
        seen, and of what it shows on the way only the last is written.
        """
        objects = fleet.declared(size)
        with self.store.transaction() as tx:
            for obj in objects:
                tx.create(obj)
        blueprint = fleet.joined(size)
        epoch = self._persistence.acquire()
        assert epoch is not None
        self.store.commit_blueprint(Delta(parent=Revision(0), reason="the fleet", changes=blueprint.entries), epoch)
        last: dict[Key, msg.Publish] = {}
        self._events.append(msgspec.structs.replace(self._persistence.load(epoch), observe_only=True))
        for source, views in fleet.running(size, blueprint).items():
            seen = tuple(Observation(value=v, time=self.now, source=source) for v in views)
            self._events.append(msg.Observed(source=source, observations=seen, full=True))
        self._events.append(msg.Accepted())
        while self._events:
            for command in self.engine.handle(self._events.popleft(), self.now):
                if isinstance(command, msg.Publish):
                    last[command.key] = command
                else:
                    assert isinstance(command, msg.SetTimer | msg.Follow), f"not at rest: {command}"
        self._persistence.carry_out(tuple(last.values()))
        self.store.subscribe(self._committed)
        self.settle()

    def observe(self, source: str, views: Sequence[AnyView], *, full: bool = False) -> None:
        """Tell what a collector saw, and let the engine come to rest."""
        seen = tuple(Observation(value=v, time=self.now, source=source) for v in views)
        self.tell(msg.Observed(source=source, observations=seen, full=full))

    def tell(self, event: msg.Event) -> None:
        """Give the engine an event, and let it come to rest."""
        self._events.append(event)
        self.settle()

    def settle(self) -> None:
        """Handle all events, the tick's end, and all that comes of it."""
        self._drain()
        self.now += self._policy.tick
        self._events.append(msg.Ticked())
        self._drain()

    def _drain(self) -> None:
        while self._events:
            commands = self.engine.handle(self._events.popleft(), self.now)
            writes: list[msg.Command] = []
            for command in commands:
                match command:
                    case msg.Run():
                        self.begun.append(command)
                    case msg.SetTimer() | msg.Follow():
                        pass
                    case msg.Halt():
                        raise AssertionError(f"the engine stopped: {command.message}")
                    case _:
                        self.commits += isinstance(command, msg.Commit)
                        writes.append(command)
            if writes:
                self._events.extend(self._persistence.carry_out(writes))  # type: ignore[arg-type]
        assert not self.engine.findings, self.engine.findings[0]

    def _committed(self, changes: Sequence[Change]) -> None:
        event = spec_changed(changes)
        if event is not None:
            self._events.append(event)

    # --- what is written ---

    def empty_log(self) -> None:
        """Move the database's write-ahead log into the database, so that it begins anew."""
        raw = self.store._engine.raw_connection()
        try:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            raw.close()

    def log_bytes(self) -> int:
        """Bytes of the write-ahead log: whole pages, each with a small header."""
        log = self.folder / f"{DATABASE}-wal"
        return log.stat().st_size if log.exists() else 0
