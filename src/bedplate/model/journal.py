"""The journal's nouns: a step is written down before it has any effect, and how it ended is written after."""

from __future__ import annotations

import msgspec

from bedplate.model.ids import Epoch, OperationId
from bedplate.model.steps import Step, StepResult


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One try of one step. Times are seconds since the epoch."""

    id: OperationId
    step: Step
    epoch: Epoch
    attempt: int = 1
    started: float
    reason: str = ""
    """Why the step was taken, in a sentence."""
    finished: float | None = None
    result: StepResult | None = None
