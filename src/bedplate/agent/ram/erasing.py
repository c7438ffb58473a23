"""Erases the disks that were inspected, each by the strongest means it has that reads back blank.

What a disk's firmware says of itself is not believed: only what is read back afterwards is. A disk that does not read
back blank by any means is named and not claimed clean. Blocking.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import Device, devices, run_tool, tool_output, writable
from bedplate.agent.ram.raw_disk import RawDisk, aligned
from bedplate.agent.ram.writing import Stopped
from bedplate.model.metal import Disk, Erasure

log = logging.getLogger("bedplate.agent")

WHOLE = 8 << 30
"""Bytes up to which a disk is read back whole; a larger one by its ends and samples."""
SAMPLES = 1024
SAMPLE = 1 << 20
"""Bytes of each. An overwrite or a command that left out a hundredth of a disk is missed once in 30,000 times."""
STEP = 4 << 20
COMMAND_SECONDS = 12 * 3600.0
"""For a disk's own erasure: a large rotating one may write itself over for as long as this."""
_POLL_SECONDS = 2.0
_ATA_PASSWORD = "bedplate"
"""ATA asks for one to erase by; the erasure takes it away again."""


class Method(msgspec.Struct, frozen=True):
    """One way to erase a disk; `run` raises `AgentFault` or `OSError` where the disk does not do it."""

    name: str
    run: Callable[[], None]


class DiskEraser:
    """Erases disks one after another.

    Args:
        progress: Is told how far it is, 0 to 1.
        stop: Set from outside to have it end soon; a disk's own command is waited for.
        look: Gives the server's disks.
    """

    def __init__(
        self, progress: Callable[[float], None], stop: threading.Event, look: Callable[[], list[Device]] = devices
    ) -> None:
        self._progress = progress
        self._stop = stop
        self._look = look

    def run(self, inspected: Sequence[Disk]) -> tuple[Erasure, ...]:
        """Erase each; a certificate for each, whatever came of it.

        Raises:
            AgentFault: the disks can't be listed.
            Stopped: told to end.
        """
        found = self._look()
        certificates: list[Erasure] = []
        for number, disk in enumerate(inspected):
            self._progress(number / len(inspected))
            certificates.append(self._disk(disk, found, number / len(inspected), 1 / len(inspected)))
        self._progress(1.0)
        return tuple(certificates)

    def _disk(self, disk: Disk, found: list[Device], begin: float, share: float) -> Erasure:
        began = time.time()
        failed = Erasure(
            serial=disk.serial, wwn=disk.wwn, model=disk.model, size=disk.size, erased=False, began=began, ended=began
        )
        try:
            device = writable(disk.serial, found)
            if device.size != disk.size:
                raise AgentFault("DiskChanged", f"it has {device.size} bytes, {disk.size} were inspected")
        except AgentFault as error:
            return msgspec.structs.replace(failed, detail=str(error))
        said: list[str] = []
        for method in methods(device, self._overwriter(device, begin, share)):
            self._check()
            log.info("erasing disk %s by %s", disk.serial, method.name)
            try:
                method.run()
                checked = self._read_back(device)
            except (AgentFault, OSError) as error:
                said.append(f"{method.name}: {error}")
                log.warning("disk %s: %s", disk.serial, said[-1])
                continue
            return msgspec.structs.replace(
                failed, method=method.name, erased=True, checked=checked, detail="; ".join(said), ended=time.time()
            )
        return msgspec.structs.replace(failed, detail="; ".join(said), ended=time.time())

    def _overwriter(self, device: Device, begin: float, share: float) -> Callable[[], None]:
        def overwrite() -> None:
            raw = RawDisk(device)
            memory = memoryview(aligned(STEP))
            try:
                for offset in range(0, device.size, STEP):
                    self._check()
                    raw.write(offset, memory[: min(STEP, device.size - offset)])
                    self._progress(begin + share * 0.9 * offset / device.size)
                raw.flush()
            finally:
                raw.close()

        return overwrite

    def _read_back(self, device: Device) -> int:
        """Read what must be blank; gives how many bytes were.

        Raises:
            AgentFault: something is left.
        """
        raw = RawDisk(device, write=False)
        memory = memoryview(aligned(STEP))
        checked, zero, ones = 0, bytes(STEP), b"\xff" * STEP
        try:
            for start, end in parts(device.size):
                for offset in range(start, end, STEP):
                    self._check()
                    length = min(STEP, end - offset)
                    part = memory[:length]
                    if raw.read(offset, part) != length:
                        raise AgentFault("ReadBackFailed", f"it can't be read at byte {offset}")
                    if part.tobytes() not in (zero[:length], ones[:length]):
                        raise AgentFault("NotBlank", f"something is left at byte {offset}")
                    checked += length
        finally:
            raw.close()
        return checked

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def parts(size: int) -> Iterator[tuple[int, int]]:
    """What is read back of a disk of so many bytes: all of a small one, ends and samples of a large one."""
    if size <= WHOLE:
        yield 0, size
        return
    ends = 64 * SAMPLE
    yield 0, ends
    width = (size - 2 * ends) // SAMPLES
    drawn = os.urandom(4 * SAMPLES)
    for number in range(SAMPLES):
        # Not at even places, which an erasure that works in strides could be right at.
        chance = int.from_bytes(drawn[4 * number : 4 * number + 4], "little") % max(1, width - SAMPLE)
        start = (ends + number * width + chance) // 4096 * 4096
        yield start, start + SAMPLE
    yield (size - ends) // 4096 * 4096, size


