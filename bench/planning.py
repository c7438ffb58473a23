"""Planning of everything from nothing: time on one core, memory, and how both grow with the fleet.

Measured is one call of `plan` with an empty parent blueprint, all servers connected and seen, without any cache: index,
placement of every control plane and worker, report. What comes later (machines that join, control planes that are
initialised) are plannings of what changed. Each run is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from bedplate.checks.blueprint import check
from bedplate.model.blueprint import Blueprint
from bedplate.planner.plan import PlanInput, plan
from bench import fleet
from bench.reference import cpu_loop, peak_memory
from bench.report import Figure, seconds, size

SECONDS, MIB, GROWTH = 2.0, 500, 12.0
RUNS = 3
"""Of each fleet, in turn; the median counts."""


def run(small: bool) -> Iterator[Figure]:
    """Give the figures."""
    few, many = (fleet.SMALL, fleet.MIDDLE) if small else (fleet.MIDDLE, fleet.LARGE)
    small_ones: list[dict[str, float]] = []
    large_ones: list[dict[str, float]] = []
    for _ in range(RUNS):
        small_ones.append(_measured(few))
        large_ones.append(_measured(many))
    took = median(r["plan"] / r["loop"] for r in large_ones)
    best = min(large_ones, key=lambda r: r["plan"] / r["loop"])
    whole = f"{many.servers} servers, {many.clusters} clusters, {many.machines} machines"
    yield Figure(
        what=f"plan from nothing: {whole}",
        measured=f"{seconds(best['plan'])} CPU",
        reference=f"loop of 1 reference second: {seconds(best['loop'])} CPU",
        ratio=took,
        goal=f"{SECONDS:g} s on one core",
        limit=SECONDS,
    )
    memory = max(r["peak"] for r in large_ones)
    bare = min(r["before"] for r in large_ones)
    yield Figure(
        what="peak memory of that process, the declared fleet included",
        measured=size(memory),
        reference=f"before planning: {size(bare)}",
        ratio=memory / 2**20 / MIB,
        goal=f"{MIB} MiB (ratio 1)",
        limit=1.0,
    )
    fewer = median(r["plan"] / r["loop"] for r in small_ones)
    yield Figure(
        what=f"growth from {few.machines} to {many.machines} machines (servers and clusters with them)",
        measured=f"{took:.3f} reference seconds",
        reference=f"{few.machines} machines: {fewer:.3f} reference seconds",
        ratio=took / fewer,
        goal=f"{GROWTH:g} times",
        limit=GROWTH,
    )
    checked = median(r["check"] / r["loop"] for r in large_ones)
    yield Figure(
        what="check of that whole blueprint against the rules",
        measured=f"{seconds(best['check'])} CPU",
        reference=f"loop of 1 reference second: {seconds(best['loop'])} CPU",
        ratio=checked,
    )


def _measured(of: fleet.Size) -> dict[str, float]:
    argv = [sys.executable, "-m", "bench.planning", str(of.servers), str(of.clusters)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _measure(of: fleet.Size) -> dict[str, float]:
    inp = PlanInput(
        spec=fleet.spec_of(fleet.declared(of)),
        inventory=fleet.empty_inventory(of),
        parent=Blueprint(),
        now=fleet.NOW,
        seed=fleet.SEED,
    )
    loops = [cpu_loop(0.25)]
    gc.collect()
    before = peak_memory()
    began = time.process_time()
    result = plan(inp)
    planned = time.process_time() - began
    peak = peak_memory()
    loops += [cpu_loop(0.25), cpu_loop(0.25)]
    began = time.process_time()
    findings = check(inp, result)
    checked = time.process_time() - began
    loops.append(cpu_loop(0.25))
    machines = sum(1 for k in result.delta.changes if k.startswith("machine/"))
    assert machines == of.machines, f"{machines} of {of.machines} machines were planned"
    assert not findings, findings[0]
    return {"plan": planned, "check": checked, "loop": sum(loops), "before": before, "peak": peak}


if __name__ == "__main__":
    print(json.dumps(_measure(fleet.Size(int(sys.argv[1]), int(sys.argv[2])))))
