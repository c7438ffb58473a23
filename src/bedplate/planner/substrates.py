"""Where node pools of `substrate: auto` go: the fleet's policy decides, not more often than it allows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.kinds.cluster import NodePool
from bedplate.model.kinds.fleet import SubstratePolicy
from bedplate.model.labels import matches
from bedplate.planner.context import Planning

Chosen = Literal["vm", "metal"]


def wanted(policy: SubstratePolicy, pool: NodePool) -> tuple[Chosen, str]:
    """What the policy says of a pool, and by what."""
    for n, rule in enumerate(policy.rules, start=1):
        if matches(rule.match, pool.metadata.labels):
            labels = ", ".join(f"{k}={v}" for k, v in sorted(rule.match.items())) or "all"
            because = f", as {rule.reason}" if rule.reason else ""
            return rule.use, f"rule {n} of the fleet's policy ({labels}){because}"
    return policy.otherwise, "no rule of the fleet's policy fits"


def resolved(p: Planning, pool: NodePool, run: Sequence[MachineEntry]) -> NodePool:
    """The pool with the substrate that it is to be on now.

    Args:
        run: Its machines that are to run. Where they are is kept while the youngest is younger than the policy's
            `holdSeconds`: two edits in a row move a pool once.
    """
    if pool.spec.machine.substrate != "auto":
        return pool
    policy = p.spec.fleet.substrate
    substrate, _ = wanted(policy, pool)
    moved = [m for m in run if m.substrate != substrate]
    if moved and len(moved) == len(run):
        until = max(m.created for m in run) + policy.hold_seconds
        p.at(until)
        if until > p.now:
            substrate = moved[0].substrate
    machine = msgspec.structs.replace(pool.spec.machine, substrate=substrate)
    return msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, machine=machine))
