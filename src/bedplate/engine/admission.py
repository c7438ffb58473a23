"""Which wanted steps may begin now: one per target and lane, few per server and kind, none before its backoff."""

from __future__ import annotations

import zlib
from collections import Counter

from bedplate.model.attempts import Attempt
from bedplate.model.ids import Key, OperationId
from bedplate.model.journal import OperationRecord
from bedplate.model.policy import Policy
from bedplate.model.steps import (
    LANES,
    BootDisk,
    BootMedia,
    Bootstrap,
    DrainNode,
    EraseDisks,
    InspectServer,
    InstallAddons,
    MarkOutOfService,
    MigrateDomain,
    PowerOff,
    PowerOn,
    PullImage,
    RamStep,
    ReadPower,
    RunTests,
    Step,
    StopDomain,
    WriteImage,
)

# Seconds a driver has for a step before its outcome counts as unknown.
_DEADLINE_DEFAULT = 120.0
_DEADLINES: dict[type[object], float] = {
    PullImage: 3600.0,  # a few GB over a slow management network
    Bootstrap: 300.0,  # only hands over the payload; kubeadm's own time is watched, not waited for
    InstallAddons: 300.0,
    ReadPower: 20.0,  # a slow BMC takes 5 s per answer, and a lost answer is asked for again
    PowerOff: 60.0,  # ordered, then read back twice
    PowerOn: 60.0,
    BootMedia: 300.0,  # a BMC takes its time to fetch and insert a medium
    BootDisk: 180.0,
    InspectServer: 600.0,
    # A burn-in takes hours, an overwrite a day: asked again, the RAM system goes on with what it is at.
    RunTests: 3600.0,
    WriteImage: 1800.0,
    EraseDisks: 3600.0,
    MarkOutOfService: 15.0,  # meanwhile its machine starts; what it saw of the node is old soon
}

_MIGRATION_FIXED = 120.0
_MIGRATION_MIB_PER_SECOND = 50.0
"""A move that is slower than half of a 1 Gbit/s link does not converge with a guest that writes to its memory."""
_BACKOFF_LIMITS = {"PowerOff": 15.0}
"""Seconds at most between tries of what much else waits for."""


def deadline(step: Step) -> float:
    """Seconds that the driver has for this step."""
    if isinstance(step, DrainNode):
        return step.machine.drain_timeout + 60.0
    if isinstance(step, StopDomain):
        return step.grace + 60.0
    if isinstance(step, MigrateDomain):
        return _MIGRATION_FIXED + step.machine.memory_mib / _MIGRATION_MIB_PER_SECOND
    return _DEADLINES.get(type(step), _DEADLINE_DEFAULT)


def backoff(policy: Policy, attempt: Attempt, target: Key, step: str, seed: int) -> float:
    """Seconds to wait after the last failure: doubled each time, up to a limit, with up to 25 % jitter off the top.

    The jitter comes from the seed, so that the same history is the same again.
    """
    if attempt.count == 0:
        return 0.0
    limit = _BACKOFF_LIMITS.get(step, policy.backoff_limit)
    full = min(limit, policy.backoff_first * 2.0 ** min(attempt.count - 1, 30))
    share = zlib.crc32(f"{seed}/{target}/{step}/{attempt.count}".encode()) / 2**32
    return full * (1.0 - 0.25 * share)


_SERVER = "on server "
_IN_RAM = "in RAM systems, "


def bounds(step: Step) -> tuple[str, ...]:
    """Names of the bounds that the step counts under: its kind and, where it has one, its server."""
    kind = f"{_IN_RAM if isinstance(step, RamStep) else ''}of kind {step.name}"
    return (f"{_SERVER}{step.server}", kind) if step.server else (kind,)


class InFlight:
    """The operations that were begun and have not ended."""

    def __init__(self) -> None:
        self.operations: dict[OperationId, OperationRecord] = {}
        self._by_target: dict[tuple[Key, str], OperationId] = {}
        self._running: Counter[str] = Counter()

    def on(self, target: Key, lane: str = "") -> OperationRecord | None:
        """The operation on that target in that lane, if one is in flight."""
        found = self._by_target.get((target, lane))
        return None if found is None else self.operations[found]

    def all_on(self, target: Key) -> list[OperationRecord]:
        """The operations on that target, one per lane."""
        return [found for lane in LANES if (found := self.on(target, lane)) is not None]

    def has_room(self, policy: Policy, bound: str) -> bool:
        """True where one more step may run under that bound (see `bounds`)."""
        if bound.startswith(_SERVER):
            return self._running[bound] < policy.steps_per_server
        return self._running[bound] < (policy.steps_in_ram if bound.startswith(_IN_RAM) else policy.steps_per_kind)

    def add(self, operation: OperationRecord) -> None:
        step = operation.step
        self.operations[operation.id] = operation
        self._by_target[step.target, step.lane] = operation.id
        self._running.update(bounds(step))

    def remove(self, operation: OperationId) -> OperationRecord | None:
        """Take it out; None where it is not known (an answer of an earlier life)."""
        found = self.operations.pop(operation, None)
        if found is None:
            return None
        step = found.step
        self._by_target.pop((step.target, step.lane), None)
        self._running.subtract(bounds(step))
        return found
