"""What the API asks of the rest of the controller: previews, explanations, streams, kubeconfigs, enrolment.

Reads the engine on its own loop; changes nothing but through the store and the agents' authority.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bedplate.api.hooks import Gauge, NotAvailable, PowerAction
from bedplate.cli import power
from bedplate.drivers.agents.authority import EnrolmentRefused
from bedplate.drivers.agents.server import AgentServer
from bedplate.drivers.kubeadm.driver import KubeadmDriver
from bedplate.engine import messages as msg
from bedplate.engine.explain import why
from bedplate.engine.status import machine_phase
from bedplate.engine.timeline import timeline
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid, ServerName, cluster_key, key
from bedplate.model.kinds.base import Object
from bedplate.model.spec import object_key
from bedplate.ports import Duplex
from bedplate.runner import history
from bedplate.runner.controller import Controller
from bedplate.sim.preview import capture, preview_present
from bedplate.store.store import Store


class Handlers:
    """Implements the API's `Planner`, `Streams` and `Operator`."""

    def __init__(
        self,
        store: Store,
        controller: Controller,
        agents: AgentServer,
        bootstrap: KubeadmDriver,
        bmcs: power.BmcPower,
        *,
        seed: int,
        proxy_url: str = "",
        agent_address: str = "",
    ) -> None:
        """`proxy_url`: named in kubeconfigs, where clusters are reached through a proxy only.

        `agent_address`: `HOST:PORT` that enrol files name where nobody asks for another; empty: the listener's own.
        """
        self._store = store
        self._controller = controller
        self._agents = agents
        self._bootstrap = bootstrap
        self._bmcs = bmcs
        self._seed = seed
        self._proxy_url = proxy_url
        self._agent_address = agent_address

    # --- Planner ----------------------------------------------------------------------------------------------

    async def preview(self, objects: Sequence[Object], gone: Sequence[Object]) -> dict[str, Any]:
        """Show what would happen if these objects were declared and those deleted."""
        present = capture(self._controller.engine, now=time.time(), seed=self._seed)
        return await asyncio.to_thread(preview_present, present, objects, [object_key(o) for o in gone])

    async def why(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Tell why an object is as it is."""
        found = why(self._controller.engine, kind, namespace, name)
        if found is None:
            raise NotAvailable(f"nothing is planned for {kind.lower()} {name} yet", missing=True)
        return found

    async def timeline(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Where the time went until an object was as declared."""
        return await asyncio.to_thread(self._timeline, kind, namespace, name)

    def _timeline(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        try:
            records = history.gather(self._store, kind, namespace, name)
        except history.NoTimeline as error:
            raise NotAvailable(str(error), missing=True) from error
        return history.shown(f"{kind.lower()}/{name}", timeline(records, time.time()))

    # --- Streams ----------------------------------------------------------------------------------------------

    async def console(self, kind: str, namespace: str, name: str) -> Duplex:
        """The serial console of a Machine or VirtualMachine, or a shell of a Server in rescue."""
        if kind == "Server":
            return await self._shell(ServerName(name))
        m = self.machine(kind, namespace, name)
        return await self._agents.console(m.server, m.uid)

    async def _shell(self, name: ServerName) -> Duplex:
        bare = self._controller.engine.blueprint.metal(name)
        if bare is None or bare.state != "rescue":
            state = f"is {bare.state}" if bare is not None else "is no bare server that was accepted"
            raise NotAvailable(f"server {name} {state}; a shell opens in rescue: bedplate server rescue {name}")
        return await self._agents.console(name, MachineUid(""))

    async def tcp(self, kind: str, namespace: str, name: str, port: int) -> Duplex:
        """A connection to a port of a Machine or VirtualMachine, or of a Cluster's address."""
        if kind == "Cluster":
            return await self._cluster_tcp(namespace, name, port)
        m = self.machine(kind, namespace, name)
        return await self._agents.dial(m.server, m.nic.address, port)

    async def _cluster_tcp(self, namespace: str, name: str, port: int) -> Duplex:
        blueprint = self._controller.engine.blueprint
        cluster = blueprint.cluster(cluster_key(namespace, name))
        if cluster is None:
            raise NotAvailable(f"cluster {name} is not planned yet", missing=True)
        planes = [m for m in blueprint.machines() if m.cluster == cluster.cluster and m.role == "control-plane"]
        for m in planes:
            if m.server in self._agents.connected():
                return await self._agents.dial(m.server, cluster.endpoint, port)
        raise NotAvailable(f"no server of cluster {name}'s control plane is connected")

    def machine(self, kind: str, namespace: str, name: str) -> MachineEntry:
        """The entry of a Machine or a VirtualMachine. Raises `NotAvailable`."""
        owner = key("virtualmachine", namespace, name)
        for m in self._controller.engine.blueprint.machines():
            if kind == "VirtualMachine" and m.owner == owner and m.desired != "remove":
                return m
            if kind == "Machine" and (m.namespace, m.name) == (namespace, name):
                return m
        raise NotAvailable(f"{kind.lower()} {name} is not placed yet", missing=True)

    # --- Operator ---------------------------------------------------------------------------------------------

    async def kubeconfig(self, namespace: str, name: str) -> str:
        """The administrator's kubeconfig of a cluster."""
        cluster = self._controller.engine.blueprint.cluster(cluster_key(namespace, name))
        text = None if cluster is None else await self._bootstrap.admin_kubeconfig(cluster, self._proxy_url)
        if text is None:
            raise NotAvailable(f"cluster {name} has no certificate authorities yet; wait until it is being made")
        return text

    async def enrol(self, server: str, controller: str = "", *, replace: bool = False) -> dict[str, Any]:
        """Make what a server's agent needs to become known, once."""
        try:
            address = controller or self._agent_address
            made = await self._agents.enrolment(ServerName(server), controller=address, replace=replace)
        except EnrolmentRefused as error:
            raise NotAvailable(str(error)) from error
        found: dict[str, Any] = json.loads(made)
        return found

    async def power(
        self, server: str, action: PowerAction, *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Switch a server by its BMC and tell what was read back."""
        engine = self._controller.engine
        return await power.order(self._store, engine, self._bmcs, server, action, force=force, dry_run=dry_run)

    async def accept(self) -> None:
        """A person accepts what a restored store differs in from the world."""
        await asyncio.to_thread(self._store.accept_restored)
        self._controller.tell(msg.Accepted())

    def ready(self) -> str | None:
        """Say why the controller does not act, or None while it does."""
        return self._controller.engine.idle

    def gauges(self) -> list[Gauge]:
        """Machines by phase, servers by state, operations in flight, and whether the controller acts."""
        engine = self._controller.engine
        phases = Counter((machine_phase(engine, m).value,) for m in engine.blueprint.machines())
        connected = len(self._agents.connected())
        return [
            Gauge(name="bedplate_machines", help="Machines by phase.", labels=("phase",), samples=phases),
            Gauge(
                name="bedplate_servers",
                help="Servers by whether their agent is connected.",
                labels=("connected",),
                samples={("true",): connected, ("false",): len(engine.spec.spec.servers) - connected},
            ),
            Gauge(
                name="bedplate_operations_in_flight",
                help="Steps that were begun and have not ended.",
                samples={(): len(engine.flight.operations)},
            ),
            Gauge(
                name="bedplate_blueprint_number",
                help="Number of the blueprint in force.",
                samples={(): engine.blueprint.number},
            ),
            Gauge(
                name="bedplate_controller_acts",
                help="1 while the controller acts, 0 while it only observes.",
                samples={(): 0 if engine.idle else 1},
            ),
        ]
