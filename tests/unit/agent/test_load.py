"""The load: means over five minutes, told when they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bedplate.agent.load import SAMPLE_SECONDS, TELL_SECONDS, LoadWindow, ProcessTimes
from bedplate.model.ids import MachineUid, ServerName
from bedplate.model.inventory import LoadView

A, B = MachineUid("a"), MachineUid("b")


class Load:
    """A server with eight CPUs whose use the test sets, in cores."""

    def __init__(self) -> None:
        self.window = LoadWindow(ServerName("hv1"), 8)
        self.now = 0.0
        self.used: dict[str, float] = {"server": 0.0}
        self.told: list[LoadView] = []

    def run(self, samples: int, server: float, **machines: float) -> list[LoadView]:
        before = len(self.told)
        for _ in range(samples):
            self.now += SAMPLE_SECONDS
            for name, cores in {"server": server, **machines}.items():
                self.used[name] = self.used.get(name, 0.0) + cores * SAMPLE_SECONDS
            seconds = {MachineUid(name): self.used[name] for name in machines}
            view = self.window.add(self.now, self.used["server"], seconds)
            if view is not None:
                self.told.append(view)
        return self.told[before:]


def test_what_is_steady_is_told_once_and_then_every_ten_minutes() -> None:
    load = Load()
    first = load.run(2, 4.0, a=1.0, b=2.0)
    assert [(v.cpu, [(m.uid, m.cpu, m.deviation) for m in v.machines]) for v in first] == [
        (4.0, [(A, 1.0, 0.0), (B, 2.0, 0.0)])
    ]
    assert load.run(int(TELL_SECONDS / SAMPLE_SECONDS) - 1, 4.0, a=1.0, b=2.0) == []
    assert len(load.run(2, 4.0, a=1.0, b=2.0)) == 1


def test_a_change_of_a_tenth_of_the_server_is_told_and_a_smaller_one_is_not() -> None:
    load = Load()
    load.run(31, 4.0, a=1.0)
    assert load.run(25, 4.7, a=1.7) == []
    (told,) = load.run(6, 6.0, a=1.7)
    assert told.cpu == pytest.approx(4.0 + 0.8, abs=0.3)


def test_a_machine_that_got_busy_or_went_is_told() -> None:
    load = Load()
    load.run(31, 4.0, a=1.0)
    told = load.run(30, 4.0, a=3.0)
    assert 1 <= len(told) <= 3
    assert told[-1].machines[0].deviation > 0
    (gone,) = load.run(1, 4.0)
    assert gone.machines == ()


def test_a_counter_that_began_anew_counts_from_there() -> None:
    load = Load()
    load.run(2, 4.0, a=1.0)
    load.used["a"] = 0.0  # it moved away and came back
    load.run(60, 4.0, a=1.0)
    assert all(m.cpu == pytest.approx(1.0, abs=0.1) for v in load.told for m in v.machines)


def test_seconds_of_this_server_grow() -> None:
    times = ProcessTimes()
    before = times.seconds()
    sum(range(3_000_000))
    assert times.seconds() >= before >= 0


def test_a_whole_server_is_read_from_the_kernels_counters(tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[4026531836]")
    (tmp_path / "stat").write_text("cpu  100 10 50 9999 7 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert ProcessTimes(tmp_path).seconds() == pytest.approx(1.66)
