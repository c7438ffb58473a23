"""What the disk's EFI system partition handed to this machine, and taking its one-time secret from there again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.devices import run_tool
from bedplate.agent.ram.esp import CREDENTIALS, Esp
from bedplate.agent.ram.gpt import EFI_SYSTEM
from bedplate.agent.starting import StartFailed
from bedplate.agent.state import AgentState, write_whole
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.metal_protocol import ENROL_CREDENTIAL, MACHINE_CREDENTIAL, NodeIdentity

log = logging.getLogger("bedplate.agent")

T = TypeVar("T")

SYSTEM_CREDENTIALS = Path("/run/credentials/@system")
ENROL_FILE = f"{CREDENTIALS}/{ENROL_CREDENTIAL}.cred"
"""On the EFI system partition."""


class Credentials:
    """The credentials' folders, the first that has one counts. By default the unit's own, then the system's."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        own = os.environ.get("CREDENTIALS_DIRECTORY", "")
        self._folders = list(folders) or [*([Path(own)] if own else []), SYSTEM_CREDENTIALS]

    def enrolment(self) -> EnrolFile | None:
        """The enrolment file; None where there is none (any more). Raises `StartFailed`."""
        content = self._read(ENROL_CREDENTIAL)
        return _decoded(content, EnrolFile, ENROL_CREDENTIAL) if content else None

    def node(self, state: AgentState) -> NodeIdentity:
        """Which machine this is; kept in the state for when the credential is gone. Raises `StartFailed`."""
        kept = state.folder / "node.json"
        content = self._read(MACHINE_CREDENTIAL)
        if content:
            node = _decoded(content, NodeIdentity, MACHINE_CREDENTIAL)
            write_whole(kept, msgspec.json.encode(node))
            return node
        try:
            return _decoded(kept.read_bytes(), NodeIdentity, str(kept))
        except OSError as error:
            message = f"there is no credential {MACHINE_CREDENTIAL}: this role is for disks that a RAM system wrote"
            raise StartFailed(message) from error

    def _read(self, name: str) -> bytes:
        for folder in self._folders:
            try:
                return (folder / name).read_bytes()
            except OSError:
                continue
        return b""


def efi_partition(listed: str) -> str:
    """The device of the EFI system partition on the disk that the root file system is on, of lsblk's JSON; empty:
    there is none."""

    def holds_root(row: dict[str, Any]) -> bool:
        return "/" in (row.get("mountpoints") or ()) or any(holds_root(c) for c in row.get("children") or ())

    for disk in json.loads(listed).get("blockdevices", ()):
        if holds_root(disk):
            for part in disk.get("children") or ():
                if str(part.get("parttype") or "").lower() == str(EFI_SYSTEM):
                    return str(part["path"])
    return ""


def drop_enrolment() -> None:
    """Take the enrolment file from the EFI system partition; its token is spent. Blocking; what fails is logged."""
    try:
        device = efi_partition(run_tool(["lsblk", "--json", "--output", "NAME,PATH,PARTTYPE,MOUNTPOINTS"]))
        if not device:
            log.warning("no EFI system partition is found beside the root file system: %s stays", ENROL_CREDENTIAL)
        elif Esp(device, device).remove(ENROL_FILE):
            log.info("the enrolment file is removed from the EFI system partition")
    except (AgentFault, OSError, ValueError) as error:
        log.warning("%s could not be removed from the EFI system partition: %s", ENROL_CREDENTIAL, error)


def _decoded(content: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise StartFailed(f"{name} can't be read: {error}") from error
