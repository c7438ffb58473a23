"""Who is meant: names that a script gives to servers and machines, and expressions like `server of shop-web/0`.

Where seeds place machines differently, a story still speaks of "the server of the first web node".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid, ServerName
from bedplate.model.validation.faults import nearest
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.scenario.setting import Setting, servers_of
from bedplate.sim.simulator import Simulator

Role = Literal["server", "machine"]
EMPTY = "empty server"
FULLEST = "fullest server"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario's files may speak of."""

    servers: frozenset[str]
    owners: frozenset[str]
    """Clusters, pools (`shop-web`) and virtual machines."""
    pods: frozenset[str]
    names: dict[str, Role]
    """That the script gives."""
    events: frozenset[str] = frozenset()
    """Names of the script's events."""

    def role(self, text: str) -> Role | None:
        """What kind of thing an expression means; None where it means nothing."""
        text = text.strip()
        if text in self.names:
            return self.names[text]
        if text in self.servers or text in {EMPTY, FULLEST}:
            return "server"
        if text.startswith(("server of ", "target of ")):
            return "server" if self.role(text.partition(" of ")[2]) == "machine" else None
        owner, on, server = text.partition(" on ")
        if on:
            return "machine" if owner in self.owners and self.role(server) == "server" else None
        owner, slash, index = text.partition("/")
        if owner in self.owners and (not slash or index.isdigit()):
            return "machine"
        return None

    def near(self, text: str) -> str:
        """The nearest name, for a fault."""
        return nearest(text, {*self.servers, *self.owners, *self.names})


def known_of(setting: Setting, names: dict[str, str], events: frozenset[str], file: str) -> Known:
    """What there is to speak of.

    Raises:
        ScenarioError: a name means nothing.
    """
    owners = {*setting.clusters, *setting.machines}
    owners |= {f"{c}-{p}" for c, t in setting.clusters.items() for p in t.pools}
    for raw in setting.objects:
        if raw.get("kind") in {"Cluster", "NodePool", "VirtualMachine"}:
            owners.add(str(raw.get("metadata", {}).get("name", "")))
    pods = {f"{a.name}-{n}" for t in setting.clusters.values() for a in t.apps for n in range(a.replicas)}
    known = Known(
        servers=frozenset(r.name for r in servers_of(setting)),
        owners=frozenset(owners),
        pods=frozenset(pods),
        names={},
        events=events,
    )
    for name, expression in names.items():
        role = known.role(expression)
        if role is None:
            text = f'"{expression}" is no server and no machine{known.near(expression)}'
            raise ScenarioError(f"{file}: names.{name}: {text}")
        known = msgspec.structs.replace(known, names={**known.names, name: role})
    return known


class Cast:
    """Who plays: names bound to servers and machines of one simulator."""

    def __init__(self, sim: Simulator, *, strict: bool = True) -> None:
        self._sim = sim
        self._strict = strict
        self.bound: dict[str, str] = {}
        """Servers' names and machines' uids by the script's names."""

    def bind(self, name: str, expression: str, role: Role) -> None:
        """Give a name from now on."""
        found = self.server(expression) if role == "server" else self.machine(expression)
        self.bound[name] = found

    def server(self, text: str) -> ServerName:
        """The server that is meant now; empty where there is none.

        Raises:
            ScenarioError: there is none, and the story is to be told as written.
        """
        text = self.bound.get(text, text)
        if text in self._sim.world.servers:
            return ServerName(text)
        if text in {EMPTY, FULLEST}:
            return self._by_machines(text)
        before, of, rest = text.partition(" of ")
        m = self._entry(rest) if of else None
        if m is None:
            return ServerName(self._nobody(text))
        return (m.server if before == "target" else (m.source or m.server)) if of else m.server

    def machine(self, text: str) -> MachineUid:
        """The machine that is meant now; empty where there is none. Raises as `server`."""
        text = self.bound.get(text, text)
        m = self._entry(text)
        return m.uid if m is not None else MachineUid(self._nobody(text))

    def entry(self, text: str) -> MachineEntry | None:
        """The same with all that is planned of it."""
        return self._entry(text)

    def _entry(self, text: str) -> MachineEntry | None:
        text = self.bound.get(text, text)
        blueprint = self._sim.store.blueprint
        found = blueprint.machine(MachineUid(text))
        if found is not None:
            return found
        owner, on, server = text.partition(" on ")
        if on:
            name = self.server(server)
            return next((m for m in self.machines(owner) if (m.source or m.server) == name), None)
        owner, _, index = text.partition("/")
        machines = self.machines(owner)
        return machines[int(index or 0)] if int(index or 0) < len(machines) else None

    def machines(self, owner: str) -> list[MachineEntry]:
        """The machines of a pool, a control plane or a virtual machine, in the order of their names."""
        found = (m for m in self._sim.store.blueprint.machines() if m.owner.rpartition("/")[2] == owner)
        return sorted((m for m in found if m.desired not in {"drain", "remove"}), key=lambda m: (m.created, m.name))

    def _by_machines(self, text: str) -> ServerName:
        count = dict.fromkeys(sorted(self._sim.world.servers), 0)
        for m in self._sim.store.blueprint.machines():
            count[m.server] += 1
        best = max(count, key=lambda n: count[n]) if text == FULLEST else min(count, key=lambda n: count[n])
        if text == EMPTY and count[best]:
            return ServerName(self._nobody(text))
        return best

    def _nobody(self, text: str) -> str:
        if self._strict:
            raise ScenarioError(f'script.yaml: nobody is "{text}" now')
        return ""
