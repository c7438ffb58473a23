"""The life of a machine as a table; the diagram in the docs is made from it.

A phase is for eyes only: it is derived anew from what is planned and observed, never kept.
"""

from __future__ import annotations

from enum import Enum

from bedplate.model.blueprint import MachineEntry
from bedplate.model.inventory import DomainView


class Phase(Enum):
    """Where a machine is in its life."""

    PENDING = "Pending"
    CREATING = "Creating"
    BOOTING = "Booting"
    JOINING = "Joining"
    RUNNING = "Running"
    READY = "Ready"
    NOT_READY = "NotReady"
    DOWN = "Down"
    STOPPED = "Stopped"
    FAILING = "Failing"
    DRAINING = "Draining"
    DELETING = "Deleting"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.CREATING, Phase.DELETING}),
    Phase.CREATING: frozenset({Phase.BOOTING, Phase.FAILING, Phase.STOPPED, Phase.DELETING}),
    Phase.BOOTING: frozenset(
        {Phase.JOINING, Phase.RUNNING, Phase.READY, Phase.DOWN, Phase.STOPPED, Phase.FAILING, Phase.DELETING}
    ),
    Phase.JOINING: frozenset({Phase.READY, Phase.NOT_READY, Phase.DOWN, Phase.FAILING, Phase.DELETING}),
    Phase.RUNNING: frozenset({Phase.STOPPED, Phase.DOWN, Phase.DELETING}),
    Phase.READY: frozenset({Phase.NOT_READY, Phase.DOWN, Phase.DRAINING, Phase.DELETING}),
    Phase.NOT_READY: frozenset({Phase.READY, Phase.DOWN, Phase.DRAINING, Phase.DELETING}),
    Phase.DOWN: frozenset({Phase.BOOTING, Phase.FAILING, Phase.DELETING}),
    Phase.STOPPED: frozenset({Phase.BOOTING, Phase.RUNNING, Phase.DELETING}),
    Phase.FAILING: frozenset(
        {Phase.CREATING, Phase.BOOTING, Phase.JOINING, Phase.RUNNING, Phase.READY, Phase.DELETING}
    ),
    Phase.DRAINING: frozenset({Phase.DELETING}),
    Phase.DELETING: frozenset(),
}
"""What can follow what, in one observation."""


def phase_of(
    m: MachineEntry, domain: DomainView | None, *, node_ready: bool | None, preparing: bool, failing: bool
) -> Phase:
    """Derive a machine's phase.

    Args:
        m: what is planned.
        domain: what its server shows; None: nothing yet.
        node_ready: whether its Node is Ready; None: there is none.
        preparing: nothing is being done to it yet.
        failing: a step of it has failed more than once in a row.
    """
    if m.desired == "remove":
        return Phase.DELETING
    if m.desired == "drain":
        return Phase.DRAINING
    running = domain is not None and domain.state == "running"
    if m.desired == "stop":
        return Phase.STOPPED if not running else Phase.RUNNING
    if running and node_ready:
        return Phase.READY
    if running and not m.is_node and _answers(m, domain):
        return Phase.RUNNING  # whatever went wrong on the way is over
    if failing:
        return Phase.FAILING
    if domain is None or (domain.state == "absent" and not domain.volume):
        return Phase.PENDING if preparing else Phase.CREATING
    if m.desired == "manual" and domain.state in {"defined", "shutoff", "crashed"}:
        return Phase.STOPPED
    if not running:
        return Phase.DOWN if domain.boot >= m.boot else Phase.CREATING
    return _running_phase(m, domain, node_ready)


def _running_phase(m: MachineEntry, domain: DomainView, node_ready: bool | None) -> Phase:
    if node_ready is not None:
        return Phase.NOT_READY
    if not _answers(m, domain):
        return Phase.BOOTING
    return Phase.JOINING if m.is_node else Phase.RUNNING


