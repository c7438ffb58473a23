"""Where a machine is right now: on its server, while it moves live still where it comes from, or left behind; and
whether a bare server runs the RAM system that is wanted. Decides nothing."""

from __future__ import annotations

from bedplate.model.attempts import Attempts
from bedplate.model.blueprint import ClusterEntry, MachineEntry, MetalEntry, ServerEntry
from bedplate.model.ids import ServerName
from bedplate.model.inventory import DomainView, Inventory, MetalView, Observation
from bedplate.model.kinds.infrastructure import Server, ServerRole

_ENDS_OF_DISKS = frozenset({"CreateVolume", "RetainVolume", "DeleteVolume"})
ALIVE = frozenset({"running", "paused"})
"""States of a domain that has a QEMU process, which may write to its disk."""


def servers_of(m: MachineEntry) -> tuple[ServerName, ...]:
    """The servers on which the machine may rightly be known."""
    return (m.server, m.source) if m.source else (m.server,)


def domain_of(inventory: Inventory, m: MachineEntry) -> Observation[DomainView] | None:
    """The latest observation of the machine's domain, at whichever end of a move it runs."""
    here = inventory.domain(m.server, m.uid)
    if not m.source or (here is not None and here.value.state == "running"):
        return here
    return inventory.domain(m.source, m.uid) or here


def strays(inventory: Inventory, m: MachineEntry) -> list[Observation[DomainView]]:
    """Domains of the machine where it should not be known any more: left behind by a move or by a server's death."""
    right = (m.server,) if m.desired == "remove" else servers_of(m)
    return [o for o in inventory.domains(m.uid) if o.value.server not in right and o.value.state != "absent"]


def left_bare(inventory: Inventory, entry: MetalEntry | None, m: MachineEntry, *, usable: bool) -> bool:
    """The end of a machine on a bare server is confirmed: the server runs a later RAM system, its power was read as off
    since it was given up, or it has become another's.

    Args:
        entry: Of the bare server.
        usable: Whether what its agent tells now is to be believed.
    """
    if entry is None or entry.machine != m.uid:
        return True
    if entry.state in {"deploying", "deployed"}:
        return False
    seen, bmc = inventory.server(m.server), inventory.bmc(m.server)
    booted = seen is not None and seen.value.system == "ram" and seen.value.run >= entry.run and usable
    return booted or (bmc is not None and bmc.value.power == "off" and bmc.time >= entry.since)


def role_of(declared: Server, entry: MetalEntry | None) -> ServerRole:
    """What a server is to be: as declared, or where that is left to planning, as it has it."""
    if declared.spec.role != "auto":
        return declared.spec.role
    return entry.role if entry is not None else "free"


def in_rescue(inventory: Inventory, entry: MetalEntry | None, m: MachineEntry, *, usable: bool) -> bool:
    """A machine on a bare server that a person looks into has ended for now: the RAM system runs.

    Args:
        entry: Of the bare server.
        usable: Whether what its agent tells now is to be believed.
    """
    mine = entry is not None and entry.machine == m.uid and entry.state == "rescue"
    return mine and entry is not None and usable and ram_system(inventory, entry) is not None


def left_as_learner(cluster: ClusterEntry, m: MachineEntry, attempts: Attempts) -> bool:
    """A machine that is given up while kubeadm joins it: etcd may know it as a learner, and takes no other beside it,
    until it was asked to forget it."""
    if m.role != "control-plane" or m.joined or m.uid == cluster.first_machine:
        return False
    begun, asked = attempts.get("Bootstrap"), attempts.get("RemoveEtcdMember")
    forgotten = asked is not None and asked.of(m.generation).succeeded > 0.0
    return begun is not None and bool(begun.first or begun.succeeded) and not forgotten


def switched_on_since(lost: ServerEntry, attempts: Attempts) -> bool:
    """A dead server was ordered to be on again, or may have been: what lies on its own disk may run.

    Args:
        attempts: Of the server's entry; only of a bare server that is a node is one `PowerOn`.
    """
    tried = attempts.get("PowerOn")
    return tried is not None and (tried.running or max(tried.succeeded, tried.last) > lost.confirmed)


def left_on_pool(m: MachineEntry, attempts: Attempts) -> bool:
    """A machine that is given up before its new server took its disk over: the disk may lie on the shared pool, as the
    dead server's, until the new one was asked to take it (`CreateVolume`) and has kept or deleted it, or found none."""
    if not m.carried:
        return False
    tried = {step: a.of(m.generation) for step, a in attempts.items() if step in _ENDS_OF_DISKS}
    missing = "CreateVolume" in tried and tried["CreateVolume"].last_error_reason == "VolumeMissing"
    return not missing and not any(a.succeeded > 0.0 for a in tried.values())


def ram_system(inventory: Inventory, e: MetalEntry) -> MetalView | None:
    """What the RAM system was last heard to tell in the boot that is wanted; None where that boot was not heard of.

    Whether its agent is usable now is asked by whoever acts on it.
    """
    seen, told = inventory.server(e.server), inventory.metal(e.server)
    here = seen is not None and seen.value.system == "ram" and seen.value.run == e.run
    return told.value if here and told is not None and told.value.run == e.run else None
