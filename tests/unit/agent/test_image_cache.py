"""The image cache of a disk pool: what a disk stands on is never deleted, whoever made it, whatever was cut."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import disk_world
from disk_world import HV2, pool

from bedplate.agent import bases, images
from bedplate.agent.bases import BaseReader
from bedplate.agent.faults import AgentFault
from bedplate.agent.volumes import DiskPool
from bedplate.model.blueprint import ImageRef, MachineEntry
from bedplate.model.ids import Digest, Generation, MachineUid, StoreId

OTHER = StoreId("s2")
CONTENT = b"a disk" * 1000
DIGEST = Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


class _Body(io.BytesIO):
    status = 200
    headers = {"Content-Length": str(len(CONTENT))}


class Controller:
    """Gives one file, as the controller does."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Any:
        return self

    def request(self, *_args: Any, **_kwargs: Any) -> None:
        self.asked += 1

    def getresponse(self) -> Any:
        return _Body(CONTENT)

    def close(self) -> None:
        pass


def machine(number: int = 1, digest: Digest = DIGEST, kernel: str = "") -> MachineEntry:
    image = ImageRef(name="i", disk=digest, format="raw", kernel=Digest(kernel))
    uid = MachineUid(f"11111111-2222-4333-8444-{number:012d}")
    return disk_world.machine(image, uid=uid, name=f"m{number}")


@pytest.fixture
def controller() -> Controller:
    return Controller()


def fetch(into: DiskPool, controller: Controller) -> None:
    into.images.fetch(DIGEST, controller, threading.Event())


def drop(of: DiskPool, digest: Digest = DIGEST) -> str:
    return of.drop_image(digest, threading.Event())


def refused(of: DiskPool, reason: str, digest: Digest = DIGEST) -> None:
    with pytest.raises(AgentFault) as caught:
        drop(of, digest)
    assert caught.value.reason == reason
    assert of.images.has(digest)


def test_a_disk_of_any_store_keeps_its_base_until_it_is_gone(tmp_path: Path, controller: Controller) -> None:
    ours, theirs = pool(tmp_path), pool(tmp_path, OTHER, HV2)
    fetch(ours, controller)
    assert ours.view().unused == (DIGEST,)
    theirs.create(machine())
    assert ours.view().unused == ()
    refused(ours, "ImageInUse")
    theirs.retain(machine())
    refused(ours, "ImageInUse")
    theirs.delete_retained(machine().uid, Generation(1))
    assert ours.view().unused == (DIGEST,)
    drop(ours)
    assert ours.view().images == ()
    drop(ours)  # done is done
    fetch(ours, controller)
    assert controller.asked == 2


def test_a_half_made_disk_keeps_its_base(tmp_path: Path, controller: Controller) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    ours.create(machine())
    folder = ours.folder(machine().uid)
    for name in (f".new-{machine().uid}", f".gone-{machine().uid}"):
        folder = folder.rename(folder.with_name(name))
        refused(ours, "ImageInUse")
    (folder / "volume.json").unlink()  # the disk's own header says it too
    refused(ours, "ImageInUse")


def test_what_a_machine_boots_from_beside_its_disk_stays_with_it(tmp_path: Path, controller: Controller) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    base = tmp_path / "images" / ("b" * 64)
    base.write_bytes(b"base")
    ours.create(machine(digest=Digest(f"sha256:{base.name}"), kernel=DIGEST))
    refused(ours, "ImageInUse")


def test_what_no_header_tells_keeps_everything(tmp_path: Path, controller: Controller) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    ours.create(machine())
    disk = ours.disk(machine().uid)
    with disk.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff\xff\xff\xff")  # the size of its base's name
    os.utime(disk.parent)  # its folder has changed
    assert ours.view().unused == ()
    with pytest.raises(OSError, match="qcow2"):
        drop(ours)
    assert ours.images.has(DIGEST)


