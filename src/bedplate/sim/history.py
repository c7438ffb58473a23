"""What happened in a story, as data: each event with its time, what it is about, and what it did.

An onlooker of the simulator: it reads the world, the blueprint and the journal after each event and changes nothing.
Statements are judged on this and never on lines for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from bedplate.model.blueprint import MachineEntry, MetalEntry, ServerEntry
from bedplate.model.ids import ClusterKey, Key, MachineUid, OperationId, ServerName, key
from bedplate.model.kinds.base import Object
from bedplate.model.steps import Done, Failed, Refused, StepResult
from bedplate.sim.simulator import Simulator
from bedplate.sim.store import SimStore
from bedplate.sim.story import Story
from bedplate.sim.things import SimServer
from bedplate.sim.world import LIVE

Kind = Literal["server", "machine", "pod", "step", "controller", "object", "script"]
EVERYTHING = "everything"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened."""

    time: float
    """Seconds after the beginning of the story; below zero: while the world was made ready for it."""
    kind: Kind
    about: str
    """A server's name, a machine's uid, a pod's name, a step's name, an object's key, a script's event ..."""
    what: str
    """A verb as statements have it: `is dead`, `starts`, `is Ready`, `waits` ..."""
    where: str = ""
    """A server, where it has to do with one; a pod's node."""
    detail: str = ""
    elsewhere: bool = False
    """It runs, or answers, and did so somewhere else before."""


