"""What the diff reads and gives, and the questions that all of it asks of the world. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from bedplate.model.attempts import Attempt, AttemptsByTarget
from bedplate.model.blueprint import Blueprint, ClusterEntry, MachineEntry
from bedplate.model.ids import ClusterKey, Generation, Key, MachineUid, ServerName
from bedplate.model.inventory import ClusterView, DomainView, Inventory, NodeView, Observation
from bedplate.model.report import Waiting
from bedplate.model.steps import Step


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry needs: a step with its reason, or something it waits on, or nothing (both None)."""

    step: Step | None = None
    reason: str = ""
    waiting: Waiting | None = None


def _no_joiners() -> dict[ClusterKey, frozenset[MachineUid]]:
    return {}


class World(msgspec.Struct, frozen=True, kw_only=True):
    """All that the diff reads."""

    blueprint: Blueprint
    inventory: Inventory
    attempts: AttemptsByTarget
    now: float
    control_planes: Mapping[Key, tuple[MachineEntry, ...]]
    """Control-plane entries by their cluster's key, in the order of their creation."""
    members: Mapping[ClusterKey, Set[Key]]
    """Keys of all entries of a cluster, its own included."""
    joins_at_once: int
    """As in `Policy`."""
    power_fresh: float = 5.0
    """As in `Policy`."""
    joiners: dict[ClusterKey, frozenset[MachineUid]] = msgspec.field(default_factory=_no_joiners)
    """Machines that join, as far as they were counted."""


SATISFIED = Next()


def wait(waiting: Waiting, reason: str) -> Next:
    """Nothing may run now, and why."""
    return Next(waiting=waiting, reason=reason)


def usable(world: World, server: ServerName) -> bool:
    """The server's agent is connected and has told all it knows."""
    seen = world.inventory.server(server)
    return seen is not None and seen.value.connected and f"agent/{server}" in world.inventory.synced


def domain_at(world: World, m: MachineEntry) -> DomainView:
    """What the machine's server shows of it."""
    seen = world.inventory.domain(m.server, m.uid)
    return seen.value if seen is not None else DomainView(server=m.server, uid=m.uid)


def cluster_view(world: World, cluster: ClusterEntry) -> ClusterView:
    """The cluster as seen from outside; an empty view where nothing was seen."""
    observed = world.inventory.cluster(cluster.cluster)
    return observed.value if observed is not None else ClusterView(cluster=cluster.cluster)


def is_node_of(node: Observation[NodeView] | None, m: MachineEntry) -> bool:
    """True where the node was seen and is this machine's, not one of an earlier machine with that name."""
    return node is not None and node.value.present and node.value.machine in {"", m.uid}


def attempt(world: World, target: Key, step: str, generation: Generation | None = None) -> Attempt:
    """The history of a step on a target; of that generation alone where one is given."""
    found = world.attempts.get(target, {}).get(step)
    if found is None:
        return Attempt()
    return found if generation is None else found.of(generation)
