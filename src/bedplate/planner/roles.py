"""What bare servers of role `auto` are: hypervisors or free for pools on metal, as what waits for room needs them.

One changes at a time, none more often than the fleet's policy allows, and none while any hypervisor is not heard of:
the observer may be what fails (rule 6). A server that nobody uses becomes a hypervisor; a hypervisor is given up only
where all that is on it finds room elsewhere, with the policy's spare beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from bedplate.model.blueprint import MachineEntry, MetalEntry
from bedplate.model.ids import key
from bedplate.model.kinds.fleet import RolesPolicy
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.labels import matches
from bedplate.model.report import Wanted
from bedplate.planner import peers, servers
from bedplate.planner.context import Planning
from bedplate.planner.fleet import ServerState
from bedplate.planner.metal_pools import root_disk


class _Auto(msgspec.Struct, frozen=True):
    entry: MetalEntry
    declared: Server


def decide(p: Planning) -> None:
    """Change at most one server's role. The fleet is the unit at work, and all others have been looked at."""
    autos = sorted(_autos(p), key=lambda a: a.entry.server)
    if not autos or p.paused() or servers.unheard(p)[0]:
        return
    policy = p.spec.fleet.roles
    hosts = [a for a in autos if a.entry.counts_as_host]
    wanted = list(p.wanted_room())
    vms = [w for w in wanted if w.substrate == "vm"]
    going = next((a for a in autos if a.entry.role == "free" and a.entry.host is not None), None)
    if going is not None and vms and going.entry.state == "deployed" and p.index.by_server.get(going.entry.server):
        _turn(p, going.entry, "hypervisor", "it is needed as one again, and was not given up yet")
    elif any(_changes(a.entry) for a in autos):
        return
    elif len(hosts) < policy.minimum:
        _grow(p, autos, (), f"the fleet's policy wants {policy.minimum} hypervisors at least", policy)
    elif vms and len(hosts) < policy.maximum and not any(_is_unused(p, a.entry) for a in hosts):
        what = "something waits" if len(vms) == 1 else f"{len(vms)} things wait"
        _grow(p, autos, vms, f"{what} for room on hypervisors", policy)
    elif len(hosts) > policy.minimum:
        _shrink(p, hosts, [w for w in wanted if w.substrate == "metal"], policy)


def _autos(p: Planning) -> Iterable[_Auto]:
    """Those whose role is the planner's, and that nobody wants for anything else now."""
    for entry in p.index.all_metal():
        declared = p.spec.servers.get(key("server", entry.server))
        if declared is None or declared.spec.role != "auto" or declared.metadata.deletion_timestamp:
            continue
        state = p.index.fleet.server(entry.server)
        metal = declared.spec.metal
        if not (p.paused(declared) or metal.retired or metal.rescue or state.in_maintenance(p.now)):
            yield _Auto(entry, declared)


def _changes(e: MetalEntry) -> bool:
    """It is on its way to what it is to be."""
    if e.role == "hypervisor":
        return e.state in {"available", "deploying"}
    return e.host is not None or e.state == "erasing"


def _is_unused(p: Planning, e: MetalEntry) -> bool:
    """It is a hypervisor with nothing on it: what waits does not fit there, for reasons that one more would not end."""
    return e.state == "deployed" and not p.index.by_server.get(e.server)


def _settled(p: Planning, e: MetalEntry, policy: RolesPolicy) -> bool:
    until = e.role_since + policy.settle_seconds if e.role_since else 0.0
    p.at(until)
    return until <= p.now


def _turn(p: Planning, e: MetalEntry, role: Literal["free", "hypervisor"], why: str) -> None:
    p.put(msgspec.structs.replace(e, role=role, role_since=p.now), f"{e.server} is to be {_NAMES[role]}: {why}")
    p.round_changed.add(e.key)


_NAMES = {"hypervisor": "a hypervisor", "free": "free for pools on metal"}


# --- one more hypervisor ------------------------------------------------------------------------------------------