# --- ways, the strongest first ---------------------------------------------------------------------------------------


def methods(device: Device, overwrite: Callable[[], None]) -> list[Method]:
    """What the disk says that it can, the strongest first; an overwrite in any case."""
    found: list[Method] = []
    if device.transport == "nvme" or device.name.startswith("nvme"):
        found += _nvme(device)
    elif device.transport in {"sata", "ata"}:
        found += _ata(device)
    if not device.rotational:
        found.append(Method("blkdiscard --secure", lambda: _tool("blkdiscard", "--force", "--secure", device.path)))
    found.append(Method("blkdiscard -z", lambda: _tool("blkdiscard", "--force", "-z", device.path)))
    found.append(Method("overwrite", overwrite))
    return found


def _tool(*argv: str) -> None:
    run_tool(argv, seconds=COMMAND_SECONDS)


def _nvme(device: Device) -> list[Method]:
    """Sanitize and format, as the controller's own identification says."""
    try:
        said = json.loads(run_tool(["nvme", "id-ctrl", "--output-format=json", device.path]))
    except (AgentFault, ValueError):
        return []
    sanitize, formats = int(said.get("sanicap", 0)), int(said.get("fna", 0))
    alone = _name_spaces(device.name) == 1
    found: list[Method] = []
    if sanitize & 2 and alone:  # it goes over all name spaces of the controller, and others are not its own
        found.append(Method("nvme sanitize block", lambda: _sanitize(device.path, 2)))
    if sanitize & 1 and alone:
        found.append(Method("nvme sanitize crypto", lambda: _sanitize(device.path, 4)))
    if int(said.get("oacs", 0)) & 2 and (alone or not formats & 3):
        kinds = (2, 1) if formats & 4 else (1,)
        for kind in kinds:
            argv = ("nvme", "format", f"--ses={kind}", "--force", device.path)
            found.append(Method(" ".join(argv[:3]), lambda argv=argv: _tool(*argv)))
    return found


def _name_spaces(name: str) -> int:
    """How many name spaces the disk's controller has, as this system sees it."""
    stem = name.rpartition("n")[0]
    return sum(1 for d in Path("/sys/block").glob(f"{stem}n*") if d.name.removeprefix(f"{stem}n").isdigit())


def _sanitize(path: str, action: int) -> None:
    run_tool(["nvme", "sanitize", f"--sanact={action}", path])
    end = time.monotonic() + COMMAND_SECONDS
    while time.monotonic() < end:
        page = tool_output(["nvme", "sanitize-log", "--output-format=binary", path])
        state = int.from_bytes(page[2:4], "little") & 7
        if state in {1, 4}:  # ended well; the second without giving the blocks back
            return
        if state == 3 or len(page) < 4:
            raise AgentFault("SanitizeFailed", "the disk says that its sanitize operation failed")
        time.sleep(_POLL_SECONDS)
    raise AgentFault("ToolHung", "the disk's sanitize operation did not end")


def _ata(device: Device) -> list[Method]:
    """ATA secure erase, only where the disk says that it has it and that nothing stands in its way."""
    try:
        facts = ata_security(run_tool(["hdparm", "-I", device.path]))
    except AgentFault:
        return []
    if not facts.get("supported") or facts.get("frozen", True) or facts.get("enabled", True) or facts.get("locked"):
        return []
    option = "--security-erase-enhanced" if facts.get("supported: enhanced erase") else "--security-erase"

    def erase() -> None:
        run_tool(["hdparm", "--user-master", "u", "--security-set-pass", _ATA_PASSWORD, device.path])
        try:
            run_tool(["hdparm", "--user-master", "u", option, _ATA_PASSWORD, device.path], seconds=COMMAND_SECONDS)
        except AgentFault:
            # Else the disk would ask for the password after its next start.
            with suppress(AgentFault):
                run_tool(["hdparm", "--user-master", "u", "--security-disable", _ATA_PASSWORD, device.path])
            raise

    return [Method(f"hdparm {option}", erase)]


def ata_security(said: str) -> dict[str, bool]:
    """What `hdparm -I` says under `Security:`, each word with whether it holds; empty where there is no such part."""
    facts: dict[str, bool] = {}
    for line in said.partition("Security:")[2].splitlines()[1:]:
        words = line.split()
        if not words or not line.startswith(("\t", " ")):
            break
        negated = words[0] == "not"
        facts[" ".join(words[negated:])] = not negated
    return facts
