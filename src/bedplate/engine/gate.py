"""The gate before the drivers: lets wanted steps begin, and remembers who waits for what.

What waits for a time is given back by `due`; what waits for room under a bound comes in turn, first come first served.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from bedplate.engine.admission import InFlight, backoff, bounds
from bedplate.engine.wanted import Next
from bedplate.model.attempts import Attempt
from bedplate.model.ids import Key
from bedplate.model.policy import Policy
from bedplate.model.report import Waiting
from bedplate.model.steps import Step

FOREVER = float("inf")


class Gate:
    """Who may begin a step now, under the policy's bounds and after failures' backoff (jitter from the seed)."""

    def __init__(self, policy: Policy, seed: int, flight: InFlight) -> None:
        self._policy = policy
        self._seed = seed
        self._flight = flight
        self._wakeups: list[tuple[float, Key]] = []
        self._crowded: dict[str, dict[Key, None]] = {}  # by bound: who waits for room under it, in order
        self._freed: set[str] = set()

    def hold(self, k: Key, step: Step, history: Attempt, now: float) -> Next | None:
        """What the step waits on, remembered so that `k` is looked at again then; None where it may begin now."""
        ready_at = history.last + backoff(self._policy, history, step.target, step.name, self._seed)
        if history.count and ready_at > now:
            self.wake(k, ready_at)
            why = f"{step.name} failed {history.count} times, last: {history.last_error}"
            return Next(waiting=Waiting.BACKOFF, reason=why)
        visible_at = history.succeeded + self._policy.settle if history.succeeded else 0.0
        if visible_at > now:
            self.wake(k, visible_at)
            return Next(waiting=Waiting.STEP, reason=f"{step.name} ended well; its effect is not seen yet")
        if self._flight.on(step.target, step.lane) is not None:
            return Next(waiting=Waiting.STEP, reason=f"{step.name} is running")
        for bound in bounds(step):
            if not self._flight.has_room(self._policy, bound):
                self._crowded.setdefault(bound, {})[k] = None
                return Next(waiting=Waiting.CAPACITY, reason=f"enough steps are running already ({bound})")
        return None

    def wake(self, k: Key, at: float) -> None:
        """Give `k` back by `due` at that time (seconds since the epoch)."""
        heapq.heappush(self._wakeups, (at, k))

    def due(self, now: float) -> set[Key]:
        """Whose time has come; each is given once."""
        found: set[Key] = set()
        while self._wakeups and self._wakeups[0][0] <= now:
            found.add(heapq.heappop(self._wakeups)[1])
        return found

    @property
    def next_time(self) -> float:
        """When `due` gives something next; infinity where nothing waits for a time."""
        return self._wakeups[0][0] if self._wakeups else FOREVER

    def ended(self, step: Step) -> None:
        """A step has ended: there may be room under its bounds."""
        self._freed.update(bounds(step))

    def refill(self, look_at: Callable[[Key], None]) -> None:
        """Where steps ended, let as many go on as there is room for now."""
        for bound in sorted(self._freed):
            waiting = self._crowded.get(bound, {})
            while waiting and self._flight.has_room(self._policy, bound):
                k = next(iter(waiting))
                del waiting[k]
                look_at(k)
        self._freed.clear()
