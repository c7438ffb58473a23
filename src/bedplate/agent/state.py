"""What the agent must not forget: who it is, the highest epoch, and each machine's generation and boot number.

A folder of small JSON files (mode 0700), each replaced as a whole and flushed before the agent acts on it. Blocking.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from bedplate.agent.faults import OutOfDate
from bedplate.model.ids import Epoch, Generation, MachineUid, ServerName, StoreId

T = TypeVar("T")

TOMBSTONE_SECONDS = 30 * 24 * 3600
"""How long an ended machine's record is kept to refuse late commands: longer than any backup of a controller's store
that somebody might still restore in a hurry."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this agent is and whom it serves."""

    server: ServerName
    store: StoreId
    controller: str
    host_uuid: str
    renew_at: float = 0.0
    """When the certificate is to be renewed; seconds since the epoch."""
    token: str = ""
    """Digest of the token that made it: a file with another one asks anew."""


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen and done for one machine."""

    uid: MachineUid
    generation: Generation = Generation(0)
    boot: int = 0
    """Last boot number that was started, or was about to be: each is started once at most."""
    started: float = 0.0
    """When it was started here, has come here, or began to be awaited; seconds since the epoch."""
    disk_pool: str = ""
    ended: float = 0.0
    """When its disk went, or the machine to another server; the record stays to refuse what comes late."""
    source: ServerName = ServerName("")
    """It is awaited from that server, by live migration."""


class _Fence(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch = Epoch(0)


class AgentState:
    """The agent's state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._machines = folder / "machines"
        self._machines.mkdir(mode=0o700, exist_ok=True)
        fence = _read(folder / "fence.json", _Fence)
        self._epoch = fence.epoch if fence is not None else Epoch(0)
        self._records: dict[MachineUid, MachineRecord] = {}
        for path in self._machines.glob("*.json"):
            record = _read(path, MachineRecord)
            if record is None or (record.ended and record.ended < time.time() - TOMBSTONE_SECONDS):
                path.unlink(missing_ok=True)
            else:
                self._records[record.uid] = record

    # --- identity -----------------------------------------------------------------------------------------------

    @property
    def key_file(self) -> Path:
        """Private key, PEM."""
        return self.folder / "key.pem"

    @property
    def certificate_file(self) -> Path:
        """Certificate for the controller and, between hypervisors, for migration; PEM."""
        return self.folder / "certificate.pem"

    @property
    def ca_file(self) -> Path:
        """The authority of controller and agents, PEM."""
        return self.folder / "ca.pem"

    def identity(self) -> Identity | None:
        """Who this agent is; None before its enrolment."""
        return _read(self.folder / "identity.json", Identity)

    def keep_identity(self, identity: Identity) -> None:
        """Remember who this agent is; the last thing that an enrolment does."""
        write_whole(self.folder / "identity.json", msgspec.json.encode(identity))

    # --- fences -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        """Highest controller epoch seen."""
        return self._epoch

    def admit_epoch(self, epoch: Epoch) -> None:
        """Raise `OutOfDate` for a lower epoch than seen; remember a higher one on disk first."""
        if epoch < self._epoch:
            raise OutOfDate(f"controller epoch {epoch} is over: epoch {self._epoch} was seen")
        if epoch > self._epoch:
            write_whole(self.folder / "fence.json", msgspec.json.encode(_Fence(epoch=epoch)))
            self._epoch = epoch

    def check_generation(self, uid: MachineUid, generation: Generation) -> MachineRecord:
        """Raise `OutOfDate` for a lower generation of a machine than seen."""
        record = self.record(uid)
        if generation < record.generation:
            raise OutOfDate(f"generation {generation} of machine {uid} is over: {record.generation} was seen")
        return record

    def admit_generation(self, uid: MachineUid, generation: Generation) -> MachineRecord:
        """As `check_generation`, and remember a higher one on disk before anything is done."""
        record = self.check_generation(uid, generation)
        if generation > record.generation or uid not in self._records:
            # Another generation than the one that it was awaited in: it does not come live any more.
            record = msgspec.structs.replace(record, generation=generation, ended=0.0, source=ServerName(""))
            self.keep(record)
        return record

    # --- machines -----------------------------------------------------------------------------------------------

    def record(self, uid: MachineUid) -> MachineRecord:
        """What is known of a machine; an empty record where nothing is."""
        return self._records.get(uid) or MachineRecord(uid=uid)

    def knows(self, uid: MachineUid) -> bool:
        """True where there is a record."""
        return uid in self._records

    def live(self) -> list[MachineRecord]:
        """The records of machines that this server has something of, or awaits."""
        return [r for r in list(self._records.values()) if r.disk_pool and not r.ended]

    def keep(self, record: MachineRecord) -> None:
        """Write a machine's record; on disk when this returns."""
        write_whole(self._machines / f"{record.uid}.json", msgspec.json.encode(record))
        self._records[record.uid] = record


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file: after a crash it is the old or the new one, whole."""
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.fchmod(fd, mode)
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    finally:
        os.close(fd)
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
