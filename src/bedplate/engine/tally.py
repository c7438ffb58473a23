"""Counts of clusters' and pools' machines by what has become of them, kept as machines change: their status asks for
nothing else, and a cluster of a thousand machines is not looked through for each news of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from bedplate.engine import status
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Key, key
from bedplate.model.lifecycle import Phase

if TYPE_CHECKING:
    from bedplate.engine.engine import Engine


Group = Counter[str]
"""How many machines there are of a kind: `machines` in all, `run` that are to stay, `planes` of a control plane; and
those of each that have a Ready node: `ready`, `run ready`, `planes ready`."""


class _Counted(NamedTuple):
    owner: Key
    cluster: Key
    kinds: tuple[str, ...]


class Tally:
    """Machines' phases, and counts of them."""

    def __init__(self) -> None:
        self.phases: dict[Key, tuple[MachineEntry, Phase]] = {}
        """Phases that were asked for, each for one entry, until the machine is touched."""
        self._counted: dict[Key, _Counted] = {}
        self._of_owner: dict[Key, Group] = {}
        self._of_cluster: dict[Key, Group] = {}
        self._begun = False

    def of_owner(self, owner: Key) -> Group:
        """The machines of a pool or of a control plane itself."""
        return self._of_owner.get(owner) or Group()

    def of_cluster(self, cluster: Key) -> Group:
        """All machines of a cluster."""
        return self._of_cluster.get(cluster) or Group()

    def take(self, engine: Engine, keys: Iterable[Key]) -> None:
        """Count these machines anew; the first time all that are planned."""
        if not self._begun:
            self._begun = True
            keys = engine.blueprint.entries
        for k in keys:
            if k.startswith("machine/"):
                self._take(engine, k)

    def _take(self, engine: Engine, k: Key) -> None:
        old, entry = self._counted.pop(k, None), engine.blueprint.entries.get(k)
        new = _counted(engine, entry) if isinstance(entry, MachineEntry) and entry.is_node else None
        if new is not None:
            self._counted[k] = new
        if old == new:
            return
        if old is not None:
            self._add(old, -1)
        if new is not None:
            self._add(new, 1)

    def _add(self, counted: _Counted, sign: int) -> None:
        for groups, k in ((self._of_owner, counted.owner), (self._of_cluster, counted.cluster)):
            group = groups.setdefault(k, Group())
            for kind in counted.kinds:
                group[kind] += sign
            if not group["machines"]:
                del groups[k]


def _counted(engine: Engine, m: MachineEntry) -> _Counted:
    ready = status.machine_phase(engine, m) is Phase.READY
    kinds = ["machines"]
    if m.desired == "run":
        kinds.append("run")
    if m.role == "control-plane":
        kinds.append("planes")
    if ready:
        kinds += [f"{kind} ready" if kind != "machines" else "ready" for kind in kinds]
    return _Counted(m.owner, key("cluster", m.cluster), tuple(kinds))
