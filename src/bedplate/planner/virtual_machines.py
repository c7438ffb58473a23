"""Users' own virtual machines, beside Kubernetes in the same pool of servers, with KubeVirt's run strategies."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from bedplate.model.blueprint import ImageRef, MachineEntry
from bedplate.model.ids import ClusterKey, Key
from bedplate.model.kinds.base import MachineShape
from bedplate.model.kinds.virtual_machine import RunStrategy, VirtualMachine
from bedplate.model.report import Waiting
from bedplate.planner import affinity, clusters, cpus, machines, moves, placement, recover, relocation, spare
from bedplate.planner.context import Planning
from bedplate.planner.leaving import leave
from bedplate.planner.scope import parse_mib


def settle(p: Planning, unit: Key) -> None:
    """Follow the declaration of one VM that exists: let it go, start or stop it, recover it, resize it."""
    declared = p.spec.virtual_machines.get(unit)
    wanted = declared is not None and not declared.metadata.deletion_timestamp
    for m in list(p.index.by_owner.get(unit, {}).values()):
        if m.desired == "remove":
            continue
        if m.source:
            moves.settle(p, m)
            m = p.index.by_owner[unit][m.key]
        if declared is None or not wanted:
            leave(p, m, "its VirtualMachine is deleted")
        else:
            _follow(p, declared, m)


def _follow(p: Planning, v: VirtualMachine, m: MachineEntry) -> None:
    m = _cpu(p, v, _resize(p, v, m))
    desired = _DESIRED[v.spec.run_strategy]
    if desired != m.desired:
        seen = p.domain(m)
        ended = seen is not None and seen.value.state not in {"running", "paused"} and seen.value.boot >= m.boot
        again = desired == "run" and ended
        entry = msgspec.structs.replace(m, desired=desired, boot=m.boot + again)
        what = "started and stopped by people" if desired == "manual" else f"to {desired}"
        p.put(entry, f"{m.name} is {what}: its run strategy is {v.spec.run_strategy}")
        return
    if m.desired in {"run", "manual"} and not m.source:
        _recover(p, v, _landed(p, m))


def _landed(p: Planning, m: MachineEntry) -> MachineEntry:
    """One that was started elsewhere runs there now: its disk is like any other."""
    d = p.domain(m)
    if m.carried and p.usable(m.server) and d is not None and d.value.state == "running" and d.value.boot >= m.boot:
        return p.put(msgspec.structs.replace(m, carried=False), f"{m.name} runs on {m.server}")
    return m


_DESIRED: dict[RunStrategy, Literal["run", "stop", "manual"]] = {
    "Always": "run",
    "RerunOnFailure": "run",
    "Manual": "manual",
    "Halted": "stop",
}


def _recover(p: Planning, v: VirtualMachine, m: MachineEntry) -> None:
    verdict = recover.judge(p, m, None)
    if verdict is None:
        return
    if reason := p.paused(v):
        p.wait(m.key, Waiting.PAUSED, f"{verdict.sentence}; nothing is done about it, because {reason}")
        return
    if not verdict.disk:
        leave(p, m, f"it is replaced: {verdict.sentence}")
        p.given_up.setdefault(m.owner, []).append(m.uid)
        return
    seen = p.domain(m)
    state = seen.value.state if seen is not None else "absent"
    clean = state == "shutoff"
    if v.spec.run_strategy == "Manual" or (v.spec.run_strategy == "RerunOnFailure" and clean):
        return
    recent = recover.restarts(p, m)
    if verdict.action == "replace" and len(recent) < p.policy.boot_limit:
        p.wait(m.key, Waiting.BACKOFF, verdict.sentence)  # a step fails: its disk is its user's, so it is not replaced
        return
    if len(recent) >= p.policy.boot_limit:
        again = recent[-p.policy.boot_limit] + p.policy.boot_window
        p.at(again)
        p.wait(m.key, Waiting.BACKOFF, f"{verdict.sentence}; it is started again in {(again - p.now) / 60:.0f} min")
        return
    entry = msgspec.structs.replace(m, boot=m.boot + 1, restarts=(*recent, p.now), reason=verdict.sentence)
    p.put(entry, f"{m.name} is started again (boot {entry.boot}): {verdict.sentence}")


def _resize(p: Planning, v: VirtualMachine, m: MachineEntry) -> MachineEntry:
    """Take over edited CPU and memory where they fit; a running guest has them after its next start."""
    cpu, memory = v.spec.cpu, parse_mib(v.spec.memory)
    if (cpu, memory) == (m.cpu, m.memory_mib):
        return m
    server = p.index.fleet.server(m.server)
    fits = server.memory_used - m.memory_mib + memory <= server.memory_capacity
    fits = fits and server.cpu_used - m.cpu + cpu <= server.cpu_capacity
    grows = cpu > m.cpu or memory > m.memory_mib
    if grows and not fits:
        p.wait(m.key, Waiting.NO_ROOM, f"server {m.server} has no room for {cpu} CPUs and {memory} MiB")
        return m
    if not grows:
        p.freed = True
    entry = msgspec.structs.replace(m, cpu=cpu, memory_mib=memory)
    return p.put(entry, f"{m.name} gets {cpu} CPUs and {memory} MiB at its next start")


def _cpu(p: Planning, v: VirtualMachine, m: MachineEntry) -> MachineEntry:
    """Take over an edited CPU model while it is off: as long as it runs, it moves with what it was started with."""
    model = cpus.chosen(p, v.spec.cpu_model)
    same = v.spec.cpu_model == "auto" or model == m.cpu_model
    if same or m.source or relocation.runs(p, m) or not p.usable(m.server):
        return m
    if not placement.holds(p.index.fleet.server(m.server), model, ""):
        p.wait(m.key, Waiting.NO_ROOM, f"server {m.server} has no CPU of {model}")
        return m
    return p.put(msgspec.structs.replace(m, cpu_model=model), f"{m.name} gets a CPU of {model}")


def grow(p: Planning, unit: Key) -> None:
    """Make the machine of a VM that has none."""
    v = p.spec.virtual_machines.get(unit)
    if v is None or v.metadata.deletion_timestamp:
        return
    if any(m.desired != "remove" for m in p.index.by_owner.get(unit, {}).values()):
        return
    network = clusters.network_name(p, unit, v.spec.network)
    image = p.index.images.refs.get(v.spec.image)
    if image is None:
        meant = f"image {v.spec.image} does not exist or has no disk" if v.spec.image else "it names no image"
        p.wait(unit, Waiting.NO_IMAGE, meant)
    if not network or image is None:
        return
    if v.spec.address and not p.index.network(network).is_free(v.spec.address):
        p.wait(unit, Waiting.NO_ADDRESS, f"address {v.spec.address} on network {network} is taken")
        return
    mold = _mold(p, unit, v, image, network)
    w = affinity.wishes(p, v)
    r = machines.request(mold, Counter(w.crowd), Counter())
    r = msgspec.structs.replace(r, forbidden=w.forbidden, required=w.required)
    replaces = bool(p.index.by_owner.get(unit))
    place = spare.place(p, unit, r, f"VirtualMachine {v.metadata.name} is not placed", replaces=replaces)
    if place is None:
        return
    m = machines.create(p, mold, place, "its VirtualMachine is declared", v.spec.address)
    desired = _DESIRED[v.spec.run_strategy]
    if m is not None and desired != "run":
        p.put(msgspec.structs.replace(m, desired=desired), f"{m.name} is not started: {v.spec.run_strategy}")


def _mold(p: Planning, unit: Key, v: VirtualMachine, image: ImageRef, network: str) -> machines.Mold:
    s = v.spec
    shape = MachineShape(cpu=s.cpu, memory=s.memory, disk=s.disk, image=s.image, disk_pool=s.disk_pool, match=s.match)
    return machines.Mold(
        owner=unit,
        namespace=v.metadata.namespace,
        prefix=v.metadata.name,
        cluster=ClusterKey(""),
        role="vm",
        shape=shape,
        size=machines.size_of(shape, image),
        image=image,
        version="",
        network=network,
        cpu_model=cpus.chosen(p, s.cpu_model),
        user_data=f"{v.metadata.namespace}/{s.user_data}" if s.user_data else "",
        ssh_keys=s.ssh_keys,
        priority=s.priority,
    )
