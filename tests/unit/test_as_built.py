"""What a deployed system's drift is found from: a record of its image, and a look at it as it is."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate import as_built
from bedplate.agent.drift_look import look
from bedplate.model.drift import SHOWN, AsBuilt, Drift, changed_packages, drift, firmware_changes
from bedplate.model.metal import Component, Disk, Hardware, NetworkCard

LINE = "root=LABEL=root ro quiet"
STATUS = """\
Package: openssl
Status: install ok installed
Version: 3.5.1-1

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Version: 2.41-12
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's tree, with its record, as it is on a server's disk."""
    files = {
        "etc/fstab": "LABEL=root / ext4",
        "etc/ssh/sshd_config": "PasswordAuthentication no",
        "usr/bin/openssl": "elf",
        "usr/lib/os-release": "ID=debian",
        "opt/cni/bin/bridge": "elf",
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/openssl.list": "/usr\n/usr/bin\n/usr/bin/openssl\n",
        "proc/cmdline": LINE,
    }
    made = tmp_path / "root"
    for name, text in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    (made / "etc/os-release").symlink_to("../usr/lib/os-release")
    (made / as_built.RECORD).parent.mkdir(parents=True, exist_ok=True)
    as_built.write(made, os.uname().release, LINE)
    return made


def found(root: Path) -> tuple[str, ...]:
    told = look(root, root / "no-sysfs")
    assert told is not None
    return told.changes


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_a_system_as_its_image_has_no_drift(root: Path) -> None:
    assert found(root) == ()
    os.utime(root / "etc/fstab", (1, 1))
    assert found(root) == (), "a file that was written again as it was is read, and found the same"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: append(r / "etc/ssh/sshd_config", "!"), "/etc/ssh/sshd_config was changed"),
        (lambda r: (r / "etc/fstab").unlink(), "/etc/fstab was removed"),
        (lambda r: (r / "usr/bin/nmap").write_text("elf"), "/usr/bin/nmap was added"),
        (lambda r: (r / "etc/fstab").chmod(0o666), "/etc/fstab has mode 0666, 0644 was deployed"),
        (lambda r: os.chown(r / "etc/fstab", 7, 8), "/etc/fstab belongs to 7:8, to 0:0 when deployed"),
        (lambda r: append(r / "proc/cmdline", " mitigations=off"), "not as deployed: +mitigations=off"),
        (lambda r: (r / "proc/cmdline").write_text("root=LABEL=root ro"), "not as deployed: -quiet"),
    ],
)  # fmt: skip
def test_each_change_is_told(root: Path, change: Callable[[Path], object], said: str) -> None:
    (root / "etc/fstab").chmod(0o644)
    as_built.write(root, os.uname().release, LINE)
    change(root)
    (told,) = found(root)
    assert said in told


def test_a_link_that_leads_elsewhere_is_changed(root: Path) -> None:
    (root / "etc/os-release").unlink()
    (root / "etc/os-release").symlink_to("/tmp/mine")
    assert found(root) == ("/etc/os-release was changed",)
    (root / "etc/os-release").unlink()
    (root / "etc/os-release").write_text("ID=debian")
    assert found(root) == ("/etc/os-release was changed",), "a file in its place is no link"


def test_packages_are_told_and_their_files_are_not(root: Path) -> None:
    status = root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("3.5.1-1", "3.5.2-1") + "\nPackage: nmap\nStatus: install ok installed\nVersion: 7\n")  # fmt: skip # noqa: E501
    append(root / "usr/bin/openssl", "new")
    append(root / "usr/lib/os-release", "mine")
    assert found(root) == (
        "package nmap 7 was added",
        "package openssl is 3.5.2-1, 3.5.1-1 was deployed",
        "/usr/lib/os-release was changed",
    )


def test_what_bedplate_and_the_first_start_write_is_none(root: Path) -> None:
    for name in ("etc/hostname", "etc/machine-id", "etc/kubernetes/kubelet.conf", "etc/ssh/ssh_host_rsa_key"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "var/log").mkdir()
    (root / "var/log/syslog").write_text("x")
    assert found(root) == ()


def test_an_image_of_before_and_a_broken_record_tell_nothing(root: Path) -> None:
    for content in (b"", b"junk", gzip.compress(b'{"version": 1}'), gzip.compress(b"{}")[:-4]):
        (root / as_built.RECORD).write_bytes(content)
        assert look(root, root / "no-sysfs") is None
    shutil.rmtree(root / "usr")
    assert look(root, root / "no-sysfs") is None


@given(st.dictionaries(st.text("abc", min_size=1), st.text("12", min_size=1)), st.integers(1, 200))
def test_a_drift_is_bounded_and_counts_what_it_leaves_out(packages: dict[str, str], count: int) -> None:
    same = AsBuilt(kernel="6", command_line=LINE, packages=packages, files={})
    assert drift(same, same, {}) == Drift()
    more = msgspec.structs.replace(same, packages=packages | {f"new{n}": "1" for n in range(count)})
    told = drift(same, more, {})
    assert len(told.changes) == min(count, SHOWN)
    assert len(told.changes) + told.more == count == len(changed_packages(same, more))


def test_firmware_is_compared_under_the_names_that_stay() -> None:
    hardware = Hardware(
        disks=(Disk(serial="S1", size=1, name="nvme0n1"),),
        nics=(NetworkCard(mac="52:54:00:00:00:01", name="eno1"),),
        firmware=(
            Component(name="bios", version="1.12"),
            Component(name="nic eno1", version="4.40"),
            Component(name="disk nvme0n1", version="GDC5602Q "),
            Component(name="bmc", version="2.1"),
        ),
    )
    now = (
        Component(name="bios", version="1.13"),
        Component(name="nic 52:54:00:00:00:01", version="4.50"),
        Component(name="disk S1", version="GDC5602Q"),
        Component(name="disk S2", version="9"),
    )
    assert firmware_changes(hardware, now) == (
        "firmware of bios is 1.13, 1.12 was inspected",
        "firmware of nic eno1 is 4.50, 4.40 was inspected",
    )
    assert firmware_changes(None, now) == ()
