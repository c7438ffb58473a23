"""Writes an image to the one disk that is named, as the image arrives, and makes it that machine's or server's.

Order of work: what was there is made unfindable, holes are made zero, the pieces are written (that of the partition
table last), all is read back, the table is spread over the disk, credentials come, and the marker once all of that is
on the disk: power that is lost at any instant leaves no marker. What was done is noted in memory that a restarted agent
finds again; after a reboot it begins anew. Blocking.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram import gpt
from bedplate.agent.ram.deployment import Deployment, credentials_on
from bedplate.agent.ram.devices import Device, devices, writable
from bedplate.agent.ram.esp import CREDENTIALS, esp_of, marker
from bedplate.agent.ram.pieces import Connect, PieceStream, StreamBroken, fetch_manifest
from bedplate.agent.ram.raw_disk import RawDisk, aligned, check_fits
from bedplate.agent.state import write_whole
from bedplate.model.ids import Digest
from bedplate.model.metal import Written
from bedplate.model.metal_protocol import MARKER_PATH, WriteManifest

log = logging.getLogger("bedplate.agent")

BUFFERS = 4
"""Pieces in memory at once: one that is filled, those that wait for the disk."""
NOTE_EVERY = 8
"""Pieces between two notes of how far it is: 32 MiB are written again at most."""
TRIES = 20
"""To go on after a break without a piece between them; with the pauses a controller may be away for five minutes."""
PAUSE, LONGEST_PAUSE = 0.5, 20.0
ENDS = 4 << 20
"""Bytes at either end of the disk that are made zero first: tables and signatures of an earlier life lie there."""
SAMPLE = 4096
WRITING, VERIFYING = 0.6, 0.37
"""Shares of the time, for the progress that is told."""


class Stopped(Exception):
    """The step is given up for another one."""


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """How far a write is."""

    written: Written
    manifest: Digest
    size: int
    """Bytes of the disk: another one of that serial number is another."""
    phase: Literal["write", "verify", "finish"] = "write"
    zeroed: bool = False
    pieces: int = 0
    """So many are on the disk."""


class ImageWriter:
    """Writes one image.

    Args:
        folder: In memory, for the note.
        connect: Makes a connection to the controller.
        progress: Is told how far it is, 0 to 1.
        stop: Set from outside to have it end soon.
        look: Gives the server's disks.
    """

    def __init__(
        self,
        folder: Path,
        connect: Connect,
        progress: Callable[[float], None],
        stop: threading.Event,
        look: Callable[[], list[Device]] = devices,
    ) -> None:
        self._note_file = folder / "writing.json"
        self._connect = connect
        self._progress = progress
        self._stop = stop
        self._look = look

    def run(self, what: Deployment, serial: str, enrol: bytes) -> Written:
        """Have it on the disk with this serial number; done where the disk's marker says that it is.

        Raises:
            AgentFault: it can't be; the reason says why. What is written stays for the next try, but for a corrupt one.
            OSError: the disk failed.
            Stopped: told to end.
        """
        image = what.image
        if not image.metal:
            message = f"image {image.name} has no form for bare metal: register it anew with `bedplate image register`"
            raise AgentFault("ImageNotForMetal", message, permanent=True)
        disk = writable(serial, self._look())
        wanted = Written(uid=what.uid, generation=what.generation, digest=image.metal, serial=serial)
        if marker(disk) == wanted:
            return wanted
        if not enrol:
            raise AgentFault("NoEnrolment", "the step came without its enrolment: ask again")
        manifest = self._manifest(image.metal)
        check_fits(disk, manifest.size)
        try:
            note = self._on_disk(disk, manifest, self._begun(wanted, image.metal, disk))
        except AgentFault as error:
            if error.reason in {"ImageCorrupt", "VerifyFailed"}:
                self._note_file.unlink(missing_ok=True)
            raise
        self._finish(disk, what, enrol, note)
        self._progress(1.0)
        return wanted

    # --- the image ----------------------------------------------------------------------------------------------

    def _manifest(self, digest: Digest) -> WriteManifest:
        pause = PAUSE
        for _ in range(TRIES):
            try:
                return fetch_manifest(digest, self._connect)
            except (StreamBroken, OSError) as error:
                log.warning("%s", error)
                self._rest(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        raise AgentFault("ImageFetchFailed", f"manifest {digest} could not be fetched in {TRIES} tries")

    def _begun(self, wanted: Written, manifest: Digest, disk: Device) -> _Note:
        fresh = _Note(written=wanted, manifest=manifest, size=disk.size)
        try:
            note = msgspec.json.decode(self._note_file.read_bytes(), type=_Note)
        except (OSError, msgspec.MsgspecError):
            return fresh
        same = note.written == wanted and note.manifest == manifest and note.size == disk.size
        if same and note.pieces:
            log.info("writing to disk %s goes on after %d pieces", wanted.serial, note.pieces)
        return note if same else fresh

    def _keep(self, note: _Note) -> _Note:
        write_whole(self._note_file, msgspec.json.encode(note))
        return note

    def _on_disk(self, disk: Device, manifest: WriteManifest, note: _Note) -> _Note:
        if note.phase == "finish":
            return note
        raw = RawDisk(disk)
        try:
            if not note.zeroed:
                self._clear(raw, manifest)
                note = self._keep(msgspec.structs.replace(note, zeroed=True))
            if note.phase == "write":
                self._write(raw, manifest, note)
                raw.flush()
                note = self._keep(msgspec.structs.replace(note, phase="verify", pieces=len(manifest.pieces)))
            self._verify(raw, manifest)
        finally:
            raw.close()
        return self._keep(msgspec.structs.replace(note, phase="finish"))

    def _clear(self, raw: RawDisk, manifest: WriteManifest) -> None:
        size = raw.disk.size
        end = size - size % 512
        raw.zero(0, min(ENDS, end), self._check)  # no table is found from now on
        raw.flush()
        raw.zero(max(0, end - ENDS), end, self._check)
        for start, stop in holes(manifest):
            raw.zero(start, stop, self._check)

    def _write(self, raw: RawDisk, manifest: WriteManifest, note: _Note) -> None:
        done, tries, pause = note.pieces, 0, PAUSE
        corrupt = False
        while done < len(manifest.pieces):
            before = done
            try:
                for done in self._stream(raw, manifest, before):
                    if not done % NOTE_EVERY or done == len(manifest.pieces):
                        self._keep(msgspec.structs.replace(note, zeroed=True, pieces=done))
                        self._progress(WRITING * done / len(manifest.pieces))
                continue
            except StreamBroken as error:
                log.warning("%s", error)
            except AgentFault as error:
                if corrupt or error.reason != "ImageCorrupt":
                    raise
                corrupt = True  # once more: it may have been the way
                log.warning("%s", error)
            tries, pause = (0, PAUSE) if done > before else (tries + 1, min(pause * 2, LONGEST_PAUSE))
            if tries > TRIES:
                raise AgentFault("ImageFetchFailed", f"the image broke off {TRIES} times; it goes on from there")
            self._rest(pause)

    def _stream(self, raw: RawDisk, manifest: WriteManifest, first: int) -> Iterable[int]:
        """Write from this piece on; gives how many are on the disk, each time that it is one more."""
        try:
            stream = PieceStream(manifest, first, self._connect)
        except OSError as error:
            raise StreamBroken(f"the controller is not reached: {error}") from error
        memory = [aligned(manifest.piece) for _ in range(BUFFERS)]
        underway: list[Future[None]] = []
        failed: Exception | None = None
        done = first
        try:
            with ThreadPoolExecutor(1) as disk:
                for number in range(first, len(manifest.pieces)):
                    self._check()
                    if len(underway) == BUFFERS - 1:
                        underway.pop(0).result()
                        done += 1
                        yield done
                    buffer = memoryview(memory[number % BUFFERS])
                    try:
                        piece = stream.read(buffer)
                    except (StreamBroken, AgentFault) as error:
                        failed = error
                        break
                    content = buffer[: manifest.length(piece)]
                    underway.append(disk.submit(raw.write, piece.index * manifest.piece, content))
                for write in underway:
                    write.result()
                    done += 1
                    yield done
            if failed is not None:
                raise failed
        finally:
            stream.close()

    def _verify(self, raw: RawDisk, manifest: WriteManifest) -> None:
        memory = [aligned(manifest.piece) for _ in range(2)]

        def read(number: int) -> int:
            piece = manifest.pieces[number]
            buffer = memoryview(memory[number % 2])[: manifest.length(piece)]
            return raw.read(piece.index * manifest.piece, buffer)

        with ThreadPoolExecutor(1) as disk:
            reading = disk.submit(read, 0)
            for number, piece in enumerate(manifest.pieces):
                self._check()
                got = reading.result()
                if number + 1 < len(manifest.pieces):
                    reading = disk.submit(read, number + 1)
                content = memoryview(memory[number % 2])[: manifest.length(piece)]
                if got != len(content) or hashlib.sha256(content).hexdigest() != piece.sha256:
                    raise _wrong(raw.disk, piece.index * manifest.piece)
                if not number % NOTE_EVERY:
                    self._progress(WRITING + VERIFYING * number / len(manifest.pieces))
        sample = memoryview(memory[0])[:SAMPLE]
        for start, end in holes(manifest):
            for offset in range(start, end, manifest.piece):
                self._check()
                length = min(SAMPLE, end - offset)
                if raw.read(offset, sample[:length]) != length or any(sample[:length]):
                    raise _wrong(raw.disk, offset)

    # --- what makes it this machine -----------------------------------------------------------------------------

    def _finish(self, disk: Device, what: Deployment, enrol: bytes, note: _Note) -> None:
        gpt.spread(disk)
        esp = esp_of(disk)
        for name, content in credentials_on(disk, what, enrol):
            self._check()
            esp.write(f"{CREDENTIALS}/{name}.cred", content)
        esp.write(MARKER_PATH, msgspec.json.encode(note.written))
        self._note_file.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _rest(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def holes(manifest: WriteManifest) -> list[tuple[int, int]]:
    """The parts of the disk that no piece tells of, `(start, end)` in bytes."""
    there = {p.index for p in manifest.pieces}
    found: list[tuple[int, int]] = []
    for index in range(-(-manifest.size // manifest.piece)):
        if index in there:
            continue
        start = index * manifest.piece
        end = min(start + manifest.piece, manifest.size)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _wrong(disk: Device, offset: int) -> AgentFault:
    message = f"disk {disk.serial} gives back something else than was written at byte {offset}: replace it"
    return AgentFault("VerifyFailed", message)
