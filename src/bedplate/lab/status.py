"""What a lab tells about itself, as structs for programs and for `bedplate lab status -o json`. No I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.lab.config import LabNetwork, Link


class HypervisorStatus(msgspec.Struct, frozen=True):
    """One hypervisor as it is now."""

    name: str
    address: str
    host_uuid: str
    power: Literal["on", "off", "frozen", "dead"]
    """`dead`: it should be on and is not; `Lab.up` mends it."""
    uplink: Link
    libvirt: bool
    """Whether its libvirt answers."""
    uri: str
    """For libvirt clients on the host."""
    services: tuple[str, ...]
    """Names of what `spawn_agent` has put there."""


class LabStatus(msgspec.Struct, frozen=True):
    """The lab as it is now."""

    name: str
    folder: str
    phase: Literal["down", "rising", "up", "falling", "broken"]
    """`broken`: a part is dead or missing, or `up` was interrupted; `Lab.up` mends it."""
    network: LabNetwork
    socks_port: int = 0
    relays: dict[str, int] = {}
    switch: bool = False
    gateway: bool = False
    hypervisors: tuple[HypervisorStatus, ...] = ()

    @property
    def socks_url(self) -> str:
        """For the `proxy-url` of a kubeconfig."""
        return f"socks5://127.0.0.1:{self.socks_port}"
