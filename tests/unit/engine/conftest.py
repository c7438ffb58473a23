"""An engine whose planning is written down by the test: what is tested is the loop, not the planner."""

from __future__ import annotations

import msgspec
import pytest

from bedplate.engine import engine as engine_module
from bedplate.engine import messages as msg
from bedplate.engine.engine import Engine
from bedplate.model.blueprint import AnyEntry, Blueprint, ClusterEntry, Delta, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, Epoch, Key, MachineUid, Revision, ServerName, StoreId, key
from bedplate.model.inventory import AnyView, DomainView, Observation, PoolView, ServerView
from bedplate.model.policy import Policy
from bedplate.model.report import Report
from bedplate.model.spec import Spec
from bedplate.model.steps import Done, StepResult
from bedplate.planner.plan import PlanInput, PlanResult

IMAGE = ImageRef(name="node", disk=Digest("sha256:aa"))


def vm(number: int, server: str = "hv1", **changes: object) -> MachineEntry:
    """A user's VM."""
    entry = MachineEntry(
        uid=MachineUid(f"u{number}"),
        name=f"vm{number}",
        namespace="default",
        owner=key("virtualmachine", "default", f"vm{number}"),
        role="vm",
        server=ServerName(server),
        cpu=1,
        memory_mib=1024,
        disk_mib=1000,
        disk_pool="local",
        image=IMAGE,
        nic=Nic(network="lan", bridge="br0", mac=f"m{number}", address=f"10.0.0.{number}", prefix=24),
    )
    return msgspec.structs.replace(entry, **changes)


def cluster(name: str = "shop") -> ClusterEntry:
    """A cluster without machines."""
    return ClusterEntry(
        cluster=ClusterKey(f"default/{name}"),
        uid=name,
        version="1.35.3",
        network="lan",
        endpoint="10.0.0.100",
        pod_cidr="10.1.0.0/16",
        service_cidr="10.2.0.0/16",
    )


class Loop:
    """Drives one engine by hand: time, events in, commands out."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.target: dict[Key, AnyEntry] = {}
        """What planning wants; change it and send any news."""
        self.plans = 0
        self.refuse: tuple[object, ...] = ()
        self.now = 1000.0
        self.engine = Engine(policy, 7, lambda _inp, _result: self.refuse)  # type: ignore[arg-type,return-value]
        self.blueprint = Blueprint()
        self.commands: list[msg.Command] = []

    def plan(self, inp: PlanInput, changed: frozenset[Key] | None) -> PlanResult:
        self.plans += 1
        keys = sorted({*inp.parent.entries, *self.target})
        delta = {k: self.target.get(k) for k in keys if inp.parent.entries.get(k) != self.target.get(k)}
        return PlanResult(
            delta=Delta(parent=inp.parent.number, reason="test", changes=delta),
            report=Report(),
            next_time=float("inf"),
        )

    def want(self, *entries: AnyEntry) -> None:
        self.target = {e.key: e for e in entries}

    def start(self, **fields: object) -> None:
        base = {"store": StoreId("s"), "epoch": Epoch(1), "spec": Spec(), "blueprint": self.blueprint}
        self.send(msg.Started(**(base | fields)))  # type: ignore[arg-type]

    def send(self, event: msg.Event) -> list[msg.Command]:
        """Give the event; commits are taken at once, all else is kept for the test to look at."""
        out = self.engine.handle(event, self.now)
        self.commands.extend(out)
        for command in out:
            if isinstance(command, msg.Commit):
                self.send(msg.Committed(number=Revision(command.delta.parent + 1)))
        return out

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with the ticks that the engine asked for."""
        end = self.now + seconds
        for _ in range(10_000):
            timers = [c.at for c in self.commands if isinstance(c, msg.SetTimer)]
            if not timers or timers[-1] > end:
                break
            self.now = max(self.now, timers[-1])
            self.commands = [c for c in self.commands if not isinstance(c, msg.SetTimer)]
            self.send(msg.Ticked())
        else:
            raise AssertionError("the engine spins")
        self.now = end

    def see(self, source: str, *views: AnyView, full: bool = False) -> None:
        seen = tuple(Observation(value=v, time=self.now, source=source) for v in views)
        self.send(msg.Observed(source=source, observations=seen, full=full))

    def connect(self, name: str = "hv1", *more: AnyView, images: tuple[Digest, ...] = (IMAGE.disk,)) -> None:
        pool = PoolView(name="local", capacity_mib=10**6, free_mib=10**6, images=images)
        server = ServerView(server=ServerName(name), connected=True, bridges=("br0",), pools=(pool,))
        self.see(f"agent/{name}", server, *more, full=True)

    def domain(self, m: MachineEntry, **fields: object) -> None:
        self.see(f"agent/{m.server}", DomainView(server=m.server, uid=m.uid, generation=m.generation, **fields))  # type: ignore[arg-type]

    def take(self, kind: type[msg.Command]) -> list[msg.Command]:
        """Commands of that kind since the last call."""
        found = [c for c in self.commands if isinstance(c, kind)]
        self.commands = [c for c in self.commands if not isinstance(c, kind)]
        return found

    def begun(self) -> list[str]:
        """`Step target` of what was begun since the last call."""
        return [f"{c.operation.step.name} {c.operation.step.target}" for c in self.take(msg.Begin)]  # type: ignore[union-attr]

    def running(self) -> list[msg.Run]:
        """Acknowledge all that was journalled; give what is run for it."""
        for command in self.take(msg.Begin):
            assert isinstance(command, msg.Begin)
            self.send(msg.Journalled(operation=command.operation.id))
        return [c for c in self.take(msg.Run) if isinstance(c, msg.Run)]

    def end(self, run: msg.Run, result: StepResult | None = None) -> None:
        self.send(msg.StepEnded(operation=run.ticket.operation, result=result or Done()))


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def loop(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop(policy)
    monkeypatch.setattr(engine_module, "plan", made.plan)
    made.vm = vm  # type: ignore[attr-defined]
    made.cluster = cluster  # type: ignore[attr-defined]
    return made
