"""The same seed gives the same history in every process: no decision hangs on the order in which a set is walked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TELLING = """
import hashlib, sys
from bedplate.sim import fuzz_play
from bedplate.sim.fuzz import Job
from bedplate.sim.scenario import opening
for seed in map(int, sys.argv[1:]):
    story = Job(seed=seed, servers=12, hours=12).story()
    sim = opening.simulator(story.setting, seed=story.setting.seed, keep=True)
    opening.begin(sim, story.setting, within=story.script.ready_within)
    fuzz_play.tell(sim, story, began=0)
    shown = "\\n".join([*sim.trace, *map(repr, sim.store.objects.values())])
    print(seed, sim.events, hashlib.sha256(shown.encode()).hexdigest())
"""


@pytest.mark.parametrize("seeds", [(770_020, 770_031), (1_210_000, 1_210_001, 1_210_002)])
def test_a_seed_tells_the_same_whatever_the_hashes(seeds: tuple[int, ...]) -> None:
    """770020: a server in maintenance falls silent, of which two units speak; the last one to be walked won."""
    told = [
        subprocess.run(
            [sys.executable, "-c", TELLING, *map(str, seeds)],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hashes in ("1", "2")
    ]
    assert told[0].count("\n") == len(seeds)
    assert told[0] == told[1]
