"""What a lab tells about itself, as structs for programs and for `bedplate lab status -o json`. Changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import msgspec

from bedplate.lab import bmc, faults, hypervisor, metal, processes
from bedplate.lab.config import HypervisorState, LabNetwork, LabState, Link, MetalDisk, MetalState
from bedplate.lab.keeper import Keeper


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
    bmc_address: str = ""
    """Address of its BMC on the host, as a Server object names it."""
    bmc: bool = False
    """Whether the BMC runs; a fault may still make it slow or silent."""
    watchdog: bool = False
    """Whether its watchdog is there; always so while it has power."""
    faults: tuple[str, ...] = ()
    """What is broken on purpose, in a few words each."""


class MetalStatus(msgspec.Struct, frozen=True):
    """One bare server as it is now."""

    name: str
    host_uuid: str
    power: Literal["on", "off"]
    bmc_address: str
    bmc: bool
    """Whether the BMC runs; a fault may still make it slow or silent."""
    boot: str
    """What it boots from first, such as `Cd once`; `None`: as its firmware likes."""
    medium: str
    """URL of what is in its CD drive; empty: nothing."""
    memory: int
    """MiB."""
    cpus: int
    macs: tuple[str, ...]
    disks: tuple[MetalDisk, ...]
    console: str
    """File that its serial console is kept in."""
    faults: tuple[str, ...] = ()


class LabStatus(msgspec.Struct, frozen=True):
    """The lab as it is now."""

    name: str
    folder: str
    phase: Literal["down", "rising", "up", "falling", "broken"]
    """`broken`: a part is dead or missing and no fault says so, or `up` was interrupted; `Lab.up` mends it."""
    network: LabNetwork
    socks_port: int = 0
    relays: dict[str, int] = {}
    switch: bool = False
    gateway: bool = False
    hypervisors: tuple[HypervisorStatus, ...] = ()
    servers: tuple[MetalStatus, ...] = ()
    """Bare servers."""

    @property
    def socks_url(self) -> str:
        """For the `proxy-url` of a kubeconfig."""
        return f"socks5://127.0.0.1:{self.socks_port}"


def look(lab: Keeper, state: LabState) -> LabStatus:
    """Tell how a lab is now. Asks each libvirt, for at most three seconds, all at once."""
    with ThreadPoolExecutor(8) as pool:
        each = tuple(pool.map(partial(_hypervisor, lab), state.hypervisors.values()))
    bare = tuple(_metal(lab, one) for one in state.servers.values())
    switch, gateway = processes.alive(state.switch), processes.alive(state.gateway)
    phase = state.phase
    meant = all(_as_meant(one) for one in each) and all(one.bmc or "power-feed" in one.faults for one in bare)
    if phase == "up" and not (switch and gateway and meant):
        phase = "broken"
    return LabStatus(
        lab.name,
        str(lab.folder),
        phase,
        state.network,
        state.socks_port,
        dict(state.relays),
        switch,
        gateway,
        each,
        bare,
    )


def _metal(lab: Keeper, one: MetalState) -> MetalStatus:
    return MetalStatus(
        one.name,
        one.host_uuid,
        "on" if metal.powered(lab.folder, one) else "off",
        bmc.address(one),
        bmc.alive(one),
        f"{one.boot} once" if one.boot_once else one.boot,
        one.medium,
        one.memory,
        one.cpus,
        one.macs,
        one.disks,
        str(hypervisor.log_path(lab.folder, one.name, metal.CONSOLE)),
        tuple(faults.describe(kept.fault) for kept in one.faults.values()),
    )


def _as_meant(one: HypervisorStatus) -> bool:
    """Whether what is dead of it is so on purpose."""
    bmc_meant = one.bmc or "power-feed" in one.faults
    return one.power != "dead" and bmc_meant and (one.watchdog or one.power == "off")


def _hypervisor(lab: Keeper, one: HypervisorState) -> HypervisorStatus:
    power: Literal["on", "off", "frozen", "dead"]
    if not processes.alive(one.process):
        power = "off" if one.power == "off" else "dead"
    elif hypervisor.frozen(one, lab.cgroups):
        power = "frozen"
    else:
        power = "on"
    return HypervisorStatus(
        one.name,
        one.address,
        one.host_uuid,
        power,
        one.uplink,
        power == "on" and hypervisor.answers(lab.folder, one.name),
        hypervisor.uri(lab.folder, one.name),
        hypervisor.services(lab.folder, one.name),
        bmc.address(one),
        bmc.alive(one),
        processes.alive(one.process) and processes.alive(one.watchdog),
        tuple(faults.describe(kept.fault) for kept in one.faults.values()),
    )
