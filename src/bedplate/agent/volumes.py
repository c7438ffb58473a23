"""Disk pools: folders with an image cache, machines' disks and retained disks. Blocking: a pool's storage may hang, so
every call goes through `DiskPool.io`, in threads of the pool's own.

    <pool>/images/<hex>               verified image files, see `images`
    <pool>/machines/<uid>/disk.qcow2  linked clone, with volume.json beside it: whose it is
    <pool>/retained/<uid>/            a machine's folder, moved as a whole (rule 9)
    <pool>/leases/<store>/<server>    see `lease_files`

A folder appears and goes by one rename. What volume.json does not prove to be this store's is never touched.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bedplate.agent import mounts
from bedplate.agent.bases import SIDECAR, BaseReader
from bedplate.agent.faults import AgentFault, OutOfDate
from bedplate.agent.images import RESERVE_BYTES, ImageCache
from bedplate.agent.pool_io import PoolIo
from bedplate.agent.state import write_whole
from bedplate.model.agent_protocol import Pool
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, Generation, MachineUid, ServerName, StoreId
from bedplate.model.inventory import PoolView

DISK = "disk.qcow2"

log = logging.getLogger("bedplate.agent")

ABANDONED_SECONDS = 3600
"""A half-made folder without a mark is another agent's at work, unless nobody touched it for so long."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a disk is."""

    store: StoreId
    uid: MachineUid
    generation: Generation
    server: ServerName
    name: str = ""
    image: str = ""
    boots: tuple[str, ...] = ()
    """Digests of what it boots beside its disk."""


