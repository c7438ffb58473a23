"""Finds the moves: always one of the best that are left, until none is worth it.

Every server has an upper bound of what a move away from it may gain. The few servers with the highest are looked at in
full, all their machines to all servers, and the best move there is made. A server at which nothing was found is left
out until all are; then, if anything moved since, they are looked at once more. So the end is a true one: no single move
is left that is worth it, which is also why a second search finds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bedplate.model.ids import MachineUid, ServerName
from bedplate.planner.balancing import waves
from bedplate.planner.balancing.exchange import Exchanges
from bedplate.planner.balancing.placement import Placement
from bedplate.planner.balancing.problem import Move, Plan, Problem, Stays, Step
from bedplate.planner.balancing.reserve import Reserve
from bedplate.planner.balancing.score import Floats, Unevenness
from bedplate.planner.balancing.worth import SHOULD, Bools, Worth, stays

LOOK_AT = 8
"""Servers that are looked at in full for one move: more find hardly better ones and cost as much each."""
TRIES = 32
"""Moves of one server that are tried against the reserve before it is left."""


class Score(Protocol):
    """What search asks of a measure of a fleet; higher gains are better."""

    demand: Floats
    """By machine and resource."""

    def gains(self, source: int, demand: Floats, targets: NDArray[np.int64]) -> Floats:
        """What moving that demand from the source to each target gains."""
        ...

    def potential(self, largest: Floats, takes: Bools) -> Floats:
        """By server: which to look at first. `largest`: by server, the most that a machine there uses."""
        ...

    def move(self, machine: int, source: int, target: int) -> None:
        """Keep up."""
        ...


class Gates(Protocol):
    """What search asks before it takes a move."""

    def quiet(self, source: int) -> Stays | None:
        """Why no load moves away from that server, whatever the machine; None where it may."""
        ...

    def gates(self, source: int, machines: Sequence[int], gains: Floats, relief: Floats) -> list[tuple[Stays, Bools]]:
        """By machine and server: each reason not to, and who passes it."""
        ...

    def exchange(self, gain: float, source: int, target: int, machines: tuple[int, int]) -> bool:
        """Two machines that change places are worth it."""
        ...


class Search:
    """One search. `steps` are the moves so far; placement and score are those after them."""

    def __init__(
        self, placement: Placement, score: Score, worth: Gates, may_move: Sequence[bool], reserve: Reserve | None = None
    ) -> None:
        self.placement, self.score, self.worth, self.reserve = placement, score, worth, reserve
        self.may_move = list(may_move)
        self.steps: list[Step] = []
        self.stays: dict[int, Stays] = {}
        """Why machines stay that may move, as last seen."""
        self.servers = np.arange(len(placement.servers))
        self._found_nothing = np.zeros(len(placement.servers), dtype=np.bool_)
        self._largest = np.zeros((len(placement.servers), score.demand.shape[1]))
        for server in range(len(placement.servers)):
            self._note_largest(server)

    def run(self, limit: int, *, exchanges: bool = False, again: bool = False) -> None:
        """Move until nothing is worth it or the limit of moves is reached."""
        swaps = Exchanges(self) if exchanges else None
        looked_at = 0
        while len(self.steps) < limit:
            step = self._best()
            pair = swaps.best() if step is None and swaps is not None and len(self.steps) + 2 <= limit else None
            for one in [step] if step is not None else pair or ():
                self._make(one, again)
                if swaps is not None:
                    swaps.moved(one)
            if step is not None or pair is not None:
                continue
            if looked_at == len(self.steps):
                break
            looked_at = len(self.steps)
            self._found_nothing[:] = False
            if swaps is not None:
                swaps.forget()

    def may(self, machine: int, target: int) -> bool:
        """The move keeps every hard limit."""
        if not self.placement.may(machine, target):
            return False
        return self.reserve is None or self.reserve.may(*self._named(machine, target))

    def shift(self, machine: int, target: int) -> None:
        """Move it for the limits only, not for the score."""
        self.placement.move(machine, target)
        if self.reserve is not None:
            self.reserve.move(*self._named(machine, target))

    def _make(self, step: Step, again: bool) -> None:
        self.shift(step.machine, step.target)
        self.score.move(step.machine, step.source, step.target)
        self.steps.append(step)
        self.may_move[step.machine] = again
        for server in (step.source, step.target):
            self._found_nothing[server] = False
            self._note_largest(server)

    def _note_largest(self, server: int) -> None:
        machines = self.movable(server)
        self._largest[server] = self.score.demand[machines].max(axis=0) if machines else 0.0

    def movable(self, server: int) -> list[int]:
        """Machines there that may move."""
        return [m for m in self.placement.on[server] if self.may_move[m]]

    def order(self) -> NDArray[np.int64]:
        """Servers, the most promising first."""
        return np.argsort(-self.score.potential(self._largest, self.placement.takes), kind="stable")

    def _best(self) -> Step | None:
        order = self.order()
        order = order[~self._found_nothing[order]]
        for start in range(0, len(order), LOOK_AT):
            best: Step | None = None
            for server in order[start : start + LOOK_AT]:
                step = self._best_from(int(server))
                if step is None:
                    self._found_nothing[server] = True
                elif best is None or step.gain > best.gain:
                    best = step
            if best is not None:
                return best
        return None

    def _best_from(self, source: int) -> Step | None:
        """The best move away from that server; None: none is worth it, and `stays` says why."""
        machines = self.movable(source)
        quiet = self.worth.quiet(source)
        if quiet is not None:
            self.stays.update(dict.fromkeys(machines, quiet))
            machines = [m for m in machines if self.placement.rules.wish_broken(m, source)]
        if not machines:
            return None
        relief = self._relief(source, machines)
        gains = self.score.gains(source, self.score.demand[machines][:, None, :], self.servers) + relief
        passed = self.placement.eligible(machines)
        passed[:, source] = False
        reasons = [Stays.NO_ROOM] * len(machines)
        for word, gate in (
            *self.worth.gates(source, machines, gains, relief),
            (Stays.NO_ROOM, self.placement.fits(machines)),
        ):
            before = passed.any(axis=1)
            passed &= gate
            for row in np.flatnonzero(before & ~passed.any(axis=1)):
                reasons[row] = word
        step = self._first_kept(source, machines, np.where(passed, gains, -np.inf), reasons)
        self.stays.update(zip(machines, reasons, strict=True))
        return step

    def _relief(self, source: int, machines: Sequence[int]) -> Floats:
        relief = np.zeros((len(machines), len(self.servers)))
        for row, machine in enumerate(machines):
            if self.placement.rules.wished(machine):
                relief[row] = SHOULD * self.placement.rules.relief(machine, source)
        return relief

    def _first_kept(self, source: int, machines: Sequence[int], gains: Floats, reasons: list[Stays]) -> Step | None:
        """The best of them that leaves the reserve as it is or better."""
        for _ in range(TRIES):
            row, target = divmod(int(gains.argmax()), gains.shape[1])
            gain = float(gains[row, target])
            if gain == -np.inf:
                return None
            if self.reserve is None or self.reserve.may(*self._named(machines[row], target)):
                return Step(machines[row], source, target, gain)
            gains[row, target] = -np.inf
            reasons[row] = Stays.RESERVE
        return None

    def _named(self, machine: int, server: int) -> tuple[MachineUid, ServerName]:
        return self.placement.machines[machine].uid, self.placement.servers[server].name


def balance(problem: Problem) -> Plan:
    """Moves that even out the fleet, best first. Pure: the same facts in any order give the same answer."""
    terms = problem.terms
    placement = Placement(problem)
    score = Unevenness(placement.servers, placement.machines, placement.where)
    worth = Worth(placement.machines, score, terms)
    fixed = [stays(m, terms) for m in placement.machines]
    reserve = Reserve(problem, terms.reserve) if terms.reserve is not None and terms.reserve.servers else None
    search = _Recorded(placement, score, worth, [why is None for why in fixed], reserve)
    before = score.unevenness()
    search.run(terms.moves, exchanges=terms.exchanges, again=terms.again)
    why: list[Stays] = []
    moved = {step.machine for step in search.steps}
    full = len(search.steps) >= terms.moves
    for machine, stuck in enumerate(fixed):
        if machine in moved:
            why.append(Stays.MOVED)
        else:
            why.append(stuck or (Stays.LATER if full else search.stays.get(machine, Stays.WELL_PLACED)))
    counts = Counter(why)
    return Plan(
        moves=_moves(problem, search, worth),
        before=before,
        after=score.unevenness(),
        stays={word: counts[word] for word in Stays if counts[word]},
    )


class _Recorded(Search):
    """A search that notes the unevenness after each step."""

    def __init__(
        self,
        placement: Placement,
        score: Unevenness,
        worth: Gates,
        may_move: Sequence[bool],
        reserve: Reserve | None,
    ) -> None:
        super().__init__(placement, score, worth, may_move, reserve)
        self._measured = score
        self.left: list[float] = []

    def _make(self, step: Step, again: bool) -> None:
        super()._make(step, again)
        self.left.append(self._measured.unevenness())


def _moves(problem: Problem, search: _Recorded, worth: Worth) -> tuple[Move, ...]:
    servers, machines = search.placement.servers, search.placement.machines
    ordered = waves.assign(problem, [(s.machine, s.source, s.target) for s in search.steps], servers, machines)
    return tuple(
        Move(
            machine=machines[step.machine].uid,
            source=servers[step.source].name,
            target=servers[step.target].name,
            gain=step.gain * problem.terms.horizon,
            cost=worth.costs[step.machine].core_seconds,
            seconds=worth.costs[step.machine].seconds,
            memory_mib=machines[step.machine].memory_mib,
            unevenness=left,
            wave=wave,
        )
        for step, left, wave in zip(search.steps, search.left, ordered, strict=True)
    )
