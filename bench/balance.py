"""Evening out load, beside `hbal` of Ganeti on the same clusters under its score and its hard limits; and packing.

The search is the product's own; only its score and its gate are hbal's (`bench.hbal`). That the score is right is seen
in each run: hbal prints the same, to all its digits, for the cluster at first and for where the search has brought it.
What hbal itself does in hours is not waited for: 100 nodes with `--full` only. Where hbal is missing its part is left
out, with a line that says how to install it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bedplate.planner.balancing import balance
from bedplate.planner.balancing.consolidate import consolidate, fewest
from bedplate.planner.balancing.placement import Placement
from bedplate.planner.balancing.problem import Amounts, Problem
from bedplate.planner.balancing.search import Search
from bench import hbal
from bench.reference import cpu_loop
from bench.report import Figure, seconds

TIME, SCORE, SECONDS = 0.05, 0.01, 60.0
UNBOUNDED = 1_000_000
DIGITS = 1e-8
"""hbal prints eight decimals."""


class Found(msgspec.Struct, frozen=True):
    """What the search came to."""

    cluster: hbal.Cluster
    initial: float
    final: float
    moves: tuple[tuple[str, str], ...]
    seconds: float


def search(c: hbal.Cluster) -> Found:
    """Even the cluster out, until no move and no exchange of two is left that hbal's gate would take."""
    began = time.process_time()
    placement = Placement(hbal.problem(c, UNBOUNDED))
    score = hbal.Spread(c)
    initial = score.value()
    found = Search(placement, score, hbal.MinGain(score), [True] * len(c.instances))
    found.run(UNBOUNDED, exchanges=True, again=True)
    took = time.process_time() - began
    moved = tuple(msgspec.structs.replace(i, node=n) for i, n in zip(c.instances, placement.where, strict=True))
    moves = tuple((c.instances[s.machine].name, f"n{s.target:04}") for s in found.steps)
    return Found(hbal.Cluster(c.nodes, moved), initial, score.value(), moves, took)


def run(small: bool, full: bool = False) -> Iterator[Figure]:
    """Give the figures."""
    program = hbal.program()
    if program is None:
        print(f"balance: hbal is not here, its part is left out; it comes with: {hbal.INSTALL}", file=sys.stderr)
    else:
        sizes = (10, 20) if small else (20, 40, 100) if full else (20, 40)
        with tempfile.TemporaryDirectory(prefix="bedplate-bench-") as folder:
            for nodes in sizes:
                yield from _beside(program, hbal.generate(nodes), Path(folder))
            yield from _beside(program, hbal.generate(sizes[0], loads=True), Path(folder))
    yield from _alone(50 if small else 500)
    yield from _production(100 if small else 1000)
    yield from _packed(20 if small else 100)


def _beside(program: str, c: hbal.Cluster, folder: Path) -> Iterator[Figure]:
    ours, theirs = search(c), hbal.run(program, c, folder)
    checked = hbal.run(program, ours.cluster, folder, moves=0)
    assert abs(theirs.initial - ours.initial) <= DIGITS, f"hbal's score is {theirs.initial}, ours {ours.initial}"
    assert abs(checked.initial - ours.final) <= DIGITS, f"hbal's score is {checked.initial}, ours {ours.final}"
    sizes = {i.name: i.memory for i in c.instances}
    what = f"{c.nodes} nodes, {len(c.instances)} instances" + (", measured loads" if c.loads else "")
    yield Figure(
        what=f"hbal's score, {what}: {ours.initial:.2f} at first",
        measured=f"{ours.final:.4f} ({_cost(ours.moves, sizes)})",
        reference=f"hbal: {theirs.final:.4f} ({_cost(theirs.moves, sizes)})",
        ratio=round(ours.final, 8) / theirs.final,
        goal="as good as hbal (ratio 1)",
        limit=1.0,
    )
    yield Figure(
        what="· time for it",
        measured=f"{seconds(ours.seconds)} CPU",
        reference=f"hbal: {seconds(theirs.seconds)} CPU",
        ratio=ours.seconds / theirs.seconds,
        goal=f"{TIME:.0%} of hbal's at 100 nodes" if c.nodes >= 100 else "",
        limit=TIME if c.nodes >= 100 else None,
    )