def _grow(p: Planning, autos: list[_Auto], vms: Iterable[Wanted], why: str, policy: RolesPolicy) -> None:
    """The largest server that nobody uses and on which any of these would find room; of none in particular, any."""
    vms = list(vms)
    found = [
        a.entry
        for a in autos
        if a.entry.state == "available" and _settled(p, a.entry, policy) and not p.busy(a.entry.key)
        and _may_host(p, a) and (not vms or any(_suits(p, a.entry, w) for w in vms))
    ]  # fmt: skip
    if not found:
        return
    best = max(found, key=lambda e: (not peers.degraded(e.tests), _memory(e), e.server))
    _turn(p, best, "hypervisor", why)


def _may_host(p: Planning, a: _Auto) -> bool:
    """It is well, and there is an image and a disk for it."""
    state, images = p.index.fleet.server(a.entry.server), p.index.images
    image = images.refs.get(a.declared.spec.metal.image or images.newest_host)
    if state.failing or state.unschedulable or image is None or a.entry.hardware is None:
        return False
    return root_disk(a.entry.hardware.disks, a.declared.spec.metal.root_disk, image.virtual_size >> 20) is not None


def _memory(e: MetalEntry) -> int:
    return e.hardware.memory_mib if e.hardware is not None else 0


def _suits(p: Planning, e: MetalEntry, w: Wanted) -> bool:
    """It is large enough and has the labels that are asked for."""
    labels, hardware = p.index.fleet.server(e.server).labels, e.hardware
    large = hardware is not None and hardware.memory_mib >= w.memory_mib and hardware.threads >= w.cpu
    return large and w.network == e.nic.network and matches(w.match, labels)


# --- one less -----------------------------------------------------------------------------------------------------


def _shrink(p: Planning, hosts: list[_Auto], metal: list[Wanted], policy: RolesPolicy) -> None:
    """The least used hypervisor that a waiting pool on metal could claim, if all that is on it finds room elsewhere."""
    if not metal:
        return
    found = [
        a.entry
        for a in hosts
        if a.entry.state == "deployed" and _settled(p, a.entry, policy)
        and any(_suits(p, a.entry, w) for w in metal) and _can_do_without(p, a.entry, policy)
    ]  # fmt: skip
    if found:
        least = min(found, key=lambda e: (p.index.fleet.server(e.server).memory_used, e.server))
        _turn(p, least, "free", "a pool on metal waits for a server, and what runs on it finds room elsewhere")


def _can_do_without(p: Planning, e: MetalEntry, policy: RolesPolicy) -> bool:
    """Its machines can leave, and fit on the others with the spare; none of them is in trouble now."""
    machines = [m for m in p.index.by_server.get(e.server, {}).values() if m.desired in {"run", "stop", "manual"}]
    if len(machines) < len(p.index.by_server.get(e.server, {})) or p.index.retained_on(e.server):
        return False
    if any(not m.is_node and not p.index.fleet.is_shared(m.disk_pool) for m in machines):
        return False  # a user's own, which only its user can take away
    others = [s for s in p.index.fleet.servers.values() if s.name != e.server and _takes(p, s)]
    room = sum(s.memory_capacity for s in others)
    used = sum(s.memory_used for s in others) + sum(m.memory_mib for m in machines)
    return used <= room * (1.0 - policy.spare) and _fit(machines, others)


def _takes(p: Planning, s: ServerState) -> bool:
    return s.hypervisor and s.connected and not s.unschedulable and not s.failing and not s.emptied_because(p.now)


def _fit(machines: list[MachineEntry], others: list[ServerState]) -> bool:
    """The largest first, each where the most is free."""
    free = {s.name: [s.memory_capacity - s.memory_used, s.cpu_capacity - s.cpu_used] for s in others}
    for m in sorted(machines, key=lambda m: (-m.memory_mib, m.uid)):
        fitting = [name for name, (memory, cpu) in free.items() if memory >= m.memory_mib and cpu >= m.cpu]
        if not fitting:
            return False
        best = max(fitting, key=lambda name: (free[name][0], name))
        free[best][0] -= m.memory_mib
        free[best][1] -= m.cpu
    return True
