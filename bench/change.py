"""One thing changed in a large fleet at rest: planned, checked, committed and diffed through the real engine and store.

Measured is all that the controller does from the moment it hears of the change until it is at rest again: handling the
news, planning, checking, the commit and whatever is shown (status, events) in SQLite with its sync to disk, the diff,
and the journal's entries of steps that begin. Not measured is what it deliberately waits for (`Policy.tick`, 50 ms,
in which news is gathered) and the user's own write.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median

import msgspec

from bedplate.engine import messages as msg
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import key
from bedplate.model.kinds.cluster import NodePool
from bedplate.model.steps import Done
from bench import fleet
from bench.drive import Drive
from bench.reference import cpu_loop, wall_loop
from bench.report import Figure, percentile, seconds, size

MEAN, P99 = 0.010, 0.100
PROPORTION = 1.5
"""For ten times the fleet. Whole pages are written: what shares a page in a small fleet does not in a large one, and
trees may be a page deeper. More than that would be a part of the fleet written again."""
SAMPLES = 120
"""Of each kind of change."""
BYTE_SAMPLES = 20
Change = Callable[[int], None]


class Changes:
    """The kinds of change, each made to another cluster or server every time."""

    def __init__(self, drive: Drive, of: fleet.Size) -> None:
        self.drive = drive
        self._of = of
        self._workers = _one_worker_each(drive, of)
        self.kinds: dict[str, tuple[Change, Change]] = {
            "a node's view": (_nothing, self._node),
            "a pool scaled by one": (self._declare_one_more, self._take_in),
            "a server's view": (_nothing, self._server),
        }

    def _node(self, n: int) -> None:
        worker = self._workers[n // 2 % len(self._workers)]
        view = fleet.node_view(worker, ready=n % 2 == 1)
        self.drive.observe(f"cluster/{worker.cluster}", [view])

    def _declare_one_more(self, n: int) -> None:
        """The user's write, which is the API's work and not measured; before it, the last new machine comes up."""
        self._bring_up()
        old = self.drive.store.get("NodePool", "default", f"c{n % self._of.clusters:03}-web")
        assert isinstance(old, NodePool)
        spec = msgspec.structs.replace(old.spec, replicas=old.spec.replicas + 1)
        self.drive.store.update(msgspec.structs.replace(old, spec=spec))

    def _take_in(self, _n: int) -> None:
        before = self.drive.commits
        self.drive.settle()
        assert self.drive.commits == before + 1
        assert self.drive.begun, "the new machine's first step was not begun"

    def _bring_up(self) -> None:
        """What the world would have done: the new machine runs and has joined, and its first step has ended."""
        while self.drive.begun:
            run = self.drive.begun.pop()
            m = self.drive.engine.blueprint.entries[run.step.target]
            assert isinstance(m, MachineEntry)
            self.drive.observe(f"agent/{m.server}", [fleet.domain_view(m)])
            self.drive.observe(f"cluster/{m.cluster}", [fleet.node_view(m)])
            self.drive.tell(msg.StepEnded(operation=run.ticket.operation, result=Done()))

    def _server(self, n: int) -> None:
        name = f"hv{n % self._of.servers:04}"
        view = fleet.server_view(name, free_mib=3_000_000 - 20_480 * (1 + n // self._of.servers))
        self.drive.observe(f"agent/{name}", [view])


def _nothing(_n: int) -> None:
    pass


def _one_worker_each(drive: Drive, of: fleet.Size) -> list[MachineEntry]:
    entries, owners = drive.engine.blueprint.entries, drive.engine.index.by_owner
    keys = (min(owners[key("nodepool", "default", f"c{n:03}-web")]) for n in range(of.clusters))
    return [e for k in keys if isinstance(e := entries[k], MachineEntry)]


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    few, many = (fleet.SMALL, fleet.MIDDLE) if small else (fleet.MIDDLE, fleet.LARGE)
    with tempfile.TemporaryDirectory(prefix="bedplate-bench-") as folder:
        yield from _measured(Path(folder), few, many)


def _measured(folder: Path, few: fleet.Size, many: fleet.Size) -> Iterator[Figure]:
    drive = Drive(folder / "large")
    try:
        drive.start(many)
        changes = Changes(drive, many)
        yield from _times(changes, many)
        large = _bytes(changes)
    finally:
        drive.close()
    drive = Drive(folder / "small")
    try:
        drive.start(few)
        little = _bytes(Changes(drive, few))
    finally:
        drive.close()
    for name, written in large.items():
        yield Figure(
            what=f"written for {name} (pages of the store's log), fleet of {many.machines} machines",
            measured=size(written),
            reference=f"fleet of {few.machines}: {size(little[name])}",
            ratio=written / little[name],
            goal=f"as the change, not the fleet: {PROPORTION:g} times",
            limit=PROPORTION,
        )


def _times(changes: Changes, of: fleet.Size) -> Iterator[Figure]:
    took: dict[str, list[float]] = {name: [] for name in changes.kinds}
    used: dict[str, list[float]] = {name: [] for name in changes.kinds}
    walls: list[float] = []
    loops: list[float] = []
    gc.collect()
    for n in range(SAMPLES):
        for name, (prepare, change) in changes.kinds.items():
            prepare(n)
            cpu, wall = time.process_time(), time.perf_counter()
            change(n)
            took[name].append(time.perf_counter() - wall)
            used[name].append(time.process_time() - cpu)
            walls.append(wall_loop(MEAN))
        loops.append(cpu_loop(MEAN))
    everything = [v for values in took.values() for v in values]
    busy = [v for values in used.values() for v in values]
    yield Figure(
        what=f"one thing changed, {of.machines} machines: mean",
        measured=f"{seconds(fmean(everything))} ({seconds(fmean(busy))} CPU)",
        reference=f"loop of 0.01 reference seconds after each: mean {seconds(fmean(walls))}",
        ratio=fmean(everything) / fmean(walls),
        goal=f"{MEAN * 1000:g} ms (ratio 1)",
        limit=1.0,
    )
    yield Figure(
        what=f"one thing changed, {of.machines} machines: p99 of {len(everything)}",
        measured=f"{seconds(percentile(everything, 0.99))} ({seconds(percentile(busy, 0.99))} CPU)",
        reference=f"the same loop: mean {seconds(fmean(walls))}, its own p99 {seconds(percentile(walls, 0.99))}",
        ratio=percentile(everything, 0.99) / fmean(walls),
        goal=f"{P99 * 1000:g} ms (ratio {P99 / MEAN:g})",
        limit=P99 / MEAN,
    )
    for name, values in took.items():
        cpu = f"{seconds(fmean(used[name]))} CPU, p99 {seconds(percentile(used[name], 0.99))} CPU"
        yield Figure(
            what=f"· {name}: mean",
            measured=f"{seconds(fmean(values))} ({cpu})",
            reference=f"loop: mean {seconds(fmean(walls))} ({seconds(median(loops))} CPU)",
            ratio=fmean(values) / fmean(walls),
        )


def _bytes(changes: Changes) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (prepare, change) in changes.kinds.items():
        written: list[int] = []
        for n in range(SAMPLES, SAMPLES + BYTE_SAMPLES):
            prepare(n)
            changes.drive.empty_log()
            change(n)
            written.append(changes.drive.log_bytes())
        found[name] = fmean(written)
    return found
