"""Bedplate's own records, read-only to users: blueprints, operations, retained disks."""

from __future__ import annotations

from typing import Literal

from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.wire import Wire


class BlueprintSpec(Wire, frozen=True):
    number: int = 0
    parent: int = 0
    reason: str = ""
    changed: tuple[str, ...] = ()
    """Keys of the entries that differ from the parent."""


class Blueprint(BedplateObject, frozen=True):
    """A numbered, complete target state of the infrastructure."""

    kind: Literal["Blueprint"] = "Blueprint"
    spec: BlueprintSpec = BlueprintSpec()


class OperationSpec(Wire, frozen=True):
    step: str = ""
    """The step's kind, such as `StartDomain`."""
    target: str = ""
    """Key of the thing acted on."""
    server: str = ""
    reason: str = ""
    epoch: int = 0


class OperationStatus(Wire, frozen=True):
    phase: Literal["Running", "Succeeded", "Failed", "Unknown"] = "Running"
    started: str | None = None
    finished: str | None = None
    attempt: int = 1
    message: str = ""


class Operation(BedplateObject, frozen=True):
    """A step in flight or lately ended, journalled before it had any effect."""

    kind: Literal["Operation"] = "Operation"
    spec: OperationSpec = OperationSpec()
    status: OperationStatus = OperationStatus()


class RetainedDiskSpec(Wire, frozen=True):
    machine: str = ""
    machine_uid: str = ""
    server: str = ""
    disk_pool: str = ""
    volume: str = ""
    reason: str = ""
    expires: str | None = None


class RetainedDisk(BedplateObject, frozen=True):
    """A disk of a machine that was replaced; kept until it expires or a user deletes this object (rule 9)."""

    kind: Literal["RetainedDisk"] = "RetainedDisk"
    spec: RetainedDiskSpec = RetainedDiskSpec()
    status: Status = Status()
