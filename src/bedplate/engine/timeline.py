"""Where the time of a cluster's making went: from the journal and the events to spans, and to the critical path. Pure.

The critical path is walked backward from the end: each span after the one that it waited on, as the journal tells it.
What lies between the two was nobody's work but Bedplate's own waiting: planning, committing, journalling, polling,
backoff. So spans on the path never overlap, and with what lies between they are the whole. Where the records leave a
doubt, Bedplate is charged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from bedplate.engine import milestones as m
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ClusterKey, Key
from bedplate.model.journal import OperationRecord
from bedplate.model.report import Waiting
from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DefineDomain,
    DeleteRetained,
    DeleteVolume,
    Done,
    DropImage,
    PullImage,
    RemoveDomain,
    RetainVolume,
    StartDomain,
    Step,
    StopDomain,
    Unknown,
)


class Work(StrEnum):
    """Whose time it was."""

    BOOT = "guest boot"
    KUBEADM = "kubeadm"
    DISK = "image and disk"
    HYPERVISOR = "hypervisor"
    OWN = "Bedplate"


_DISK = PullImage | CreateVolume | DeleteVolume | RetainVolume | DeleteRetained | DropImage
_HYPERVISOR = DefineDomain | StartDomain | StopDomain | RemoveDomain


class Mark(StrEnum):
    """What became true at a span's end, so that others could go on."""

    ENDED = "ended"
    FAILED = "failed"
    JOINED = "joined"
    READY = "ready"


_FREES: dict[str, frozenset[Mark]] = {
    Waiting.JOIN_TURN: frozenset({Mark.JOINED, Mark.FAILED}),
    Waiting.CONTROL_PLANE: frozenset({Mark.ENDED, Mark.JOINED, Mark.FAILED}),
    Waiting.CONTROL_PLANE_BUSY: frozenset({Mark.ENDED, Mark.JOINED, Mark.FAILED}),
}
"""Which ends of other machines' spans can have freed what waited on this."""


class Happening(NamedTuple):
    """An event about a machine. `reason` as in `milestones`; `at` in seconds since the epoch."""

    about: Key
    reason: str
    at: float
    failed: bool = False


class Records(NamedTuple):
    """What a timeline is made of, of a whole cluster. Times are seconds since the epoch; no order is needed."""

    begin: float
    end: float | None
    """When it was as declared; None: not yet."""
    operations: Sequence[OperationRecord]
    happenings: Sequence[Happening]
    subject: frozenset[Key] | None = None
    """The machines whose end is the end, such as a pool's; None: all."""


Chain = tuple[Key, str]
"""A target, and the lane of its steps."""


class Span(NamedTuple):
    """A stretch of time in which one thing was done for one machine, or for the cluster."""

    start: float
    end: float
    of: str
    """The machine's name; empty: the cluster's."""
    what: str
    work: Work
    target: Key = Key("")
    marks: frozenset[Mark] = frozenset()
    waited: str = ""
    step: Step | None = None
    plane: bool = False
    """Its machine is of the control plane."""

    @property
    def chain(self) -> Chain:
        """Where its like stand one after another."""
        return self.target, self.step.lane if self.step is not None else ""

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Timeline(NamedTuple):
    """All spans in order, and the critical path with Bedplate's own time between."""

    begin: float
    end: float
    complete: bool
    spans: tuple[Span, ...]
    path: tuple[Span, ...]

    def by_work(self) -> dict[Work, float]:
        """Seconds of the critical path by whose they were."""
        found = dict.fromkeys(Work, 0.0)
        for span in self.path:
            found[span.work] += span.seconds
        return found

    @property
    def neither(self) -> float:
        """Seconds of the critical path that are neither guest boot nor kubeadm's own work."""
        return sum(span.seconds for span in self.path if span.work not in {Work.BOOT, Work.KUBEADM})


def timeline(records: Records, now: float) -> Timeline:
    """Make the timeline; `now` ends what goes on still."""
    complete = records.end is not None
    end = records.end if records.end is not None else max(now, records.begin)
    made = (span for chain in _chains(records, end).values() for span in chain)
    clipped = (span._replace(start=max(span.start, records.begin), end=min(span.end, end)) for span in made)
    spans = tuple(sorted((span for span in clipped if span.end > span.start), key=_order))
    return Timeline(records.begin, end, complete, spans, _path(spans, records, end))


