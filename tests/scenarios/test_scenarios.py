"""Every scenario holds, for each of its seeds and each moment at which its controller is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bedplate.sim.scenario.folder import load
from bedplate.sim.scenario.play import tellings

FOLDERS = sorted(p.parent for p in Path(__file__).parent.glob("*/world.yaml"))
SEEDS = (1, 2)


def test_there_are_as_many_as_were_promised() -> None:
    assert len(FOLDERS) >= 40


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_scenario(folder: Path) -> None:
    scenario = load(folder)
    for seed in SEEDS:
        for play in tellings(scenario, seed):
            outcome = play.run()
            if outcome.broken:
                told = [f"seed {outcome.seed}, killed before command {outcome.kill}:"]
                told += [f"  {v.text}\n    {v.wrong}" for v in outcome.broken]
                pytest.fail("\n".join([*told, "history:", *play.sim.trace[-80:]]), pytrace=False)