def _answers(m: MachineEntry, domain: DomainView | None) -> bool:
    return domain is not None and (domain.guest_agent or m.image.bootstrap != "guest-agent")


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.PENDING.value}"]
    for phase, followers in TRANSITIONS.items():
        lines.extend(f"    {phase.value} --> {f.value}" for f in sorted(followers, key=lambda p: p.value))
    lines.append(f"    {Phase.DELETING.value} --> [*]")
    return "\n".join(lines)


METAL_STATES: dict[tuple[str, str], str] = {
    ("enrolled", "inspecting"): "a person accepted it",
    ("inspecting", "testing"): "its hardware is known",
    ("testing", "available"): "no test failed",
    ("testing", "quarantined"): "a test failed",
    ("inspecting", "quarantined"): "the RAM system did not start, or the server has no disk that can be told apart",
    ("available", "inspecting"): "a person asked for it",
    ("available", "testing"): "a person asked for it",
    ("available", "erasing"): "a person asked for it, or retires it",
    ("available", "deploying"): "a pool claims it, or its role is to be a hypervisor",
    ("deploying", "deployed"): "the disk was written and read back, and the node or hypervisor on it reports",
    ("deploying", "erasing"): "its machine is not wanted any more, or its role is another",
    ("deploying", "available"): "the same, and its disks need no erasing",
    ("deploying", "quarantined"): "it did not come up after several tries",
    ("deployed", "erasing"): "its machine has left its cluster, as its user wished; or the hypervisor is empty",
    ("deployed", "available"): "the same, and its disks need no erasing",
    ("deployed", "quarantined"): "its machine was given up after a failure: what is on its disks is kept",
    ("erasing", "available"): "every disk was read back blank",
    ("erasing", "retired"): "the same, and a person retires it",
    ("erasing", "quarantined"): "a disk could not be proven to be blank",
    ("testing", "erasing"): "a person retires it",
    ("quarantined", "inspecting"): "a person asked for it",
    ("quarantined", "testing"): "a person asked for it",
    ("quarantined", "erasing"): "a person released what is on its disks, or retires it",
    ("retired", "inspecting"): "a person takes it back into service",
    ("available", "rescue"): "a person wants to look into it",
    ("deployed", "rescue"): "the same, and its node is drained, its hypervisor empty, or neither runs any more",
    ("quarantined", "rescue"): "a person wants to look into it",
    ("rescue", "deploying"): "a person is done with it: what is on its disk is booted again",
    ("rescue", "erasing"): "the same, and nobody used it, or what used it is not wanted any more",
    ("rescue", "available"): "the same, and its disks need no erasing",
    ("rescue", "quarantined"): "a person is done with it: what is on its disks is kept as before",
}
"""How a bare server's state may change, and on what. `enrolled`: declared, and accepted by nobody yet."""


def metal_diagram() -> str:
    """The table of bare servers' states as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> enrolled"]
    lines.extend(f"    {old} --> {new}: {why}" for (old, new), why in METAL_STATES.items())
    return "\n".join(lines)


STANDINGS: dict[tuple[str, str], str] = {
    ("well", "suspect"): "its agent is not heard of, and machines are on it",
    ("suspect", "fence"): "a second channel says that it is dead, or nobody reaches what runs there",
    ("suspect", "dead"): "its power is read as off and it renews no lease, or its leases and watchdog are over",
    ("fence", "dead"): "its power is read back as off, or, its BMC dead too, its leases and watchdog are over",
    ("suspect", "well"): "its agent is heard of again and has told all",
    ("fence", "well"): "the same, and the order to cut its power has ended",
    ("dead", "well"): "the same; what was started elsewhere is forgotten there first",
}
"""How a server's standing may change, and on what."""


def standing_diagram() -> str:
    """The table of standings as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> well"]
    lines.extend(f"    {old} --> {new}: {why}" for (old, new), why in STANDINGS.items())
    return "\n".join(lines)