def _order(span: Span) -> tuple[float, float, str, str, str]:
    return span.start, span.end, span.of, span.target, span.what


# --- spans ----------------------------------------------------------------------------------------------------------


def _chains(records: Records, end: float) -> dict[Chain, list[Span]]:
    """Spans by target and lane; those of one chain follow each other without overlap."""
    by_chain: defaultdict[Chain, list[OperationRecord]] = defaultdict(list)
    for operation in records.operations:
        by_chain[operation.step.target, operation.step.lane].append(operation)
    told: defaultdict[Key, list[Happening]] = defaultdict(list)
    for happening in records.happenings:
        told[happening.about].append(happening)
    chains: dict[Chain, list[Span]] = {}
    for chain, operations in by_chain.items():
        operations.sort(key=lambda o: (o.started, o.id))
        history = _History(sorted(told[chain[0]], key=lambda h: (h.at, h.reason, h.failed)), end, records.end is None)
        chains[chain] = _one_after_another(_of_target(operations, history))
    return chains


class _History(NamedTuple):
    """What happened to one target, in order."""

    happened: list[Happening]
    end: float
    open: bool
    """What has no end is still going on; else its end was not recorded, and nothing is made of it."""

    def first(self, reason: str, after: float, until: float) -> Happening | None:
        """The first of that reason in this time."""
        return next((h for h in self.happened if h.reason == reason and after < h.at <= until), None)


def _of_target(operations: list[OperationRecord], history: _History) -> Iterator[Span]:
    for i, operation in enumerate(operations):
        span = _span_of(operation, operation.finished if operation.finished is not None else history.end)
        yield span
        if not isinstance(operation.result, Done | Unknown):  # of an unknown end, what happened next tells
            continue
        after = operations[i + 1 :]
        if isinstance(operation.step, StartDomain):
            answered = history.first(m.GUEST_ANSWERS, operation.started, _next(after, StartDomain, history.end))
            if answered is not None or (history.open and not after):
                up = answered.at if answered is not None else history.end
                yield span._replace(start=span.end, end=up, what="guest boots", work=Work.BOOT, step=None)
        elif isinstance(operation.step, Bootstrap):
            mode = operation.step.mode
            yield from _joins(span, mode, operation.started, history, _next(after, Bootstrap, history.end))


def _span_of(operation: OperationRecord, ended: float) -> Span:
    step = operation.step
    machine: MachineEntry | None = getattr(step, "machine", None)
    tried = f" (try {operation.attempt})" if operation.attempt > 1 else ""
    of = machine.name if machine is not None else step.server
    return Span(
        start=operation.started,
        end=ended,
        of=of,
        what=f"{step.name}{tried}",
        work=Work.DISK if isinstance(step, _DISK) else Work.HYPERVISOR if isinstance(step, _HYPERVISOR) else Work.OWN,
        target=step.target,
        waited=operation.waited,
        step=step,
        plane=machine is not None and machine.role == "control-plane",
    )


def _joins(span: Span, mode: str, handing: float, history: _History, until: float) -> Iterator[Span]:
    """From the moment that the guest has its payload to its Ready node. `handing`: when that was begun."""
    ended = history.first(m.KUBEADM_ENDED, handing, until)
    began = history.first(m.KUBEADM_BEGAN, handing, ended.at if ended is not None else until)
    start = began.at if began is not None else span.end
    up = history.first(m.NETWORK_UP, handing, start)
    if up is not None:
        yield span._replace(start=span.end, end=up.at, what="guest boots on", work=Work.BOOT, step=None)
        yield span._replace(start=max(span.end, up.at), end=start, what="prepares", work=Work.OWN, step=None)
    cuts: defaultdict[float, set[Mark]] = defaultdict(set)
    if ended is not None:
        cuts[ended.at].add(Mark.FAILED if ended.failed else Mark.ENDED)
    if ended is None or not ended.failed:
        for reason, mark in ((m.NODE_JOINED, Mark.JOINED), (m.NODE_READY, Mark.READY)):
            happened = history.first(reason, start, until)
            if happened is not None:
                cuts[happened.at].add(mark)
        if history.open and until == history.end and not any(Mark.READY in marks for marks in cuts.values()):
            cuts[until] |= set()
    for at, marks in sorted(cuts.items()):
        what = f"kubeadm {mode}" if ended is None or at <= ended.at else "node becomes Ready"
        yield span._replace(start=start, end=at, what=what, work=Work.KUBEADM, marks=frozenset(marks), step=None)
        start = max(start, at)


