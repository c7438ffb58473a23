"""Telling a story in the simulated world: declare, wait until Ready, let things go wrong, and compare the endings."""

from __future__ import annotations

from collections.abc import Iterable

from bedplate.model.ids import Key
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.meta import condition
from bedplate.model.spec import object_key
from bedplate.sim import truth
from bedplate.sim.simulator import Simulator

WORKLOAD = (Cluster, NodePool, VirtualMachine)


class StoryError(AssertionError):
    """The story did not go as told; its text holds the last lines of the history."""


class Story:
    """Drives a simulator by what users care about."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim

    def workload(self) -> list[Object]:
        """Clusters, pools and VMs as the store shows them."""
        return [o for o in self.sim.store.objects.values() if isinstance(o, WORKLOAD)]

    def unready(self) -> list[str]:
        """Objects that are not Ready for their present generation, with what they say."""
        found: list[str] = []
        for obj in self.workload():
            status = obj.status  # type: ignore[attr-defined]
            ready = condition(status.conditions, "Ready")
            if ready is None or ready.status != "True" or ready.observed_generation != obj.metadata.generation:
                said = f"{ready.reason}: {ready.message}" if ready is not None else "has no status"
                found.append(f"{object_key(obj)}: {said}")
        return found

    def declare(self, *objects: Object, seconds: float = 30_000.0) -> None:
        """Declare objects and wait until everything is Ready."""
        self.sim.apply(*objects)
        self.until_ready(seconds)

    def until_ready(self, seconds: float = 30_000.0) -> None:
        """Let time pass until all is Ready and nothing is under way."""
        self._must(lambda: not self.unready() and self.settled(), seconds, "not everything became Ready")

    def settled(self) -> bool:
        """True while no step is in flight and the world is as the blueprint."""
        engine = self.sim.engine
        return (
            self.sim.controller.alive
            and not engine.flight.operations
            and engine.blueprint.number == self.sim.store.blueprint.number
            and not engine.waiting
            and all(n.step is None and n.waiting is None for n in engine.next.values())
        )

    def delete_all(self, seconds: float = 30_000.0) -> None:
        """Delete the whole workload and wait until it is gone."""
        for obj in self.workload():
            self.sim.delete(object_key(obj))
        self._must(lambda: not self.workload() and self.settled(), seconds, "not everything went")

    def _must(self, condition_: object, seconds: float, complaint: str) -> None:
        assert callable(condition_)
        self.check()
        if not self.sim.run(lambda: bool(condition_()), seconds=seconds):
            raise StoryError(self.tell(f"{complaint}: {'; '.join(self.unready()) or 'steps or waits are left'}"))
        self.check()

    def check(self) -> None:
        """Raise where the world saw a rule broken."""
        if self.sim.world.violations:
            raise StoryError(self.tell("; ".join(self.sim.world.violations)))

    def check_nothing_left(self) -> None:
        """Raise where something of a deleted workload is left in the world or in the plan."""
        left = truth.leftovers(self.sim.world)
        left += [f"entry {k}" for k in self.sim.store.blueprint.entries if not k.startswith("retained-disk/")]
        if left:
            raise StoryError(self.tell(f"left over: {', '.join(left)}"))

    def check_no_orphans(self) -> None:
        """Raise where the world holds a domain or a disk that no plan knows of, or a token that has no end."""
        planned = {m.uid for m in self.sim.store.blueprint.machines()}
        left = truth.orphans(self.sim.world, planned)
        if left:
            raise StoryError(self.tell(f"not planned: {', '.join(left)}"))

    def shape(self) -> list[tuple[object, ...]]:
        """The world as a user sees it, without names, servers and times that chance decides."""
        found: list[tuple[object, ...]] = []
        world = self.sim.world
        for _, domain in world.running():
            m = domain.entry
            node = world.clusters[m.cluster].nodes.get(m.name) if m.cluster in world.clusters else None
            member = bool(m.cluster) and m.uid in world.clusters[m.cluster].members.values()
            ready = node is not None and node.ready and node.uid == m.uid and not node.unschedulable
            found.append((m.owner, m.cluster, m.role, m.cpu, m.memory_mib, m.image.disk, m.version, ready, member))
        for cluster in world.clusters.values():
            if cluster.initialised:
                found.append((cluster.key, len(cluster.members), len(cluster.nodes), tuple(sorted(cluster.addons))))
        return sorted(found, key=repr)

    def tell(self, complaint: str, lines: int = 60) -> str:
        """The complaint, what waits, and the end of the history."""
        engine = self.sim.engine
        waits = [f"{k}: {w.sentence}" for k, w in engine.waiting.items()]
        waits += [f"{k}: {n.waiting.value}: {n.reason}" for k, n in engine.next.items() if n.waiting is not None]
        waits += [f"{k}: wants {n.step.name}" for k, n in engine.next.items() if n.step is not None]
        waits += [f"refused plan: {f.sentence}" for f in engine.findings]
        return "\n".join([complaint, "waiting:", *waits, "history:", *self.sim.trace[-lines:]])[:12_000]


def keys(objects: Iterable[Object]) -> list[Key]:
    """Keys of objects."""
    return [object_key(o) for o in objects]
