"""Why each change was decided and why something was not done: every reason is one case of an enum, with its facts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from bedplate.model.ids import Key


class Rejection(StrEnum):
    """Why a server was not taken for a machine. Values are the reasons that users and metrics see."""

    NOT_HYPERVISOR = "NotHypervisor"
    UNSCHEDULABLE = "Unschedulable"
    NOT_CONNECTED = "NotConnected"
    NO_MATCH = "LabelsDoNotMatch"
    CPU_MODEL = "OtherCPU"
    NO_MEMORY = "NotEnoughMemory"
    NO_CPU = "NotEnoughCPU"
    NO_DISK = "NotEnoughDisk"
    NO_NETWORK = "NetworkOutOfReach"
    NO_POOL = "DiskPoolOutOfReach"
    SAME_SERVER = "AntiAffinityServer"
    SAME_DOMAIN = "AntiAffinityDomain"
    MAINTENANCE = "InMaintenance"
    UNHEALTHY = "HardwareFailing"
    BUSY = "EnoughMovesAlready"
    AFFINITY = "AffinityNotMet"
    NOT_AVAILABLE = "NotAvailable"
    NO_ROOT_DISK = "NoFittingDisk"
    DEGRADED = "Degraded"


class Waiting(StrEnum):
    """What an object waits on."""

    NO_ROOM = "NoRoom"
    NO_ADDRESS = "NoFreeAddress"
    NO_VIP = "NoFreeEndpointAddress"
    NO_NETWORK = "NetworkMissing"
    NO_IMAGE = "ImageMissing"
    NO_RELEASE = "ReleaseMissing"
    NO_CLUSTER = "ClusterMissing"
    NOT_BUILT = "SubstrateNotSupported"
    CONTROL_PLANE = "WaitingForControlPlane"
    CONTROL_PLANE_BUSY = "ControlPlaneChangesOneAtATime"
    QUORUM = "QuorumAtRisk"
    SECRETS = "WaitingForSecrets"
    SERVER = "WaitingForServer"
    STEP = "StepRunning"
    BACKOFF = "RetryingAfterFailure"
    BOOT = "WaitingForBoot"
    JOIN = "WaitingForNode"
    JOIN_TURN = "WaitingForTurnToJoin"
    DRAIN = "Draining"
    CAPACITY = "BoundedConcurrency"
    UNCONFIRMED = "EndNotConfirmed"
    DELETION = "WaitingForMachines"
    MINOR_UPGRADE = "MinorUpgradeNotSupported"
    LAST_COPY = "LastGoodCopy"
    ACCEPTANCE = "WaitingForAcceptance"
    PAUSED = "Paused"
    SUSPECT = "ServerSuspect"
    FENCING = "ServerIsFenced"
    DEAD = "ServerDead"
    CUT_OFF = "ServerCutOff"
    RECOVERY_TURN = "WaitingForTurnToRecover"
    MIGRATION = "Migrating"
    NOT_MOVABLE = "NotMovable"
    MAINTENANCE = "Maintenance"
    RECOMMENDED = "MovesRecommended"
    BALANCED = "Balanced"
    METAL = "BareServer"
    QUARANTINED = "Quarantined"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One entry that changed and why, in a sentence."""

    key: Key
    action: str
    """`create`, `change`, `remove`."""
    sentence: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Room for one machine that would end a wait."""

    substrate: Literal["vm", "metal"]
    cpu: int
    memory_mib: int
    network: str
    match: Mapping[str, str] = {}
    """Labels that the server must have."""


class WaitingOn(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is not where its spec wants it, and on what it waits."""

    key: Key
    reason: Waiting
    sentence: str
    rejections: Mapping[Rejection, int] = {}
    """How many servers were refused for which reason (placement only)."""
    servers: Mapping[str, Rejection] = {}
    """Which server was refused for which reason; the first hundred."""
    wanted: Wanted | None = None
    """Room that would end it."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The story of one planning: changes in the order they were decided, and what waits now, by key."""

    changes: tuple[Change, ...] = ()
    waiting: Mapping[Key, WaitingOn | None] = {}
    """Only for keys that were looked at; None: no longer waits."""


def still_there(machines: int) -> str:
    """How many machines are on a server that is to be empty, as a sentence."""
    return "1 machine is still on it" if machines == 1 else f"{machines} machines are still on it"
