"""The loop: news comes in, planning decides, the store commits, the diff yields steps, drivers run them.

Sans-I/O: `handle` takes one event and the time and returns commands. It never blocks, logs, or looks at a clock, so
the runner drives it against the real world and the simulator against a virtual one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from bedplate.checks.blueprint import Finding
from bedplate.engine import messages as msg
from bedplate.engine.admission import InFlight, deadline
from bedplate.engine.diff import beside, next_for
from bedplate.engine.following import Following
from bedplate.engine.gate import FOREVER, Gate
from bedplate.engine.milestones import milestones
from bedplate.engine.projection import Projection
from bedplate.engine.state import AttemptState, BlueprintIndex, InventoryState, SpecState
from bedplate.engine.tally import Tally
from bedplate.engine.wanted import Next, World
from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import (
    AnyEntry,
    Blueprint,
    ClusterEntry,
    Delta,
    MachineEntry,
    ServerEntry,
    apply_delta,
)
from bedplate.model.ids import ClusterKey, Key, OperationId, ServerName, key
from bedplate.model.inventory import (
    AnyView,
    BmcView,
    ClusterView,
    DomainView,
    LoadView,
    NodeView,
    Observation,
    RetainedDiskView,
    ServerView,
)
from bedplate.model.journal import OperationRecord, after, begun, failed
from bedplate.model.policy import Policy
from bedplate.model.report import Report, Waiting, WaitingOn
from bedplate.model.spec import Spec
from bedplate.model.steps import (
    Done,
    Failed,
    PowerOff,
    PullImage,
    ReadPower,
    Refused,
    Step,
    StepResult,
    Ticket,
    Unknown,
)
from bedplate.planner import balance
from bedplate.planner.plan import PlanCache, PlanInput, PlanResult, plan

Checker = Callable[[PlanInput, PlanResult], tuple[Finding, ...]]


class Engine:
    """One controller's mind. Give it `Started` first."""

    def __init__(self, policy: Policy, seed: int, checker: Checker) -> None:
        self.policy = policy
        self._seed = seed
        self._checker = checker
        self._leading = False
        self._observe_only = False
        self._store_failed = ""  # how it failed
        self._halted = ""  # why
        self._out: list[msg.Command] = []
        self._now = 0.0
        self._changed: set[Key] | None = None  # None: everything
        self._look: set[Key] = set()
        self._plan_at = FOREVER
        self._next_time = FOREVER
        self._committing: tuple[Delta, Report] | None = None
        self._in_turn: defaultdict[ClusterKey, set[Key]] = defaultdict(set)  # who waits to join, by cluster
        self._unplanned: set[Key] = set()  # declared objects with news since the last planning
        self._planned: set[Key] = set()  # those whose planning is being committed
        self._counter = 0
        self._timer = FOREVER
        self._following = Following()
        self._loads_new = False
        self._balanced_at = -FOREVER
        self._cache: PlanCache | None = None
        self.findings: tuple[Finding, ...] = ()
        self.waiting: dict[Key, WaitingOn] = {}
        self.next: dict[Key, Next] = {}
        self.flight = InFlight()
        self._gate = Gate(policy, seed, self.flight)
        self.inventory = InventoryState()
        self.attempts = AttemptState({})
        self.blueprint = Blueprint()
        self.index = BlueprintIndex(self.blueprint)
        self._spec = SpecState(Spec())
        self._projection = Projection({})

    # --- events ---

    def handle(self, event: msg.Event, now: float) -> list[msg.Command]:
        """Take one event at time `now` (seconds since the epoch, never decreasing); give what is to be done."""
        self._out = []
        self._now = max(now, self._now)
        match event:
            case msg.Started():
                self._start(event)
            case msg.SpecChanged():
                self._spec_changed(event)
            case msg.Observed():
                self._observed(event.source, event.observations, event.full)
            case msg.Committed():
                self._committed(event)
            case msg.CommitLost():
                self._halt(event.message)
            case msg.Journalled():
                self._journalled(event.operation)
            case msg.StepEnded():
                self._step_ended(event.operation, event.result)
            case msg.StoreFailed():
                self._store_failed = event.message or "no reason was given"
            case msg.StoreHealed():
                self._store_failed = ""
                self._replan_all()
            case msg.Accepted():
                self._observe_only = False
                self._replan_all()
            case msg.Ticked():
                self._timer = FOREVER
        if self._leading:
            self._turn()
        return self._out

    def _start(self, event: msg.Started) -> None:
        self._store, self._epoch = event.store, event.epoch
        self._spec = SpecState(event.spec)
        self.blueprint = event.blueprint
        self.index = BlueprintIndex(event.blueprint)
        self._following.touch((*(c.key for c in event.blueprint.clusters()), *event.spec.servers))
        self.attempts = AttemptState({k: dict(v) for k, v in event.attempts.items()})
        self._observe_only = event.observe_only
        self._projection = Projection(dict(event.published))
        self._leading = True
        for server in event.spec.servers.values():
            # Who is not heard of from now on is missed from now on, also where this controller never heard of it.
            view = ServerView(server=ServerName(server.metadata.name), connected=False)
            if self.inventory.view(view.key) is None:
                self.inventory.apply("engine", (Observation(value=view, time=self._now, source="engine"),), False)
        for operation in event.open_operations:
            result = Unknown(message="the controller stopped before the answer came")
            self._out.append(msg.Finish(operation=operation.id, finished=self._now, result=result))
            self._remember(operation.step, result)
        self._replan_all()

    def _replan_all(self) -> None:
        self._changed = None
        self._look.update(self.blueprint.entries)
        self._plan_at = min(self._plan_at, self._now)

    def _spec_changed(self, event: msg.SpecChanged) -> None:
        for k, obj in event.changes.items():
            dirty = self._spec.apply(k, obj)
            if k.startswith("server/"):
                self._following.touch((k,))
            self._projection.declared(k, obj)
            if dirty is not None:
                self._unplanned.add(k)
                self._news([dirty])

    def _observed(self, source: str, observations: Iterable[Observation[AnyView]], full: bool) -> None:
        observations = tuple(observations)
        if source.startswith("cluster/") and source not in self.blueprint.entries:
            return  # the last words of a cluster that is gone; another of its name must not inherit them
        for o in observations:
            self._milestones(o)
            self._bootstrap_failure(o.value)
        changed = self.inventory.apply(source, observations, full)
        for view in changed:
            touched = tuple(self.index.touched_by(view))
            if isinstance(view, DomainView):
                self._following.touch(k for k in touched if k in self.index.control_planes)
            self._look.update(touched)
            self._seen_anew(view, touched)
        if full and source.startswith("agent/"):
            # Absence counts only from now on: all machines of that server are looked at anew.
            name = ServerName(source.removeprefix("agent/"))
            machines = {*self.index.by_server.get(name, ()), *self.index.cached.get(name, ()), key("metal", name)}
            self._look.update(machines)
            self._look.update(key("machine", o.value.uid) for o in observations if isinstance(o.value, DomainView))
            self._news(machines)

    def _let_join(self, view: AnyView) -> None:
        """Look at those who wait for their turn to join a cluster where somebody's join may have ended."""
        if isinstance(view, NodeView):
            self._look.update(self._in_turn.pop(view.cluster, ()))
        elif isinstance(view, DomainView) and view.bootstrap != "running" and self._in_turn:
            entry = self.blueprint.machine(view.uid)
            if entry is not None:
                self._look.update(self._in_turn.pop(entry.cluster, ()))

    def _seen_anew(self, view: AnyView, touched: Iterable[Key]) -> None:
        """Plan with the view, and show anew whatever it is about."""
        self._let_join(view)
        self._news([view.key])
        if not isinstance(view, ServerView):
            # Of a server, planning knows whom its news may matter to, and what its machines show changes only with
            # what they wait on.
            self._news(touched)
            for k in touched:
                self._projection.touch(k)
        match view:
            case ServerView():
                self._projection.touch(view.key)
                for pool in view.pools:
                    self._projection.touch(key("diskpool", pool.name))
            case BmcView():
                self._projection.touch(key("server", view.server))
            case LoadView() if self._spec.spec.fleet.balance.mode != "partial":
                self._loads_new = True
            case NodeView() | ClusterView():
                self._projection.touch(key("cluster", view.cluster))
            case _:
                pass

    def _milestones(self, o: Observation[AnyView]) -> None:
        """Tell of what a timeline is made of, with the time when it happened."""
        for m in milestones(self.inventory.view(o.value.key), o, self.blueprint, self.attempts.get):
            self._tell(m.about, "Normal", m.reason, m.message, at=min(m.at, self._now))

    def _bootstrap_failure(self, view: AnyView) -> None:
        """A bootstrap ends in the guest, long after its step did: count its failure when it is first seen."""
        if not isinstance(view, DomainView) or view.bootstrap != "failed":
            return
        old = self.inventory.view(view.key)
        if isinstance(old, DomainView) and old.bootstrap == "failed" and old.detail == view.detail:
            return
        target = key("machine", view.uid)
        detail = view.detail or "kubeadm failed without a word in its log"
        self._failed(target, "Bootstrap", "BootstrapFailed", detail)
        self._tell(target, "Warning", "BootstrapFailed", detail)

    def _news(self, keys: Iterable[Key]) -> None:
        """Plan soon: news is gathered for a tick, so that a busy fleet makes few blueprints."""
        if self._changed is not None:
            self._changed.update(keys)
        self._plan_at = min(self._plan_at, self._now + self.policy.tick)

    # --- the turn ---

    def _turn(self) -> None:
        for view in self.inventory.expired(self._now):
            touched = tuple(self.index.touched_by(view))
            self._seen_anew(view, touched)
            if isinstance(view, BmcView):
                self._look.update(touched)
        self._look.update(self._gate.due(self._now))
        if self._now >= self._next_time:
            self._plan_at = min(self._plan_at, self._now)
            self._next_time = FOREVER
        if self._plan_at <= self._now and self._committing is None and not self._store_failed:
            self._plan()
        if self._committing is None:
            self._diff()
            self._out.extend(self._following.flush(self))
        self._publish()
        self._set_timer()

    @property
    def _balance_due(self) -> bool:
        return self._loads_new and self._now >= self._balanced_at + balance.INTERVAL

    def _plan_input(self) -> PlanInput:
        return PlanInput(
            spec=self._spec.spec,
            inventory=self.inventory.inventory,
            parent=self.blueprint,
            attempts=self.attempts.by_target,
            policy=self.policy,
            now=self._now,
            seed=self._seed,
            cache=self._cache,
            balance=self._balance_due,
        )

    def _plan(self) -> None:
        self._plan_at = FOREVER
        if self._observe_only:
            return
        if self._cache is None:
            self._cache = PlanCache()
        inp = self._plan_input()
        result = plan(inp, None if self._changed is None else frozenset(self._changed))
        if inp.balance:
            self._loads_new, self._balanced_at = False, self._now
        elif self._loads_new:
            self._plan_at = self._balanced_at + balance.INTERVAL
        self._changed = set()
        self._next_time = max(result.next_time, self._now + self.policy.tick)
        for k, waiting in result.report.waiting.items():
            if waiting is not None and self.waiting.get(k) == waiting:
                continue
            if waiting is None:
                self.waiting.pop(k, None)
            else:
                self.waiting[k] = waiting
            self._projection.touch(k)
        self.findings = self._checker(inp, result)
        if self.findings:
            self._cache = None
            self._changed = None  # what was refused is planned again with the next news
            for finding in self.findings:
                self._tell(finding.key, "Warning", "PlanRefused", f"rule {finding.rule}: {finding.sentence}")
            return
        unplanned, self._unplanned = self._unplanned, set()
        if result.delta.changes:
            self._committing = (result.delta, result.report)
            self._planned = unplanned
            self._out.append(msg.Commit(delta=result.delta, epoch=self._epoch))

    def _committed(self, event: msg.Committed) -> None:
        if self._committing is None:
            return
        delta, report = self._committing
        self._committing = None
        self._planned = set()
        old = self.blueprint
        self.blueprint = apply_delta(old, delta, event.number)
        for k, entry in delta.changes.items():
            before = old.entries.get(k)
            self.index.change(before, entry)
            self._forget_bootstrap(before, entry)
            affected = {k, *self._affected(before, entry)}
            self._look.update(affected)
            self._following.touch(a for a in affected if a.startswith("cluster/"))
            if entry is None:
                self.attempts.drop(k)
                self.next.pop(k, None)
                self.waiting.pop(k, None)
                if isinstance(before, ClusterEntry):
                    self.inventory.forget_cluster(before.cluster)
            self._projection.entry_changed(before, entry)
            if isinstance(entry or before, ServerEntry):
                for machine in affected:
                    self._projection.touch(machine)
        for change in report.changes:
            self._tell(change.key, "Normal", change.action.capitalize(), change.sentence)
        self._finalise(delta)

    def _forget_bootstrap(self, before: AnyEntry | None, after: AnyEntry | None) -> None:
        """A machine that has joined is past its bootstrap's failures."""
        if isinstance(before, MachineEntry) and isinstance(after, MachineEntry) and after.joined and not before.joined:
            history = self.attempts.get(after.key, "Bootstrap")
            self.attempts.set(
                after.key,
                "Bootstrap",
                Attempt(succeeded=history.succeeded, generation=after.generation, done=after.generation),
            )

    def _affected(self, before: AnyEntry | None, after: AnyEntry | None) -> Iterable[Key]:
        entry = after or before
        if isinstance(entry, ServerEntry):
            return self.index.by_server.get(entry.server, ())
        if isinstance(entry, ClusterEntry):
            return self.index.by_cluster.get(entry.cluster, ())
        if isinstance(entry, MachineEntry) and entry.role == "control-plane":
            return self.index.by_cluster.get(entry.cluster, ())
        if isinstance(entry, MachineEntry) and entry.is_node:
            return (key("cluster", entry.cluster),)
        return ()

    def _finalise(self, delta: Delta) -> None:
        """Let declared objects go whose last entry has gone; those without any entry are looked at in `_publish`."""
        for k in delta.changes:
            self._projection.touch(k)

    # --- steps ---

    def _diff(self) -> None:
        if self._observe_only or self._store_failed:
            return
        world = self._world()
        look, self._look = self._look, set()
        for k in sorted(look):
            self._look_at(world, k)
        self._gate.refill(lambda k: self._look_at(world, k))

    def _world(self) -> World:
        return World(
            blueprint=self.blueprint,
            inventory=self.inventory.inventory,
            attempts=self.attempts.by_target,
            now=self._now,
            control_planes=self.index.control_planes,
            members=self.index.by_cluster,
            joins_at_once=self.policy.joins_at_once,
            power_fresh=self.policy.power_fresh,
        )

    def _look_at(self, world: World, k: Key) -> None:
        if k not in self.blueprint.entries:
            return
        other = beside(world, k)
        if other.step is not None:
            self._admit(k, other, other.step)
        if self.flight.on(k) is not None:
            return
        found = next_for(world, k)
        if found.step is not None:
            found = self._admit(k, found, found.step)
        if found.waiting is Waiting.JOIN_TURN:
            entry = self.blueprint.entries[k]
            assert isinstance(entry, MachineEntry)
            self._in_turn[entry.cluster].add(k)
        if self.next.get(k) != found:
            self.next[k] = found
            self._projection.touch(k)

    def _admit(self, k: Key, wanted: Next, step: Step) -> Next:
        """Begin the step if it may begin now; else say what it waits on, and wake up for it."""
        history = self.attempts.get(step.target, step.name)
        held = self._gate.hold(k, step, history, self._now)
        if held is not None:
            return held
        before = self.next.get(k)
        waited = before.waiting.value if before is not None and before.waiting is not None else ""
        self._begin(step, wanted.reason, history, waited)
        return wanted

    def _begin(self, step: Step, reason: str, history: Attempt, waited: str) -> None:
        self._counter += 1
        operation = OperationRecord(
            id=OperationId(f"{self._epoch}-{self._counter}"),
            step=step,
            epoch=self._epoch,
            attempt=history.count + 1,
            started=self._now,
            reason=reason,
            waited=waited,
        )
        self.flight.add(operation)
        self.attempts.set(step.target, step.name, begun(history, step, self._now))
        self._out.append(msg.Begin(operation=operation))

    def _journalled(self, operation: OperationId) -> None:
        record = self.flight.operations.get(operation)
        if record is None or not self._leading:
            return
        ticket = Ticket(operation=operation, store=self._store, epoch=self._epoch, deadline=deadline(record.step))
        self._out.append(msg.Run(step=record.step, ticket=ticket))

    def _step_ended(self, operation: OperationId, result: StepResult) -> None:
        record = self.flight.remove(operation)
        if record is None:
            return
        self._out.append(msg.Finish(operation=operation, finished=self._now, result=result))
        step = record.step
        self._remember(step, result)
        match result:
            case Done():
                seen = (Observation(value=v, time=self._now, source="step") for v in result.views if self._is_news(v))
                self._observed("step", seen, full=False)
            case Failed():
                self._tell(step.target, "Warning", result.reason, f"{step.name}: {result.message}")
            case Refused():
                self._tell(step.target, "Warning", "Refused", f"{step.name}: {result.message}")
            case Unknown():
                pass  # what really happened is observed
        self._look.add(step.target)
        self._gate.ended(step)
        if isinstance(step, PullImage):  # several machines may wait for one image
            self._look.update(self.index.by_server.get(step.server, set()))
        elif isinstance(step, PowerOff | ReadPower) and key("metal", step.entry.server) in self.blueprint.entries:
            # Off, read anew, is no change of what is seen, and confirms the end of the machine that was there.
            self._look.update(self.index.by_server.get(step.entry.server, set()))
        self._projection.touch(step.target)
        self._news([step.target])

    def _is_news(self, view: AnyView) -> bool:
        """False for what its agent told already, before the reply; it may even have told of a later change since.

        A cluster's watcher sees only what its API shows: what a step knows of it beside that is merged in.
        """
        if isinstance(view, ServerView | DomainView | RetainedDiskView):
            return f"agent/{view.server}" not in self.inventory.synced
        return True

    def _remember(self, step: Step, result: StepResult) -> None:
        history = self.attempts.get(step.target, step.name)
        self.attempts.set(step.target, step.name, after(history, step, result, self._now))

    def _failed(self, target: Key, step: str, reason: str, message: str) -> None:
        history = self.attempts.get(target, step)
        self.attempts.set(target, step, failed(history, reason, message, self._now))
        self._look.add(target)

    # --- telling ---

    def _tell(self, about: Key, type_: str, reason: str, message: str, *, at: float = 0.0) -> None:
        found = self._projection.event_target(about, self.blueprint)
        if found is not None:
            k, kind = found
            self._out.append(msg.Record(about=k, kind=kind, type=type_, reason=reason, message=message, at=at))

    def _publish(self) -> None:
        if self._store_failed:
            return
        self._out.extend(self._projection.flush(self, self._now))

    @property
    def tally(self) -> Tally:
        """Phases and counts of machines, as of what was shown last."""
        return self._projection.tally

    def is_planned(self, k: Key) -> bool:
        """False while a declared object's change is not yet in a committed blueprint: its status is of the past."""
        return self._observe_only or (k not in self._unplanned and k not in self._planned)

    @property
    def idle(self) -> str | None:
        """Why nothing is planned and no step begun, in one sentence; None while this engine acts."""
        if self._halted:
            return f"the controller has stopped acting: {self._halted}"
        if not self._leading:
            return "the controller is still reading its store"
        if self._store_failed:
            return f"the controller's store can't be written, so it only observes until it can: {self._store_failed}"
        if self._observe_only:
            return (
                "the controller only observes, because its store was restored: look at what it would do with "
                "`bedplate plan`, then let it act with `bedplate accept`"
            )
        return None

    @property
    def spec(self) -> SpecState:
        """The declared objects as this engine knows them."""
        return self._spec

    def _halt(self, message: str) -> None:
        self._leading = False
        self._halted = message
        self._out.append(msg.Halt(message=message))

    def _set_timer(self) -> None:
        at = min(
            self._plan_at if self._committing is None and not self._store_failed else FOREVER,
            self._next_time,
            self._gate.next_time,
            self.inventory.next_expiry(),
        )
        if at < FOREVER and at != self._timer:
            self._timer = at
            self._out.append(msg.SetTimer(at=max(at, self._now)))