class HistoryStore(SimStore):
    """A store that tells how steps ended and what is shown of objects."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[tuple[OperationId, StepResult]] = []
        self.shown = True
        """Something was published since this was last taken back."""

    def finish(self, operation: OperationId, result: StepResult, finished: float) -> None:
        self.finished.append((operation, result))
        super().finish(operation, result, finished)

    def publish(self, obj: Object) -> dict[Key, Object | None]:
        self.shown = True
        return super().publish(obj)


class History:
    """Keeps what happened, and tells whoever waits for it."""

    def __init__(self, sim: Simulator, store: HistoryStore) -> None:
        self.events: list[Event] = []
        self.machines: dict[MachineUid, MachineEntry] = {}
        """Every machine that was ever planned, as it was last."""
        self.listeners: list[Callable[[Event], None]] = []
        self._sim = sim
        self._began = sim.now
        self._store = store
        self._story = Story(sim)
        self._servers: dict[ServerName, tuple[bool, bool]] = {}
        self._standing: dict[ServerName, str] = {}
        self._states: dict[ServerName, str] = {}
        """Of bare servers."""
        self._runs: dict[MachineUid, tuple[ServerName, int]] = {}
        self._last_ran: dict[MachineUid, ServerName] = {}
        self._paused: set[MachineUid] = set()
        self._nodes: dict[MachineUid, tuple[bool, bool, bool]] = {}
        self._pods: dict[str, int] = {}
        self._answered: dict[str, str] = {}
        self._steps: dict[OperationId, tuple[str, str, str]] = {}
        self._controllers: dict[str, tuple[bool, str]] = {}
        self._waits: dict[Key, str] = {}
        self._ready: dict[str, bool] = {}
        self._commits = self._begun = self._finished = 0
        for server in sim.world.servers.values():
            self._servers[server.name] = (server.powered, server.connected)
        sim.onlookers.append(self.look)

    # --- looking --------------------------------------------------------------------------------------------------

    def look(self, dirty: list[Key]) -> None:
        """See what is new after an event."""
        self._look_at_commits()
        for k in dirty:
            kind, *rest = k.split("/")
            if kind == "server":
                self._look_at_server(self._sim.world.servers[ServerName(rest[0])])
            elif kind == "domain":
                self._look_at_machine(MachineUid(rest[1]))
            elif kind == "node":
                self._look_at_node(ClusterKey(f"{rest[0]}/{rest[1]}"), rest[2])
        self._look_at_pods()
        self._look_at_steps()
        self._look_at_controllers()
        self._look_at_waits()
        if self._store.shown:
            self._store.shown = False
            self._look_at_objects()

    def begin(self) -> None:
        """The story begins now: what is known so far happened before it."""
        offset = self._sim.now - self._began
        self._began = self._sim.now
        self.events = [msgspec.structs.replace(e, time=round(e.time - offset - 0.001, 3)) for e in self.events]

    def happened(self, name: str) -> None:
        """An event of the script."""
        self._tell("script", name, "happens")

    def _tell(
        self, kind: Kind, about: str, what: str, where: str = "", detail: str = "", *, elsewhere: bool = False
    ) -> None:
        time = round(self._sim.now - self._began, 3)
        event = Event(time=time, kind=kind, about=about, what=what, where=where, detail=detail, elsewhere=elsewhere)
        self.events.append(event)
        for listener in list(self.listeners):
            listener(event)

    def _toggles(self, kind: Kind, about: str, now: bool, before: bool, yes: str, no: str, where: str = "") -> None:
        if now != before:
            self._tell(kind, about, yes if now else no, where)

    # --- the blueprint --------------------------------------------------------------------------------------------

    def _look_at_commits(self) -> None:
        fresh, self._commits = self._sim.commits[self._commits :], len(self._sim.commits)
        for delta in fresh:
            for k, entry in delta.changes.items():
                if isinstance(entry, MachineEntry):
                    self._planned(entry)
                elif isinstance(entry, ServerEntry):
                    self._judged(entry)
                elif isinstance(entry, MetalEntry):
                    self._bare(entry)
                elif entry is None and k.startswith("machine/"):
                    self._tell("machine", k.partition("/")[2], "is gone")
                elif entry is None and k.startswith("server/"):
                    name = ServerName(k.partition("/")[2])
                    self._standing.pop(name, None)
                    self._tell("server", name, "is well")

    def _planned(self, m: MachineEntry) -> None:
        old = self.machines.get(m.uid)
        self.machines[m.uid] = m
        if old is None:
            self._tell("machine", m.uid, "is planned", m.server, m.reason)
            return
        if m.source and not old.source:
            self._tell("machine", m.uid, "is moved", m.server, m.reason)
        elif old.source and not m.source and m.server == old.source:
            self._tell("machine", m.uid, "is called back", m.server, m.reason)
        elif m.server != old.server and not m.source:
            self._tell("machine", m.uid, "is relocated", m.server, m.reason, elsewhere=True)
        if m.boot > old.boot and m.server == old.server:
            self._tell("machine", m.uid, "is restarted", m.server, m.reason)
        if m.desired in {"drain", "remove"} and old.desired not in {"drain", "remove"}:
            self._tell("machine", m.uid, "is given up", m.server, m.reason)

    def _judged(self, entry: ServerEntry) -> None:
        verb = {"suspect": "is suspect", "fence": "is fenced", "dead": "is dead"}[entry.standing]
        if self._standing.get(entry.server) != verb:
            self._standing[entry.server] = verb
            detail = f"by {entry.by}: {entry.reason}" if entry.by else entry.reason
            self._tell("server", entry.server, verb, entry.server, detail)

    def _bare(self, entry: MetalEntry) -> None:
        if self._states.get(entry.server) != entry.state:
            self._states[entry.server] = entry.state
            self._tell("server", entry.server, f"is {entry.state}", entry.server, entry.reason)

    # --- the world ------------------------------------------------------------------------------------------------

    def _look_at_server(self, server: SimServer) -> None:
        powered, connected = self._servers[server.name]
        self._servers[server.name] = (server.powered, server.connected)
        self._toggles("server", server.name, server.powered, powered, "has power", "loses power", server.name)
        self._toggles("server", server.name, server.connected, connected, "is connected", "is lost", server.name)

    def _look_at_machine(self, uid: MachineUid) -> None:
        domains = self._sim.world.live.get(uid, [])
        domain = domains[0] if domains else None
        before = self._runs.get(uid)
        now = None if domain is None else (domain.server, domain.run)
        if now != before:
            if now is None:
                del self._runs[uid]
            else:
                self._runs[uid] = now
            self._ran(uid, before, now)
        paused = domain is not None and domain.state == "paused"
        if paused != (uid in self._paused):
            (self._paused.add if paused else self._paused.discard)(uid)
            self._tell("machine", uid, "pauses" if paused else "goes on", domain.server if domain is not None else "")

    def _ran(self, uid: MachineUid, before: tuple[ServerName, int] | None, now: tuple[ServerName, int] | None) -> None:
        live = before is not None and now is not None and before[1] == now[1]
        if before is not None and not live:
            self._tell("machine", uid, "ends", before[0])
        if now is not None:
            elsewhere = self._last_ran.get(uid, now[0]) != now[0]
            self._last_ran[uid] = now[0]
            self._tell("machine", uid, "arrives" if live else "starts", now[0], elsewhere=elsewhere)
        for name in {end[0] for end in (before, now) if end is not None}:
            if not any(d.state in LIVE for d in self._sim.world.servers[name].domains.values()):
                self._tell("server", name, "is empty", name)

    def _look_at_node(self, cluster: ClusterKey, name: str) -> None:
        found = self._sim.world.clusters.get(cluster)
        node = found.nodes.get(name) if found is not None else None
        if node is None:
            return
        ready, out, cordoned = self._nodes.get(node.uid, (False, False, False))
        self._nodes[node.uid] = (node.ready, node.out_of_service, node.unschedulable)
        self._toggles("machine", node.uid, node.ready, ready, "is Ready", "is NotReady")
        self._toggles("machine", node.uid, node.out_of_service, out, "is out of service", "is in service")
        self._toggles("machine", node.uid, node.unschedulable, cordoned, "is cordoned", "is uncordoned")

    def _look_at_pods(self) -> None:
        for cluster in self._sim.world.clusters.values():
            for pod in cluster.pods.values():
                known = self._pods.get(pod.name, 0)
                for _, answers, node in pod.history[known:]:
                    elsewhere = answers and self._answered.get(pod.name, node) != node
                    if answers:
                        self._answered[pod.name] = node
                    self._tell("pod", pod.name, "answers" if answers else "is silent", node, elsewhere=elsewhere)
                self._pods[pod.name] = len(pod.history)

    # --- controllers ----------------------------------------------------------------------------------------------

    def _look_at_steps(self) -> None:
        fresh, self._begun = self._sim.steps[self._begun :], len(self._sim.steps)
        for begun in fresh:
            step = begun.operation.step
            kind, _, rest = step.target.partition("/")
            subject = rest if kind in {"machine", "server", "metal"} else step.target
            self._steps[begun.operation.id] = (step.name, str(step.server), subject)
            self._tell("step", step.name, "begins", str(step.server), subject)
        ended, self._finished = self._store.finished[self._finished :], len(self._store.finished)
        for operation, result in ended:
            known = self._steps.pop(operation, None)
            if known is not None:
                self._tell("step", known[0], _verb(result), known[1], known[2])

    def _look_at_controllers(self) -> None:
        for controller in self._sim.controllers:
            now = (controller.alive, controller.halted)
            before = self._controllers.get(controller.name, (False, ""))
            if now == before:
                continue
            self._controllers[controller.name] = now
            if controller.halted and not before[1]:
                self._tell("controller", controller.name, "stops acting", detail=controller.halted)
            self._toggles("controller", controller.name, controller.alive, before[0], "starts", "is killed")

    def _look_at_waits(self) -> None:
        if not self._sim.controllers or not self._sim.controller.alive:
            return
        engine = self._sim.engine
        now = {k: w.reason.value for k, w in engine.waiting.items()}
        if now == self._waits:
            return
        for k, reason in now.items():
            if self._waits.get(k) != reason:
                kind, _, rest = k.partition("/")
                found: Kind = "server" if kind == "server" else "machine" if kind == "machine" else "object"
                self._tell(found, k if found == "object" else rest, "waits", detail=reason)
        self._waits = now

    def _look_at_objects(self) -> None:
        unready = {line.partition(":")[0] for line in self._story.unready()}
        for obj in self._story.workload():
            k = key(type(obj).__name__.lower(), obj.metadata.namespace, obj.metadata.name)
            now = k not in unready
            self._toggles("object", k, now, self._ready.get(k, False), "is Ready", "is not Ready")
            self._ready[k] = now
        now = not unready
        self._toggles("object", EVERYTHING, now, self._ready.get(EVERYTHING, False), "is Ready", "is not Ready")
        self._ready[EVERYTHING] = now

    # --- asking ---------------------------------------------------------------------------------------------------

    def since_beginning(self) -> Iterable[Event]:
        """What happened since the story began."""
        return (e for e in self.events if e.time >= 0.0)


def _verb(result: StepResult) -> str:
    match result:
        case Done():
            return "succeeds"
        case Failed():
            return "fails"
        case Refused():
            return "is refused"
        case _:
            return "is unknown"
