"""The node's agent in its own machine: files, commands, the bootstrap unit's word, and the disk's one-time secret."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bedplate.agent.bootstrap_word import STATUS_FILE, TIMES_FILE, BootstrapStatus
from bedplate.agent.node.credentials import ENROL_FILE, Credentials, efi_partition
from bedplate.agent.node.machine import LocalMachine
from bedplate.agent.ram.esp import Esp
from bedplate.agent.starting import StartFailed
from bedplate.agent.state import AgentState
from bedplate.model.agent_protocol import GuestWrite
from bedplate.model.ids import Epoch, Generation, MachineUid, ServerName, StoreId
from bedplate.model.metal_protocol import NodeIdentity

NODE = NodeIdentity(uid=MachineUid("u"), generation=Generation(2), name="db-1", server=ServerName("metal1"))


def write(path: str, content: bytes, *, first: bool = True, mode: int = 0o600) -> GuestWrite:
    nobody: Any = None
    return GuestWrite(
        call=1, store=StoreId("s"), epoch=Epoch(1), deadline=1, machine=nobody, path=path, content=content, mode=mode,
        first=first,
    )  # fmt: skip


def test_a_file_in_pieces_replaces_what_was_there(tmp_path: Path) -> None:
    machine = LocalMachine(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_text("old and longer than the new one")
    machine.write(write("/etc/file", b"one ", mode=0o755))
    machine.write(write("/etc/file", b"two", first=False))
    assert (tmp_path / "etc/file").read_bytes() == b"one two"
    assert (tmp_path / "etc/file").stat().st_mode & 0o7777 == 0o755
    machine.write(write("/run/secret/key", b"key"))
    assert (tmp_path / "run/secret").stat().st_mode & 0o7777 == 0o700, "who is not root looks into no secrets' folder"
    with pytest.raises(OSError, match="No such file"):
        machine.write(write("/etc/never-begun", b"rest", first=False))


def test_the_bootstrap_units_word_is_read_as_a_guests_is(tmp_path: Path) -> None:
    machine = LocalMachine(tmp_path)
    assert machine.bootstrap() == BootstrapStatus()
    status, times = (tmp_path / f.lstrip("/") for f in (STATUS_FILE, TIMES_FILE))
    status.parent.mkdir(parents=True)
    status.write_text("running\n")
    times.write_text("up 10.5\nbegan 11\nended 12\n")
    assert machine.bootstrap() == BootstrapStatus("running")
    status.write_text("done\n")
    assert machine.bootstrap() == BootstrapStatus("done", up=10.5, began=11.0, ended=12.0)
    status.write_text("failed\nkubeadm: no\n")
    assert machine.bootstrap().detail == "kubeadm: no"


def test_which_machine_it_is_stays_known_without_the_credential(tmp_path: Path) -> None:
    state = AgentState(tmp_path / "state")
    folder = tmp_path / "credentials"
    folder.mkdir()
    with pytest.raises(StartFailed, match=r"bedplate\.machine"):
        Credentials([folder]).node(state)
    (folder / "bedplate.machine").write_bytes(msgspec.json.encode(NODE))
    assert Credentials([tmp_path / "none", folder]).node(state) == NODE
    (folder / "bedplate.machine").unlink()
    assert Credentials([folder]).node(state) == NODE
    assert Credentials([folder]).enrolment() is None
    (folder / "bedplate.enrol").write_text("{}")
    with pytest.raises(StartFailed, match=r"bedplate\.enrol can't be read"):
        Credentials([folder]).enrolment()


def test_the_partition_beside_the_root_is_taken_and_no_other_disks() -> None:
    esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

    def disk(name: str, *, root: bool) -> dict[str, object]:
        mounts = ["/"] if root else [None]
        return {
            "path": f"/dev/{name}",
            "mountpoints": [None],
            "children": [
                {"path": f"/dev/{name}1", "parttype": esp, "mountpoints": [None]},
                {"path": f"/dev/{name}2", "parttype": "x", "mountpoints": mounts},
            ],
        }

    listed = {"blockdevices": [disk("sda", root=False), disk("sdb", root=True)]}
    assert efi_partition(json.dumps(listed)) == "/dev/sdb1"
    assert efi_partition(json.dumps({"blockdevices": [disk("sda", root=False)]})) == ""


def test_the_one_time_secret_is_taken_from_the_disk(tmp_path: Path) -> None:
    esp = tmp_path / "esp"
    with esp.open("wb") as file:
        file.truncate(40 << 20)
    subprocess.run(["mkfs.vfat", "-F", "32", esp], check=True, capture_output=True)
    partition = Esp(str(esp), "esp")
    partition.write(ENROL_FILE, b"a secret of one time")
    partition.write("loader/credentials/bedplate.machine.cred", b"{}")
    assert partition.remove(ENROL_FILE)
    assert not partition.remove(ENROL_FILE)
    assert partition.read(ENROL_FILE) is None
    assert partition.read("loader/credentials/bedplate.machine.cred") == b"{}"
