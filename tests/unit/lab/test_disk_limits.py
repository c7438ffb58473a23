"""Limits of a disk's speed: where they are written, on which device, and what is said where they can't be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bedplate.lab.cgroups import Cgroups
from bedplate.lab.disk_limits import V1_FILES, device_of
from bedplate.lab.errors import LabError


def cgroups(folder: Path, *lines: str) -> Cgroups:
    """A host whose cgroups are plain folders."""
    table = folder / "mountinfo"
    table.write_text("".join(line.format(base=folder) + "\n" for line in lines))
    return Cgroups("lab", table)


def test_v1_limits_each_way_and_lifts_both(tmp_path: Path) -> None:
    host = cgroups(
        tmp_path,
        "25 20 0:22 / {base}/blkio rw - cgroup cgroup rw,blkio",
        "26 20 0:23 / {base}/freezer rw - cgroup cgroup rw,freezer",
    )
    joined = host.make("hv1")
    group = tmp_path / "blkio/lab/hv1"
    assert joined == [tmp_path / "freezer/lab/hv1/cgroup.procs", group / "cgroup.procs"]
    for file in V1_FILES:
        (group / file).touch()
    host.limit_disk("hv1", "254:0", 1 << 20)
    assert [(group / file).read_text() for file in V1_FILES] == ["254:0 1048576\n"] * 2
    host.release()
    assert [(group / file).read_text() for file in V1_FILES] == ["254:0 0\n"] * 2


def test_v2_limits_by_its_io_controller(tmp_path: Path) -> None:
    host = cgroups(tmp_path, "30 20 0:24 / {base} rw - cgroup2 cgroup2 rw")
    host.make("hv1")
    group = tmp_path / "lab/hv1"
    (group / "io.max").touch()
    host.limit_disk("hv1", "254:0", 4096)
    assert (group / "io.max").read_text() == "254:0 rbps=4096 wbps=4096\n"
    assert (tmp_path / "lab/cgroup.subtree_control").read_text() == "+io"
    host.release()
    assert (group / "io.max").read_text() == "254:0 rbps=max wbps=max\n"


def test_a_host_that_cannot_says_so(tmp_path: Path) -> None:
    host = cgroups(tmp_path, "26 20 0:23 / {base}/freezer rw - cgroup cgroup rw,freezer")
    host.make("hv1")
    with pytest.raises(LabError, match="can't limit a disk's speed"):
        host.limit_disk("hv1", "254:0", 4096)


def test_the_limit_is_on_the_whole_disk_and_there_must_be_one(tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    with pytest.raises(LabError, match="without a disk of its own"):
        device_of(tmp_path, tmp_path / "none")
    disk = tmp_path / "devices/vda"
    (disk / "vda1").mkdir(parents=True)
    (disk / "dev").write_text("254:0\n")
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / name).symlink_to(disk / "vda1")
    if os.major(number):
        assert device_of(tmp_path, tmp_path / "block") == name
        (disk / "vda1/partition").write_text("1\n")
        assert device_of(tmp_path, tmp_path / "block") == "254:0"
