"""What holds for the whole fleet: one object, named `default`, that people edit."""

from __future__ import annotations

from typing import Literal

from bedplate.model.cpus import CpuChoice
from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.wire import Wire

FLEET_POLICY_NAME = "default"

BalanceMode = Literal["manual", "partial", "auto"]


class Balance(Wire, frozen=True):
    """Whether load is evened out by live migration."""

    mode: BalanceMode = "partial"
    """`manual`: recommends, with the gain. `partial`: only where something is placed anyway. `auto`: moves."""
    horizon_seconds: int = 3600
    """A move's gain counts over so long."""
    min_gain_percent: float = 10.0
    """A move that does less than this share of what evening out its two servers fully would, is not worth its risk."""


class Reserve(Wire, frozen=True):
    """Capacity that is kept free, so that what fails finds room."""

    servers: int = 0
    """So many of the largest servers may fail and all still fits elsewhere."""
    per: str = ""
    """A failure-domain label: the reserve is kept within each domain; empty: over the whole fleet."""


class SubstrateRule(Wire, frozen=True):
    """Where node pools of `substrate: auto` with these labels go."""

    match: dict[str, str] = {}
    """Labels that the NodePool must have; empty: every one has them."""
    use: Literal["vm", "metal"] = "vm"
    reason: str = ""
    """For people."""


class SubstratePolicy(Wire, frozen=True):
    """Where node pools of `substrate: auto` go: the first rule that fits decides."""

    rules: tuple[SubstrateRule, ...] = ()
    otherwise: Literal["vm", "metal"] = "vm"
    hold_seconds: int = 3600
    """A pool that has a machine younger than this is not moved to the other substrate yet."""


class MetalPolicy(Wire, frozen=True):
    """Which bare servers node pools may claim."""

    claim_degraded: bool = True
    """False: none of whose tests is degraded, well behind its peers. What has such a server already keeps it."""


class RolesPolicy(Wire, frozen=True):
    """What servers of role `auto` become. One changes at a time."""

    minimum: int = 0
    """So many of them are hypervisors, whatever waits."""
    maximum: int = 1000
    """No more of them are."""
    spare: float = 0.1
    """Share of the other hypervisors' memory that is to be left free when one is given up, 0 to 1."""
    settle_seconds: int = 3600
    """No server changes its role more often: deploying and erasing it takes tens of minutes."""


class FleetPolicySpec(Wire, frozen=True):
    paused: str = ""
    """A reason: nothing is moved, restarted, fenced or replaced by itself until it is empty again."""
    balance: Balance = Balance()
    reserve: Reserve = Reserve()
    substrate: SubstratePolicy = SubstratePolicy()
    metal: MetalPolicy = MetalPolicy()
    roles: RolesPolicy = RolesPolicy()
    cpu_model: CpuChoice = "auto"
    """What guests know of their server's CPU that don't say otherwise. `auto`: all of it (`host-passthrough`) where all
    hypervisors have the same CPU, else the highest level that all of them have, so that every guest can move live to
    every server."""


class FleetPolicy(BedplateObject, frozen=True):
    """How the fleet is kept running. Only the one named `default` counts."""

    kind: Literal["FleetPolicy"] = "FleetPolicy"
    spec: FleetPolicySpec = FleetPolicySpec()
    status: Status = Status()
