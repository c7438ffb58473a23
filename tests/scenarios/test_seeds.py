"""A hundred random stories, the same each time: no rule is broken, and in the end all is well or waits for a person."""

from __future__ import annotations

import pytest

from bedplate.sim.fuzz import Job, tell

SEEDS = range(100)
PER_TEST = 10
SHAPES = ((4, 3.0), (6, 4.0), (9, 6.0))
"""Servers and hours, in turns."""


@pytest.mark.parametrize("first", range(0, len(SEEDS), PER_TEST))
def test_seeds(first: int) -> None:
    wrong: list[str] = []
    for seed in SEEDS[first : first + PER_TEST]:
        servers, hours = SHAPES[seed % len(SHAPES)]
        result = tell(Job(seed=seed, servers=servers, hours=hours))
        again = f"bedplate sim fuzz --seeds 1 --first-seed {seed} --servers {servers} --hours {hours:g} --keep DIR"
        wrong += [f"{said}\n  again: {again}" for said in result.wrong]
    assert not wrong, "\n".join(wrong)
