"""What goes wrong with a step between controller and world, decided beforehand by the number of the step."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Fault(StrEnum):
    """What happens to one step."""

    LOST_REPLY = "lost reply"
    """It is done, nobody hears of it."""
    LATE = "late reply"
    """It is done, and heard of so much later that it may count as unknown by then."""
    LOST_COMMAND = "lost command"
    """Nobody does it, nobody says so."""
    TWICE = "done twice"
    """A repeated delivery does it again a moment later."""
    HALF = "half done"
    """It stops at its first pause."""
    FAILED = "failed"
    """It is refused before it has any effect."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Steps are counted from 0 in the order in which they are run."""

    steps: Mapping[int, Fault] = {}

    def of(self, number: int) -> Fault | None:
        return self.steps.get(number)