def test_a_file_that_another_store_asked_for_stays_for_it(tmp_path: Path, controller: Controller) -> None:
    ours, theirs = pool(tmp_path), pool(tmp_path, OTHER, HV2)
    fetch(ours, controller)
    refused(theirs, "NotOurs")
    assert theirs.view().unused == ()
    assert theirs.images.claim(DIGEST)
    assert "another store" in drop(ours)
    assert ours.images.has(DIGEST)
    assert (ours.view().unused, theirs.view().unused) == ((), (DIGEST,))
    drop(theirs)
    assert not ours.images.has(DIGEST)


def test_none_is_deleted_while_a_disk_is_made_on_it(tmp_path: Path, controller: Controller) -> None:
    ours, elsewhere = pool(tmp_path), pool(tmp_path, server=HV2)
    fetch(ours, controller)
    ended: list[str] = []
    with elsewhere.images.standing_on(DIGEST):
        stop = threading.Event()
        thread = threading.Thread(target=lambda: ended.append(_outcome(ours, stop)))
        thread.start()
        elsewhere.images.claim(DIGEST)
        assert elsewhere.images.has(DIGEST)
        stop.set()
        thread.join(20)
    assert ended == ["ImageFetchFailed"]
    assert ours.images.has(DIGEST)
    drop(ours)
    with pytest.raises(AgentFault, match="fetched again"), elsewhere.images.standing_on(DIGEST):
        pass


def _outcome(of: DiskPool, stop: threading.Event) -> str:
    try:
        return of.drop_image(DIGEST, stop)
    except AgentFault as fault:
        return fault.reason


def test_a_disk_whose_image_has_just_gone_is_not_made(tmp_path: Path, controller: Controller) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    drop(ours)
    with pytest.raises(AgentFault) as caught:
        ours.create(machine())
    assert caught.value.reason == "ImageMissing"
    assert not list((tmp_path / "machines").iterdir())


def test_what_a_crash_leaves_of_a_deletion_is_fetched_or_cleared_again(tmp_path: Path, controller: Controller) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    ours.images.path(DIGEST).unlink()  # killed before the mark went
    assert drop(ours)
    assert not list((tmp_path / "images").glob(".*.for-*"))
    fetch(ours, controller)
    assert ours.view().unused == (DIGEST,)


def test_only_an_old_break_of_a_fetch_is_cleared(tmp_path: Path) -> None:
    pool(tmp_path)
    young, old = (tmp_path / "images" / f".{c * 64}.part" for c in "ab")
    for part in (young, old):
        part.write_bytes(b"half")
    past = time.time() - images.ABANDONED_SECONDS - 60
    os.utime(old, (past, past))
    pool(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)


def test_a_look_reads_a_few_disks_at_a_time_and_each_once(
    tmp_path: Path, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    unused = Digest("sha256:" + "c" * 64)
    (tmp_path / "images" / ("c" * 64)).write_bytes(b"unused")
    ours.images.claim(unused)
    for number in range(5):
        ours.create(machine(number))
    read: list[Path] = []
    whole = bases._of_folder

    def counted(folder: Path) -> frozenset[str]:
        read.append(folder)
        return whole(folder)

    monkeypatch.setattr(bases, "_of_folder", counted)
    monkeypatch.setattr(bases, "GLANCE", 2)
    told = [ours.view().unused for _ in range(4)]
    assert told == [(), (), (unused,), (unused,)], "nothing is told before all is read"
    assert len(read) == len(set(read)) == 5
    reader = BaseReader(tmp_path / "machines", tmp_path / "retained")
    assert reader.read() == {DIGEST}


def test_an_overlay_on_a_machines_disk_hides_no_base(tmp_path: Path, controller: Controller) -> None:
    ours = pool(tmp_path)
    fetch(ours, controller)
    ours.create(machine())
    disk = ours.disk(machine().uid)
    argv = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "disk.qcow2",
        str(disk.with_name("snap.qcow2")),
    ]
    subprocess.run(argv, check=True)
    (disk.parent / "volume.json").write_bytes(msgspec.json.encode({"store": "s1"}))
    refused(ours, "ImageInUse")