class DiskPool:
    """One pool on this server."""

    def __init__(self, pool: Pool, store: StoreId, server: ServerName) -> None:
        self.pool = pool
        self.images = ImageCache(Path(pool.path) / "images", store)
        self._store = store
        self._server = server
        self._machines = Path(pool.path) / "machines"
        self._retained = Path(pool.path) / "retained"
        self._making = threading.Lock()
        self._standing = BaseReader(self._machines, self._retained)
        self.direct = True
        self.io = PoolIo(pool.name)

    @property
    def shared(self) -> bool:
        """True where other servers write to the same storage."""
        return self.pool.type == "shared"

    def prepare(self) -> None:
        """Mount it, make the folders, clear what a crash left half made, try direct I/O. Raises `OSError`."""
        mounts.ensure(self.pool)
        for folder in (self.images.folder, self._machines, self._retained):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        for leftover in [*self._machines.glob(".new-*"), *self._machines.glob(".gone-*")]:
            volume = _sidecar(leftover)
            ours = volume is not None and volume.store == self._store and volume.server == self._server
            if ours or (volume is None and leftover.stat().st_mtime < time.time() - ABANDONED_SECONDS):
                _remove(leftover)
        self.images.clear_parts()
        self.direct = _direct_io(self._machines)

    def view(self) -> PoolView:
        """The pool as it is now. Raises `OSError`."""
        mounts.check(self.pool)
        usage = shutil.disk_usage(self.pool.path)
        images = self.images.digests()
        return PoolView(
            name=self.pool.name,
            capacity_mib=usage.total >> 20,
            free_mib=usage.free >> 20,
            shared=self.shared,
            images=images,
            unused=self._unused(images),
        )

    def _unused(self, images: Iterable[Digest]) -> tuple[Digest, ...]:
        """Those of this store that no disk here stands on; none while that can't be told of all disks."""
        wanted = self.images.wanted(images)
        try:
            in_use = self._standing.glance() if wanted else None
        except OSError as error:
            log.warning("disk pool %s: it can't be told what its disks stand on: %s", self.pool.name, error)
            in_use = None
        return () if in_use is None else tuple(d for d in wanted if d not in in_use)

    def drop_image(self, digest: Digest, stop: threading.Event) -> str:
        """Delete an image's file that no disk stands on. Raises as `ImageCache.drop` does, and `OSError` where it can't
        be told what the disks stand on."""
        mounts.check(self.pool)
        return self.images.drop(digest, self._standing.read, stop)

    # --- machines' disks ----------------------------------------------------------------------------------------

    def folder(self, uid: MachineUid) -> Path:
        """The machine's folder."""
        return self._machines / uid

    def disk(self, uid: MachineUid) -> Path:
        """The machine's disk."""
        return self.folder(uid) / DISK

    def console_log(self, uid: MachineUid) -> Path:
        """What the machine's serial console said since its last start."""
        return self.folder(uid) / "console.log"

    def nvram(self, uid: MachineUid) -> Path:
        """The machine's UEFI variables."""
        return self.folder(uid) / "nvram.fd"

    def volume(self, uid: MachineUid) -> Volume | None:
        """The machine's disk, if it is there and this store's and this server's."""
        volume = _sidecar(self.folder(uid))
        if volume is None or volume.store != self._store or volume.server != self._server:
            return None
        return volume if self.disk(uid).exists() else None

    def volumes(self) -> list[Volume]:
        """All of this store's disks that belong to this server."""
        found = (self.volume(MachineUid(p.name)) for p in self._machines.iterdir() if not p.name.startswith("."))
        return [v for v in found if v is not None]

    def create(self, machine: MachineEntry) -> str:
        """Make the machine's disk; one that is there is kept. Gives a message.

        Raises:
            AgentFault: no room, no image, or something in its place that is not ours.
        """
        with self._making:  # a try that was given up may still be at it
            return self._create(machine)

    def _create(self, machine: MachineEntry) -> str:
        folder = self.folder(machine.uid)
        if folder.exists():
            self._adopt(machine)
            if self.disk(machine.uid).exists():
                return "the disk was there"
        self._check_room(machine)
        beside = self._machines / f".new-{machine.uid}"
        _remove(beside)
        beside.mkdir(mode=0o711)
        try:
            write_whole(beside / SIDECAR, msgspec.json.encode(self._mark(machine)))
            with self.images.standing_on(machine.image.disk):
                self._clone(machine, beside / DISK)
                if folder.exists():  # ours, without a disk: a crash between
                    _remove(folder)
                os.rename(beside, folder)
        except OSError as error:
            raise _disk_fault(error, f"the disk of {machine.name}") from error
        finally:
            _remove(beside)
        return "the disk was made"

    def _check_room(self, machine: MachineEntry) -> None:
        free = shutil.disk_usage(self.pool.path).free
        if free < RESERVE_BYTES:
            raise AgentFault("DiskFull", f"disk pool {self.pool.name} has {free >> 20} MiB free: make room in it")
        if machine.image.virtual_size > machine.disk_mib << 20:
            raise AgentFault(
                "DiskTooSmall",
                f"image {machine.image.name} has {machine.image.virtual_size >> 20} MiB inside, "
                f"the disk of {machine.name} is to have {machine.disk_mib} MiB: give it more",
                permanent=True,
            )

    def _clone(self, machine: MachineEntry, path: Path) -> None:
        # Relative, so that the pool may be mounted elsewhere; `retained` is as deep as `machines`.
        backing = f"../../images/{self.images.path(machine.image.disk).name}"
        size = str(machine.disk_mib << 20)
        _qemu_img("create", "-q", "-f", "qcow2", "-F", machine.image.format, "-b", backing, str(path), size)

    def take_over(self, machine: MachineEntry) -> None:
        """Make an existing disk this server's, of this generation: it was made on another server of a shared pool.

        Raises:
            AgentFault: it is not there, is another store's, or the pool is not shared.
            OutOfDate: it belongs to a higher generation.
        """
        self.see(machine)
        self._adopt(machine)

    def claim(self, uid: MachineUid, generation: Generation) -> None:
        """Make the disk of a machine that has moved here this server's. Raises as `take_over` does."""
        volume = self._owned(self.folder(uid), uid)
        if volume is None:
            raise AgentFault("VolumeMissing", f"the disk of machine {uid} is not in disk pool {self.pool.name}")
        if volume.generation > generation:
            raise OutOfDate(f"the disk of machine {uid} is of generation {volume.generation}")
        claimed = msgspec.structs.replace(volume, server=self._server, generation=generation)
        write_whole(self.folder(uid) / SIDECAR, msgspec.json.encode(claimed))

    def see(self, machine: MachineEntry) -> None:
        """See that a disk that another server made is reached here. Raises as `take_over` does."""
        if not self.shared:
            raise AgentFault(
                "PoolNotShared",
                f"disk pool {self.pool.name} is local: the disk of {machine.name} can't be reached from here",
                permanent=True,
            )
        volume = _sidecar(self.folder(machine.uid))
        ours = volume is not None and (volume.store, volume.uid) == (self._store, machine.uid)
        if not ours or not self.disk(machine.uid).exists():
            raise AgentFault(
                "VolumeMissing",
                f"the disk of {machine.name}, made on another server, is not in disk pool {self.pool.name} with this "
                "store's mark",
            )
        if volume is not None and volume.generation > machine.generation:
            raise OutOfDate(f"the disk of {machine.name} is of generation {volume.generation}")

    def _mark(self, machine: MachineEntry) -> Volume:
        return Volume(
            store=self._store,
            uid=machine.uid,
            generation=machine.generation,
            server=self._server,
            name=f"{machine.namespace}/{machine.name}",
            image=machine.image.disk,
            boots=tuple(sorted(machine.image.pooled - {machine.image.disk})),
        )

    def _adopt(self, machine: MachineEntry) -> None:
        """Take an existing folder over for this generation and server. Raises for one that is not ours."""
        volume = self._owned(self.folder(machine.uid), machine.uid)
        if volume is not None and volume.generation > machine.generation:
            raise OutOfDate(f"the disk of {machine.name} is of generation {volume.generation}")
        if volume is not None and volume != self._mark(machine):
            write_whole(self.folder(machine.uid) / SIDECAR, msgspec.json.encode(self._mark(machine)))

    def _owned(self, folder: Path, uid: MachineUid) -> Volume | None:
        """The mark of a folder, None where there is no folder. Raises `AgentFault` for one that is not ours."""
        if not folder.exists():
            return None
        volume = _sidecar(folder)
        if volume is None or volume.store != self._store or volume.uid != uid:
            raise AgentFault(
                "NotOurs", f"{folder} was not made by this store: move it away if it is not needed", permanent=True
            )
        return volume

    def delete(self, uid: MachineUid, generation: Generation) -> None:
        """Delete a machine's disk; done where there is none. Raises `AgentFault`, `OutOfDate`."""
        self._delete(self.folder(uid), uid, generation)

    def delete_retained(self, uid: MachineUid, generation: Generation) -> None:
        """Delete a retained disk; done where there is none. Raises `AgentFault`."""
        self._delete(self._retained / uid, uid, None)

    def _delete(self, folder: Path, uid: MachineUid, generation: Generation | None) -> None:
        volume = self._owned(folder, uid)
        if volume is None:
            return
        if generation is not None and volume.generation > generation:
            raise OutOfDate(f"the disk of machine {uid} is of generation {volume.generation}")
        gone = self._machines / f".gone-{uid}"
        _remove(gone)
        os.rename(folder, gone)
        _remove(gone)

    def retain(self, machine: MachineEntry) -> None:
        """Move a machine's folder to the retained disks; done where it is there. Raises `AgentFault`, `OutOfDate`."""
        folder, target = self.folder(machine.uid), self._retained / machine.uid
        volume = self._owned(folder, machine.uid)
        if volume is None:
            if self._owned(target, machine.uid) is None:
                raise AgentFault("VolumeMissing", f"there is no disk of {machine.name} to retain", permanent=True)
            return
        if volume.generation > machine.generation:
            raise OutOfDate(f"the disk of {machine.name} is of generation {volume.generation}")
        if target.exists():
            raise AgentFault("NotOurs", f"{target} is in the way", permanent=True)
        os.rename(folder, target)

    def retained(self) -> list[Volume]:
        """All retained disks that this server retained."""
        found = [_sidecar(p) for p in self._retained.iterdir()]
        return [v for v in found if v is not None and v.store == self._store and v.server == self._server]


def _qemu_img(*argv: str) -> None:
    done = subprocess.run(["qemu-img", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        reason = "DiskFull" if os.strerror(errno.ENOSPC) in text else "QemuImgFailed"
        raise AgentFault(reason, f"qemu-img {argv[0]}: {text}")


def _disk_fault(error: OSError, what: str) -> AgentFault:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return AgentFault("DiskFull", f"no room for {what}: make room in its disk pool")
    return AgentFault("DiskFailed", f"{what}: {error}")


def _sidecar(folder: Path) -> Volume | None:
    try:
        return msgspec.json.decode((folder / SIDECAR).read_bytes(), type=Volume)
    except (OSError, msgspec.MsgspecError):
        return None


def _remove(folder: Path) -> None:
    """Remove a folder, what proves whose it is last, so that a crash leaves it provable."""
    if not folder.exists():
        return
    for entry in sorted(folder.iterdir(), key=lambda p: p.name == SIDECAR):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    folder.rmdir()


def _direct_io(folder: Path) -> bool:
    probe = folder / ".direct-io"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