def _cost(moves: tuple[tuple[str, str], ...], sizes: dict[str, int]) -> str:
    return f"{len(moves)} moves, {sum(sizes[name] for name, _ in moves) / 1024:.0f} GiB moved"


def _alone(nodes: int) -> Iterator[Figure]:
    """A size at which hbal finds not one move in a minute."""
    c = hbal.generate(nodes)
    loop = cpu_loop(0.5)
    found = search(c)
    loop += cpu_loop(0.5)
    sizes = {i.name: i.memory for i in c.instances}
    yield Figure(
        what=f"hbal's score, {nodes} nodes, {len(c.instances)} instances",
        measured=f"{found.final:.4f} ({_cost(found.moves, sizes)})",
        reference=f"at first: {found.initial:.2f}",
        ratio=found.final / found.initial / SCORE,
        goal=f"{SCORE:.0%} of the first (ratio 1)",
        limit=1.0,
    )
    yield Figure(
        what="· time for it",
        measured=f"{seconds(found.seconds)} CPU",
        reference=f"loop of 1 reference second: {seconds(loop)} CPU",
        ratio=found.seconds / loop,
        goal=f"{SECONDS:g} s on one core",
        limit=SECONDS,
    )


def _production(nodes: int) -> Iterator[Figure]:
    """The product's own score and gates: a plan of 64 moves for an uneven fleet, and none for an even one."""
    uneven = hbal.problem(hbal.generate(nodes, loads=True), 64)
    machines = tuple(
        msgspec.structs.replace(m, demand=Amounts(cpu=6.0 * load.load[0]), deviation=Amounts(cpu=0.5))
        for m, load in zip(uneven.machines, hbal.generate(nodes, loads=True).instances, strict=True)
    )
    uneven = msgspec.structs.replace(uneven, machines=machines)
    for what, problem in (("uneven", uneven), ("even", _even(uneven))):
        loop = cpu_loop(0.25)
        began = time.process_time()
        plan = balance(problem)
        took = time.process_time() - began
        loop += cpu_loop(0.25)
        yield Figure(
            what=f"one plan for {nodes} servers, {len(machines)} machines, {what}",
            measured=f"{seconds(took)} CPU: {len(plan.moves)} moves, unevenness {plan.before:.3f} to {plan.after:.3f}",
            reference=f"loop of half a reference second: {seconds(loop)} CPU",
            ratio=took / loop / 2,
        )


def _even(problem: Problem) -> Problem:
    """The same machines, dealt out by their load."""
    order = sorted(problem.machines, key=lambda m: -m.demand.cpu)
    count = len(problem.servers)
    there = [n % count if n // count % 2 == 0 else count - 1 - n % count for n in range(len(order))]
    machines = tuple(
        msgspec.structs.replace(m, server=problem.servers[n].name) for m, n in zip(order, there, strict=True)
    )
    return msgspec.structs.replace(problem, machines=machines)


def _packed(nodes: int) -> Iterator[Figure]:
    """As few servers as can be, beside a bound below which nothing can be."""
    problem = hbal.problem(hbal.generate(nodes), UNBOUNDED)
    began = time.process_time()
    found = consolidate(problem)
    took = time.process_time() - began
    least, left = fewest(problem), nodes - len(found.empty)
    yield Figure(
        what=f"servers in use after packing {len(problem.machines)} machines of {nodes} servers",
        measured=f"{left} ({len(found.moves)} moves, {seconds(took)} CPU)",
        reference=f"no fewer than {least}",
        ratio=left / least,
    )
