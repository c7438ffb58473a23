"""What planning may know of earlier tries: per target and step, when it was first tried, how often it failed, why."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bedplate.model.ids import Generation, Key


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """The history of one step on one target. Times are seconds since the epoch; 0: never."""

    first: float = 0.0
    """First try since the last success or change of generation."""
    last: float = 0.0
    count: int = 0
    """Failures in a row."""
    last_error_reason: str = ""
    last_error: str = ""
    running: bool = False
    succeeded: float = 0.0
    """When it last ended well."""
    generation: Generation = Generation(0)
    """Generation of the entry it was tried for (machines, bare servers), else 0."""
    done: Generation = Generation(0)
    """The same of when it last ended well: a try for a later one that failed does not make that success its own."""

    def of(self, generation: Generation) -> Attempt:
        """The history as far as it is of that generation of the entry."""
        if self.generation != generation:
            return Attempt()
        return self if self.done == generation else msgspec.structs.replace(self, succeeded=0.0)


Attempts = Mapping[str, Attempt]
"""By the step's name, such as `StartDomain`."""

AttemptsByTarget = Mapping[Key, Attempts]
