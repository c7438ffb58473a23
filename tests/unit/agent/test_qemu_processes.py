"""QEMU's processes: found by the disks that they have open, ended at once, nobody else touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bedplate.agent.qemu_processes import Guest, guests_on, kill
from bedplate.model.ids import MachineUid


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return tmp_path / "pool"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def disk(pool: Path) -> tuple[MachineUid, Path]:
    uid = MachineUid(str(uuid.uuid4()))
    path = pool / "machines" / uid / "disk.qcow2"
    path.parent.mkdir(parents=True)
    path.touch()
    return uid, path


def process(tmp_path: Path, name: str, opens: Path) -> subprocess.Popen[bytes]:
    """A process of that name with a file open."""
    program = tmp_path / name
    if not program.exists():
        shutil.copy("/bin/sleep", program)
    with opens.open("rb") as file:
        made = subprocess.Popen([program, "600"], stdin=file)
    comm = Path(f"/proc/{made.pid}/comm")
    end = time.monotonic() + 60
    while comm.read_text().strip() != name[:15] and time.monotonic() < end:
        os.sched_yield()
    return made


def test_those_with_a_disk_of_the_pool_open_are_found_and_ended(
    pool: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (mine, here), (_, elsewhere) = disk(pool), disk(tmp_path / "pool2")
    started += [
        process(tmp_path, "qemu-system-x86_64", here),
        process(tmp_path, "qemu-system-x86_64", elsewhere),
        process(tmp_path, "backup", here),
    ]
    assert guests_on([str(pool)]) == [Guest(mine, started[0].pid)]
    assert kill(guests_on([str(pool)]), 20) == []
    assert guests_on([str(pool)]) == []
    assert [p.poll() for p in started[1:]] == [None, None]
    assert started[0].wait(20) == -9


def test_a_pool_that_a_link_leads_to_is_known_by_both_names(
    pool: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    mine, here = disk(pool)
    link = tmp_path / "link"
    link.symlink_to(pool)
    started.append(process(tmp_path, "qemu-system-x86_64", here))
    assert guests_on([str(link)]) == []
    assert [g.uid for g in guests_on({str(link), os.path.realpath(link)})] == [mine]


def test_a_number_that_became_another_process_is_not_killed(
    pool: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    mine, here = disk(pool)
    started.append(process(tmp_path, "backup", here))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert kill([Guest(mine, started[0].pid), Guest(mine, gone.pid)], 0) == [Guest(mine, started[0].pid)]
    assert started[0].poll() is None
