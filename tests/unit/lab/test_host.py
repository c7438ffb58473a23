"""What is read about the host: cgroups, mounts, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bedplate.lab import libvirt_config, preflight
from bedplate.lab.cgroups import Cgroups
from bedplate.lab.config import LabNetwork, LabState, new_hypervisor
from bedplate.lab.errors import LabError

HYBRID = """\
25 20 0:22 / {base}/cpu rw,relatime - cgroup cgroup rw,cpu
26 20 0:23 / {base}/freezer rw,relatime - cgroup cgroup rw,freezer
27 20 0:24 / {base}/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""


def test_cgroups_are_found_on_hybrid_pure_and_bare_hosts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(HYBRID.format(base=tmp_path))
    assert Cgroups("lab", table).roots == [(tmp_path / "unified", "v2"), (tmp_path / "freezer", "v1")]
    table.write_text("30 20 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
    assert Cgroups("lab", table).roots == [(Path("/sys/fs/cgroup"), "v2")]
    table.write_text("30 20 0:24 / / rw - ext4 /dev/vda rw\n")
    bare = Cgroups("lab", table)
    assert (bare.make("hv1"), bare.procs("hv1"), bare.freeze("hv1", True), bare.frozen("hv1")) == (
        [],
        [],
        False,
        False,
    )
    bare.remove()


def test_a_lab_does_without_cgroups_that_are_read_only(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("30 20 0:24 / /proc/self/no rw - cgroup2 cgroup2 ro\n")
    assert Cgroups("lab", table).make("hv1") == []


def test_mounts_in_a_folder_are_found_also_with_spaces(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / /srv/lab/my\\040disk rw - ext4 /dev/a rw\n"
        "2 0 8:1 / /srv/labour rw - ext4 /dev/a rw\n"
        "3 0 8:1 / /srv rw - ext4 /dev/a rw\n"
    )
    assert preflight.mounts_below(Path("/srv/lab"), table) == ["/srv/lab/my disk"]


def test_what_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="sudo"):
        preflight.check_host(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "_effective", lambda: 1 << 12)
    with pytest.raises(LabError, match="CAP_SYS_ADMIN, CAP_MKNOD"):
        preflight.check_host(tmp_path)
    monkeypatch.setattr(preflight, "_effective", lambda: -1)
    monkeypatch.setattr("shutil.which", lambda command, path: None if command in ("ip", "libvirtd") else command)
    with pytest.raises(LabError, match="apt install iproute2 libvirt-daemon-system"):
        preflight.check_host(tmp_path)
    monkeypatch.setattr("shutil.which", lambda command, path: command)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with pytest.raises(LabError, match="MiB are free"):
        preflight.check_host(tmp_path, least_free=1 << 60)


def test_a_hypervisor_says_who_it_is_and_opens_no_port_without_certificates() -> None:
    state = LabState(uid="6a0f6f0e-7d3f-4d5c-9a55-0f4a6a1c2b3d", network=LabNetwork())
    one = new_hypervisor(state, 0)
    plain = libvirt_config.libvirtd_conf(one)
    assert f'host_uuid = "{one.host_uuid}"' in plain
    assert "listen_tls = 0\nlisten_tcp = 0\n" in plain
    assert "listen_tls = 1\nlisten_tcp = 0\n" in libvirt_config.libvirtd_conf(one, tls=True)
    assert "10.88.0.11 hv1\n" in libvirt_config.hosts([one], "10.88.0.1")
