"""What an agent makes of its server's memory counters, disks and arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.agent.hardware_health import (
    CORRECTED_LIMIT,
    WINDOW_SECONDS,
    MemoryErrors,
    array_problems,
    disk_problems,
    memory_counters,
    worst,
)

DAY = WINDOW_SECONDS


def module(edac: Path, name: str, label: str, corrected: int, uncorrected: int = 0) -> None:
    folder = edac / "mc0" / name
    folder.mkdir(parents=True)
    (folder / "dimm_label").write_text(f"{label}\n")
    (folder / "dimm_ce_count").write_text(f"{corrected}\n")
    (folder / "dimm_ue_count").write_text(f"{uncorrected}\n")


def test_errors_are_told_by_the_label_of_their_module(tmp_path: Path) -> None:
    module(tmp_path, "dimm0", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0", 3)
    module(tmp_path, "dimm1", "CPU_SrcID#0_MC#0_Chan#1_DIMM#0", 0, uncorrected=1)
    found = MemoryErrors().add(0.0, *memory_counters(tmp_path))
    assert worst(found) == "critical"
    assert [p.sentence for p in found] == [
        "memory mc0 CPU_SrcID#0_MC#0_Chan#1_DIMM#0: 1 errors that could not be corrected: replace it"
    ]


def test_a_driver_that_knows_no_modules_tells_by_controller(tmp_path: Path) -> None:
    (tmp_path / "mc1").mkdir()
    (tmp_path / "mc1/ce_count").write_text("7")
    (tmp_path / "mc1/ue_count").write_text("0")
    assert memory_counters(tmp_path) == ({"mc1": 7}, {"mc1": 0})
    assert memory_counters(tmp_path / "nothing") == ({}, {})


@given(st.lists(st.tuples(st.floats(1.0, DAY), st.integers(0, 2 * CORRECTED_LIMIT)), min_size=1, max_size=20))
def test_corrected_errors_count_within_a_day(steps: list[tuple[float, int]]) -> None:
    """Whatever was counted before the agent began, and however long ago: only a day's errors speak against a module."""
    errors, now, count = MemoryErrors(), 0.0, 1_000
    told = [(now, count)]
    assert not errors.add(now, {"dimm": count}, {})
    for seconds, more in steps:
        now, count = now + seconds, count + more
        told.append((now, count))
        first = next(c for t, c in told if t >= now - DAY)
        found = errors.add(now, {"dimm": count}, {})
        assert worst(found) == ("warning" if count - first >= CORRECTED_LIMIT else "")


def test_a_counter_that_begins_anew_speaks_against_nobody() -> None:
    errors = MemoryErrors()
    errors.add(0.0, {"dimm": 500}, {})
    assert not errors.add(300.0, {"dimm": 0}, {})
    assert errors.add(600.0, {"dimm": CORRECTED_LIMIT}, {})


NVME = {"serial_number": "S1", "smart_status": {"passed": False, "nvme": {"value": 4}}}
SATA = {
    "serial_number": "S2",
    "smart_status": {"passed": True},
    "ata_smart_attributes": {
        "table": [{"id": 5, "raw": {"value": 8}}, {"id": 197, "raw": {"value": 2}}, {"id": 198, "raw": {"value": 0}}]
    },
}


@pytest.mark.parametrize(
    ("said", "severity", "sentence"),
    [
        (NVME, "critical", "disk S1 says that it is failing: replace it"),
        (SATA, "warning", "disk S2 has 2 sectors that can't be read (pending)"),
        ({"serial_number": "S3", "smart_status": {"passed": True}}, "", ""),
        ({"device": {"name": "/dev/vda"}}, "", ""),
    ],
    ids=["fails", "unreadable", "well", "does not tell"],
)
def test_disks(said: dict[str, Any], severity: str, sentence: str) -> None:
    found = disk_problems(json.loads(json.dumps(said)))
    assert worst(found) == severity
    assert "; ".join(p.sentence for p in found) == sentence


def test_an_array_that_lacks_a_disk(tmp_path: Path) -> None:
    for name, missing in (("md0", 1), ("md1", 0)):
        (tmp_path / name / "md").mkdir(parents=True)
        (tmp_path / name / "md/degraded").write_text(f"{missing}\n")
    assert [p.sentence for p in array_problems(tmp_path)] == ["array md0 lacks 1 of its disks"]
