"""Virtual machines: a user's own beside Kubernetes, or one that a Machine owns (read-only to users)."""

from __future__ import annotations

from typing import Literal

from bedplate.model.cpus import CpuChoice
from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.wire import Wire

RunStrategy = Literal["Always", "RerunOnFailure", "Manual", "Halted"]


class PlacementRule(Wire, frozen=True):
    """Other virtual machines of the namespace that this one is to be with, or apart from."""

    match: dict[str, str] = {}
    """Their labels."""
    over: str = ""
    """A failure-domain label, such as `rack`; empty: the server."""
    strength: Literal["must", "should"] = "must"


class VirtualMachineSpec(Wire, frozen=True):
    run_strategy: RunStrategy = "Always"
    """As KubeVirt has it. `Always`: kept running. `RerunOnFailure`: started, and again after failures only. `Manual`:
    people start and stop it. `Halted`: kept off."""
    cpu: int = 1
    cpu_model: CpuChoice = "auto"
    """What its guest knows of its server's CPU, from its next start on. `auto`: as the FleetPolicy says."""
    memory: str = "1Gi"
    disk: str = "10Gi"
    image: str = ""
    network: str = ""
    address: str = ""
    """A fixed address out of the network; empty: the next free one."""
    disk_pool: str = ""
    match: dict[str, str] = {}
    affinity: tuple[PlacementRule, ...] = ()
    """To be in one place with these."""
    anti_affinity: tuple[PlacementRule, ...] = ()
    """To be apart from these, also where they come later."""
    after: tuple[str, ...] = ()
    """Names of virtual machines that start before this one when their servers have died; waited for 5 min at most."""
    priority: int = 0
    """After a server's death, machines with a higher one are started first; control planes before all."""
    user_data: str = ""
    """Name of a Secret whose key `userdata` is cloud-init's user data."""
    ssh_keys: tuple[str, ...] = ()


class VirtualMachineStatus(Status, frozen=True):
    server: str = ""
    address: str = ""
    domain_state: str = ""
    boots: int = 0
    step: str = ""


class VirtualMachine(BedplateObject, frozen=True):
    """A machine on a hypervisor."""

    kind: Literal["VirtualMachine"] = "VirtualMachine"
    spec: VirtualMachineSpec = VirtualMachineSpec()
    status: VirtualMachineStatus = VirtualMachineStatus()
