"""Making machine entries: every choice that a machine needs is made here, so that running makes none."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from bedplate.model.blueprint import ImageRef, MachineEntry
from bedplate.model.cpus import HOST, CpuModel
from bedplate.model.ids import ClusterKey, Key, MachineUid, ServerName
from bedplate.model.kinds.base import MachineShape
from bedplate.model.report import Waiting
from bedplate.planner import addresses, identity
from bedplate.planner.context import Planning
from bedplate.planner.placement import Place, Request
from bedplate.planner.scope import parse_mib

_MIB = 2**20


class Size(msgspec.Struct, frozen=True):
    """A machine's shape in numbers; memory and disk in MiB."""

    cpu: int
    memory_mib: int
    disk_mib: int


def size_of(shape: MachineShape, image: ImageRef) -> Size:
    """The shape in numbers; a disk is never smaller than its image."""
    inside = -(-image.virtual_size // _MIB)
    return Size(shape.cpu, parse_mib(shape.memory), max(parse_mib(shape.disk), inside))


def differs(m: MachineEntry, shape: MachineShape, image: ImageRef | None, version: str) -> str:
    """What of the machine is not as declared, in words; empty where nothing is.

    Without a named image, a newer one of the same version is no difference: an import moves nothing by itself.
    """
    if m.substrate != shape.substrate and shape.substrate != "auto":
        return f"it is on {m.substrate}, not on {shape.substrate}"
    if m.version != version:
        return f"it has Kubernetes {m.version}, not {version}"
    if shape.image and image is not None and m.image != image:
        return f"its image is not what {image.name} is now"
    size = size_of(shape, m.image)
    if m.substrate == "metal":
        small = m.cpu < size.cpu or m.memory_mib < size.memory_mib
        return f"its server has {m.cpu} CPUs and {m.memory_mib} MiB, less than declared" if small else ""
    if (m.cpu, m.memory_mib) != (size.cpu, size.memory_mib):
        return f"it has {m.cpu} CPUs and {m.memory_mib} MiB, not {size.cpu} and {size.memory_mib}"
    if m.disk_mib != size.disk_mib:
        return f"its disk has {m.disk_mib} MiB, not {size.disk_mib}"
    if shape.cpu_model not in {"auto", m.cpu_model}:
        return f"its CPU is {m.cpu_model}, not {shape.cpu_model}"
    if shape.disk_pool and m.disk_pool != shape.disk_pool:
        return f"its disk is in pool {m.disk_pool}, not {shape.disk_pool}"
    return ""


class Mold(msgspec.Struct, frozen=True, kw_only=True):
    """What all new machines of one owner have in common."""

    owner: Key
    namespace: str
    prefix: str
    """Of their names."""
    cluster: ClusterKey
    role: str
    shape: MachineShape
    size: Size
    image: ImageRef
    version: str
    network: str
    cpu_model: CpuModel = HOST
    spread: str = ""
    node_labels: tuple[tuple[str, str], ...] = ()
    node_taints: tuple[str, ...] = ()
    drain_timeout: float = 600.0
    user_data: str = ""
    ssh_keys: tuple[str, ...] = ()
    priority: int = 0


def siblings(p: Planning, machines: list[MachineEntry], spread: str) -> tuple[Counter[ServerName], Counter[str]]:
    """How many of the machines are on each server and in each failure domain."""
    on_servers: Counter[ServerName] = Counter()
    in_domains: Counter[str] = Counter()
    for m in machines:
        on_servers[m.server] += 1
        if spread:
            in_domains[p.index.fleet.server(m.server).domains.get(spread, "")] += 1
    return on_servers, in_domains


def request(
    mold: Mold,
    on_servers: Counter[ServerName],
    in_domains: Counter[str],
    server_limit: int | None = None,
    domain_limit: int | None = None,
) -> Request:
    """What a new machine of the mold asks of a server."""
    return Request(
        cpu=mold.size.cpu,
        memory_mib=mold.size.memory_mib,
        disk_mib=mold.size.disk_mib,
        disk_pool=mold.shape.disk_pool,
        match=mold.shape.match,
        network=mold.network,
        cpu_model=mold.cpu_model,
        spread=mold.spread,
        on_servers=on_servers,
        in_domains=in_domains,
        server_limit=server_limit,
        domain_limit=domain_limit,
    )


def create(
    p: Planning,
    mold: Mold,
    place: Place,
    reason: str,
    address: str = "",
    mac: str = "",
    substrate: Literal["vm", "metal"] = "vm",
) -> MachineEntry | None:
    """Make a machine's entry at that place; None (and a wait on the owner) where the network is full.

    `address`, `mac`: fixed ones; empty: the next free address, a MAC address of its own.
    """
    network = p.index.network(mold.network)
    address = address or network.free_address()
    if not address:
        said = f"network {mold.network} has no free address in its ranges; widen them"
        p.wait(mold.owner, Waiting.NO_ADDRESS, said)
        return None
    uid = p.new_uid(mold.owner)
    lost = p.given_up.get(mold.owner)
    entry = MachineEntry(
        uid=uid,
        name=_free_name(p, mold, uid),
        namespace=mold.namespace,
        owner=mold.owner,
        cluster=mold.cluster,
        role=mold.role,  # type: ignore[arg-type]
        substrate=substrate,
        server=place.server,
        cpu=mold.size.cpu,
        memory_mib=mold.size.memory_mib,
        disk_mib=mold.size.disk_mib,
        disk_pool=place.disk_pool,
        image=mold.image,
        version=mold.version,
        cpu_model=mold.cpu_model,
        nic=addresses.nic(network, uid, mac or _free_mac(p, uid), address),
        reason=reason,
        created=p.now,
        replaces=lost.pop(0) if lost else MachineUid(""),
        user_data=mold.user_data,
        ssh_keys=mold.ssh_keys,
        node_labels=mold.node_labels,
        node_taints=mold.node_taints,
        drain_timeout=mold.drain_timeout,
        priority=mold.priority,
    )
    return p.put(entry, f"{entry.name} is created on {entry.server}: {reason}")


def _free_name(p: Planning, mold: Mold, uid: MachineUid) -> str:
    salt = 0
    while p.index.names[mold.namespace, name := identity.machine_name(mold.prefix, uid, salt)]:
        salt += 1
    return name


def _free_mac(p: Planning, uid: MachineUid) -> str:
    salt = 0
    while p.index.macs[mac := identity.mac_address(uid, salt)]:
        salt += 1
    return mac
