"""Where a machine is right now: on its server, or, while it moves live, still where it comes from; and whether a bare
server runs the RAM system that is wanted. Decides nothing."""

from __future__ import annotations

from bedplate.model.blueprint import MachineEntry, MetalEntry
from bedplate.model.ids import ServerName
from bedplate.model.inventory import DomainView, Inventory, MetalView, Observation

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


def ram_system(inventory: Inventory, e: MetalEntry) -> MetalView | None:
    """What the RAM system was last heard to tell in the boot that is wanted; None where that boot was not heard of.

    Whether its agent is usable now is asked by whoever acts on it.
    """
    seen, told = inventory.server(e.server), inventory.metal(e.server)
    here = seen is not None and seen.value.system == "ram" and seen.value.run == e.run
    return told.value if here and told is not None and told.value.run == e.run else None
