"""How many machines of a pool a roll-out may make and take at a time: surge first, availability kept.

The arithmetic is that of Kubernetes' Deployments, so that `maxSurge` and `maxUnavailable` mean what people expect.
"""

from __future__ import annotations

from collections.abc import Mapping

from bedplate.model.blueprint import MachineEntry
from bedplate.model.kinds.base import Rollout
from bedplate.planner.scope import Scope


def surge(rollout: Rollout) -> int:
    """Machines beyond the declared number; at least one where none may be missing."""
    return max(rollout.max_surge, 0 if rollout.max_unavailable > 0 else 1)


def creatable(rollout: Rollout, replicas: int, run: int, old: int) -> int:
    """How many new machines may be made now, with `run` there of which `old` are outdated."""
    return max(0, min(replicas - (run - old), replicas + surge(rollout) - run))


def removable(s: Scope, rollout: Rollout, replicas: int, run: list[MachineEntry], old: Mapping[str, str]) -> int:
    """How many outdated machines may go now.

    New machines that are not Ready yet are as good as not there; the least available number must remain without them.
    """
    unready_new = sum(1 for m in run if m.uid not in old and not s.ready(m))
    least = replicas - rollout.max_unavailable
    return max(0, min(len(old), len(run) - least - unready_new))
