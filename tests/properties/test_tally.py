"""Counts that are kept as machines change are those of a count from nothing, whatever happens to the machines."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bedplate.engine.engine import Engine
from bedplate.engine.projection import Projection
from bedplate.engine.tally import Tally
from bedplate.model.ids import Key
from bedplate.sim.fuzz import Job, tell

EVERY = 20


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_a_count_from_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    flushes = 0
    flush = Projection.flush

    def and_count(self: Projection, engine: Engine, now: float) -> Iterable[object]:
        nonlocal compared, flushes
        shown = list(flush(self, engine, now))
        flushes += 1
        if flushes % EVERY == 0:
            fresh = Tally()
            # A phase is what it was when the machine was last looked at: that is the projection's business.
            fresh.phases = dict(self.tally.phases)
            fresh.take(engine, ())
            for k in (*engine.spec.spec.clusters, *engine.spec.spec.node_pools):
                compared += 1
                assert +self.tally.of_cluster(Key(k)) == +fresh.of_cluster(Key(k)), k
                assert +self.tally.of_owner(Key(k)) == +fresh.of_owner(Key(k)), k
        return shown

    monkeypatch.setattr(Projection, "flush", and_count)
    assert not tell(Job(seed=seed, servers=6, hours=4.0)).wrong
    assert compared > 50