def _next(operations: list[OperationRecord], kind: type[Step], end: float) -> float:
    """When the next step of that kind began; `end` where none did."""
    return next((o.started for o in operations if isinstance(o.step, kind)), end)


def _one_after_another(spans: Iterable[Span]) -> list[Span]:
    """Where one begins before the last has ended, the last ends there: what it led to is what counts."""
    found: list[Span] = []
    for span in sorted(spans, key=_order):
        while found and found[-1].end > span.start:
            last = found.pop()
            if span.start > last.start:
                found.append(last._replace(end=span.start, marks=frozenset()))
                break
        if span.end > span.start:
            found.append(span)
    return found


# --- the critical path ----------------------------------------------------------------------------------------------


def _path(spans: Sequence[Span], records: Records, end: float) -> tuple[Span, ...]:
    """The path from the beginning to the end, in order; what lies between two spans is Bedplate's."""
    chains: defaultdict[Chain, list[Span]] = defaultdict(list)
    for span in spans:
        chains[span.chain].append(span)
    path: list[Span] = []
    reached = end
    at = _last(spans, records)
    while at is not None:
        if reached > at.end:
            path.append(_between(at, path[-1] if path else None, reached))
        path.append(at)
        reached = at.start
        at = max(_predecessors(at, chains), key=lambda s: (s.end, _order(s)), default=None)
    if reached > records.begin:
        path.append(_between(None, path[-1] if path else None, reached)._replace(start=records.begin))
    return tuple(reversed(path))


def _last(spans: Sequence[Span], records: Records) -> Span | None:
    """What the end waited on: the last node that became Ready; while it is not the end, whatever is the last."""
    mine = [s for s in spans if records.subject is None or s.target in records.subject]
    ready = [s for s in mine if Mark.READY in s.marks] if records.end is not None else []
    return max(ready or mine, key=lambda s: (s.end, _order(s)), default=None)


def _predecessors(span: Span, chains: Mapping[Chain, Sequence[Span]]) -> Iterator[Span]:
    """What the span can have waited on: what was done to the same thing before, and what the journal names."""
    yield from (s for s in chains[span.chain] if s.end <= span.start)
    if span.step is None:
        return
    marks = _FREES.get(span.waited, frozenset())
    for chain, others in chains.items():
        if chain != span.chain:
            yield from (s for s in others if s.end <= span.start and _freed(span, s, marks))


def _freed(span: Span, other: Span, marks: frozenset[Mark]) -> bool:
    if other.marks & marks:
        return span.waited == Waiting.JOIN_TURN or other.plane
    if isinstance(span.step, CreateVolume) and isinstance(other.step, PullImage):
        return (other.step.server, other.step.disk_pool) == (span.step.server, span.step.machine.disk_pool)
    return span.waited == Waiting.SECRETS and other.step is not None and other.step.name == "MakeSecrets"


def _between(before: Span | None, after: Span | None, end: float) -> Span:
    start = before.end if before is not None else end
    after_what = f"after {before.what}" if before is not None else "from the declaration"
    what = f"{after_what}, before {after.what}" if after is not None else f"{after_what}, until it is shown"
    return Span(start, end, after.of if after is not None else "", what, Work.OWN)


def of_cluster(operations: Iterable[OperationRecord], cluster: ClusterKey) -> list[OperationRecord]:
    """Operations on that cluster and its machines, and the images that were fetched to the machines' servers."""
    operations = list(operations)
    found = [o for o in operations if cluster in {_cluster_of(o.step, "machine"), _cluster_of(o.step, "cluster")}]
    places = {(o.step.server, o.step.machine.disk_pool) for o in found if isinstance(o.step, CreateVolume)}
    pulls = [o for o in operations if isinstance(o.step, PullImage) and (o.step.server, o.step.disk_pool) in places]
    return [*found, *pulls]


def _cluster_of(step: Step, part: str) -> str:
    return getattr(getattr(step, part, None), "cluster", "")
