"""Virtual machines: a user's own beside Kubernetes, or one that a Machine owns (read-only to users)."""

from __future__ import annotations

from typing import Literal

from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.wire import Wire

RunStrategy = Literal["Always", "RerunOnFailure", "Manual", "Halted"]


class VirtualMachineSpec(Wire, frozen=True):
    run_strategy: RunStrategy = "Always"
    """As KubeVirt has it. `Always`: kept running. `RerunOnFailure`: started, and again after failures only. `Manual`:
    people start and stop it. `Halted`: kept off."""
    cpu: int = 1
    memory: str = "1Gi"
    disk: str = "10Gi"
    image: str = ""
    network: str = ""
    address: str = ""
    """A fixed address out of the network; empty: the next free one."""
    disk_pool: str = ""
    match: dict[str, str] = {}
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
