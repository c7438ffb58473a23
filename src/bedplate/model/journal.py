"""The journal's nouns: a step is written down before it has any effect, and how it ended is written after."""

from __future__ import annotations

import msgspec

from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import ClusterEntry, MachineEntry, MetalEntry
from bedplate.model.ids import Epoch, Generation, OperationId
from bedplate.model.steps import Bootstrap, Done, Failed, Refused, Step, StepResult, Unknown


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One try of one step. Times are seconds since the epoch."""

    id: OperationId
    step: Step
    epoch: Epoch
    attempt: int = 1
    started: float
    reason: str = ""
    """Why the step was taken, in a sentence."""
    waited: str = ""
    """What its object waited on just before (a `Waiting`); empty: on nothing."""
    finished: float | None = None
    result: StepResult | None = None


def after(history: Attempt, step: Step, result: StepResult, now: float) -> Attempt:
    """Give the history after a try ended. The engine and the store go by this, so that a restart changes nothing."""
    match result:
        case Done():
            kept = history.count if isinstance(step, Bootstrap) else 0  # its failures are only seen later
            return Attempt(
                count=kept,
                last=history.last,
                last_error=history.last_error if kept else "",
                last_error_reason=history.last_error_reason if kept else "",
                succeeded=now,
                generation=generation_of(step),
                done=generation_of(step),
            )
        case Failed():
            return failed(history, result.reason, result.message, now, permanent=result.permanent)
        case Refused():
            return failed(history, "Refused", result.message, now)
        case Unknown():
            return failed(history, "Unknown", result.message, now)


_PERMANENT = 10
"""A failure that trying again can't mend counts as so many, so that the longest wait comes at once."""


def failed(history: Attempt, reason: str, message: str, now: float, *, permanent: bool = False) -> Attempt:
    """Give the history after a failure."""
    return msgspec.structs.replace(
        history,
        first=history.first or now,
        last=now,
        count=history.count + (_PERMANENT if permanent else 1),
        last_error_reason=reason,
        last_error=message,
        running=False,
    )


def begun(history: Attempt, step: Step, now: float) -> Attempt:
    """Give the history while a try runs."""
    return msgspec.structs.replace(history, first=history.first or now, running=True, generation=generation_of(step))


def generation_of(step: Step) -> Generation:
    """Generation of the entry that the step acts for, 0 where there is none."""
    for part in (getattr(step, n, None) for n in ("entry", "machine", "cluster")):
        if isinstance(part, MetalEntry | MachineEntry | ClusterEntry):
            return part.generation
    return getattr(step, "generation", Generation(0))
