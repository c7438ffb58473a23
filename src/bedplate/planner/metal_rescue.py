"""Bare servers in rescue: a person looks into one from the RAM system, and nothing writes to its disks meanwhile.

What runs on it goes first: a node's pods move away, a hypervisor is emptied. What does not run is not waited for. It is
started once: from when its RAM system has reported, nothing restarts it under the person's hands.
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import Before, MachineEntry, MetalEntry
from bedplate.model.ids import key
from bedplate.model.report import Waiting, still_there
from bedplate.model.whereabouts import ram_system
from bedplate.planner.bare_server import again, into, late, runs_its_disk, system, wait
from bedplate.planner.context import Planning

_SLACK = 60.0
"""Seconds that a drain may take beyond its own time before nobody waits for it any more."""


def begin(p: Planning, entry: MetalEntry) -> None:
    """Nothing runs on it that is to go on: it is booted for the person."""
    if p.busy(entry.key) or p.busy(key("server", entry.server)):
        p.wait(entry.key, Waiting.STEP, "a step on it is still running")
        return
    assert entry.state == "available" or entry.state == "deployed" or entry.state == "quarantined"
    before = Before(state=entry.state, reason=entry.reason)
    into(p, entry, "rescue", "a person wants to look into it", before=before)


def held(p: Planning, entry: MetalEntry) -> None:
    """Have it run the RAM system for as long as that is wanted."""
    assert entry.before is not None
    if ram_system(p.inventory, entry) is not None and p.usable(entry.server):
        if not entry.before.up:
            up = msgspec.structs.replace(entry.before, up=True)
            told = msgspec.structs.replace(entry, before=up, tries=0, reason="a person looks into it")
            entry = p.put(told, f"the RAM system of {entry.server} is there")
            p.round_changed.update(p.index.units_on(entry.server))
        said = f"`bedplate server console {entry.server}` opens a shell in its RAM system"
        wait(p, entry, f"{said}, `bedplate server rescue {entry.server} --undo` ends it")
    elif not entry.before.up:
        if not late(p, entry, "its RAM system", _not_there):
            wait(p, entry, "its RAM system is to start")
    elif runs_its_disk(p, entry, entry.since):
        down = msgspec.structs.replace(entry.before, up=False)
        again(p, entry, "it booted from its disk, not from its medium", before=down)
    else:
        said = "its RAM system is not heard of. It is not started again under anybody's hands"
        wait(p, entry, f"{said}: end the rescue with --undo and begin it anew for that")


def _not_there(p: Planning, entry: MetalEntry, why: str) -> None:
    """What is on its disks may be well: it stays until the person gives up."""
    wait(p, entry, f"{why}. Look at its console; `bedplate server rescue {entry.server} --undo` ends it")


# --- what runs on it ----------------------------------------------------------------------------------------------


def of_node(p: Planning, entry: MetalEntry, m: MachineEntry, *, wanted: bool) -> None:
    """A machine runs from its disk: it is drained where it stands, and let pods again afterwards."""
    if m.desired != "run":
        return
    if not wanted:
        if m.cordon in {"drain", "drained"}:
            p.put(msgspec.structs.replace(m, cordon="lift"), f"{m.name} is to take pods again")
    elif m.cordon == "drain":
        p.wait(entry.key, Waiting.DRAIN, f"{entry.server} is to be in rescue: the pods of {m.name} are moving away")
    elif m.cordon == "drained" or not _takes_pods(p, m):
        begin(p, entry)
    else:
        p.put(msgspec.structs.replace(m, cordon="drain"), f"{m.name} is drained: {entry.server} is to be in rescue")
        p.round_changed.add(entry.key)


def _takes_pods(p: Planning, m: MachineEntry) -> bool:
    """It runs and is a Ready node that nobody has cordoned: only that one has anything to lose."""
    node = p.inventory.node(m.cluster, m.name)
    if system(p, m.server) != "node" or node is None or not node.value.present:
        return False
    return node.value.ready and not node.value.unschedulable and node.value.machine in {"", m.uid}


def drained(p: Planning, m: MachineEntry) -> MachineEntry:
    """Follow a node that is drained where it stands, or takes pods again; gives the machine as it is now."""
    node = p.inventory.node(m.cluster, m.name)
    if m.cordon == "drain":
        asked = p.attempt(m.key, "DrainNode").of(m.generation)
        over = asked.first + m.drain_timeout + _SLACK if asked.first else float("inf")
        runs = system(p, m.server) == "node" and node is not None and node.value.ready
        if asked.succeeded or p.now >= over or not runs:
            m = p.put(msgspec.structs.replace(m, cordon="drained"), f"{m.name} is drained")
            p.round_changed.add(key("metal", m.server))
        else:
            p.at(over)
    elif m.cordon == "lift" and node is not None and node.value.ready and not node.value.unschedulable:
        m = p.put(msgspec.structs.replace(m, cordon=""), f"{m.name} takes pods again")
    return m


def of_host(p: Planning, entry: MetalEntry) -> None:
    """It is a hypervisor: once nothing is on it, or all that was has ended with it."""
    left = [m for m in p.index.by_server.get(entry.server, {}).values() if not p.ended(m)]
    if left:
        wait(p, entry, f"it is to be in rescue; {still_there(len(left))}")
    else:
        begin(p, entry)
