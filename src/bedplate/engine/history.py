"""How a step's end changes the history of its target: one rule for the engine's memory and for whatever keeps it."""

from __future__ import annotations

import msgspec

from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import ClusterEntry, MachineEntry
from bedplate.model.ids import Generation
from bedplate.model.steps import Bootstrap, Done, Failed, Refused, Step, StepResult, Unknown

PERMANENT = 10
"""A failure that trying again can't help counts as so many, past every limit."""


def begun(history: Attempt, step: Step, now: float) -> Attempt:
    """The history once a try has begun."""
    return msgspec.structs.replace(history, first=history.first or now, running=True, generation=generation_of(step))


def ended(history: Attempt, step: Step, result: StepResult, now: float) -> Attempt:
    """The history once a try has ended."""
    match result:
        case Done():
            # A bootstrap only starts kubeadm: that it failed is seen later, and is not forgotten by starting it again.
            kept = history if isinstance(step, Bootstrap) else Attempt()
            return Attempt(
                count=kept.count,
                last=history.last,
                last_error=kept.last_error,
                last_error_reason=kept.last_error_reason,
                succeeded=now,
                generation=generation_of(step),
            )
        case Failed():
            return failed(history, result.reason, result.message, now, PERMANENT if result.permanent else 1)
        case Refused():
            return failed(history, "Refused", result.message, now)
        case Unknown():
            return failed(history, "Unknown", result.message, now)


def failed(history: Attempt, reason: str, message: str, now: float, count: int = 1) -> Attempt:
    """The history with one more failure."""
    return msgspec.structs.replace(
        history,
        first=history.first or now,
        last=now,
        count=history.count + count,
        last_error_reason=reason,
        last_error=message,
        running=False,
    )


def generation_of(step: Step) -> Generation:
    """Generation of the entry that the step acts for, 0 where there is none."""
    for part in (getattr(step, "machine", None), getattr(step, "cluster", None)):
        if isinstance(part, MachineEntry | ClusterEntry):
            return part.generation
    return getattr(step, "generation", Generation(0))
