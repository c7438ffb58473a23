"""Follows one cluster: its nodes by a watch, its etcd's members and addons by a look every few seconds.

Tells what it sees. While the API is silent it says so, and what it showed before stops being good. Decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from bedplate.drivers.kubernetes import addons, nodes, tokens
from bedplate.drivers.kubernetes.api import ClusterApi, ExpiredError, Json, RefusedError
from bedplate.drivers.kubernetes.approvals import Approvals
from bedplate.drivers.kubernetes.connection import NoSecretsError, UnreachableError
from bedplate.drivers.kubernetes.etcd import Etcd
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import AnyView, ClusterView, NodeView, Observation
from bedplate.ports import ClusterAccess, Sink

log = structlog.get_logger()

PULSE_SECONDS = 10.0
RETRY_SECONDS = 2.0
FOREVER = float("inf")


class Follower:
    """Follows until cancelled."""

    def __init__(self, api: ClusterApi, etcd: Etcd, sink: Sink, machines: Callable[[], Sequence[MachineEntry]]) -> None:
        self._api = api
        self._etcd = etcd
        self._sink = sink
        self._cluster = api.access.cluster
        self._approvals = Approvals(api, machines)
        self._nodes: dict[str, NodeView] = {}
        self._view = ClusterView(cluster=self._cluster)
        self._told: ClusterView | None = None
        self._members: tuple[str, ...] | None = None
        self._etcd_error = ""
        self._joined: set[MachineUid] = set()
        """Machines whose join tokens are deleted."""
        self._wake = asyncio.Event()

    @property
    def access(self) -> ClusterAccess:
        """How the cluster is reached; may be replaced by one with other control planes."""
        return self._api.access

    @access.setter
    def access(self, access: ClusterAccess) -> None:
        self._api.access = access
        self._wake.set()

    @property
    def view(self) -> ClusterView:
        """What was told last."""
        return self._told or self._view

    async def run(self) -> None:
        """Follow for ever; trouble is told, not raised."""
        while True:
            try:
                version = await self._sync()
                await self._stay(version)
            except (UnreachableError, RefusedError) as error:
                self._silence(error)
            except Exception as error:
                log.exception("following a cluster failed", cluster=self._cluster)
                self._silence(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def look(self) -> None:
        """Look at the addons and members now, and tell. Raises as `ClusterApi.request`."""
        await self._look()
        self._tell_cluster()

    def node_is_gone(self, machine: MachineEntry) -> None:
        """Somebody saw for sure that this machine has no node any more; the watch may tell it later."""
        name, known = machine.name, self._nodes.get(machine.name)
        if known is not None and known.machine in {"", machine.uid}:
            del self._nodes[name]
            self._tell([NodeView(cluster=self._cluster, name=name, present=False)])
            self._wake.set()

    # --- seeing -----------------------------------------------------------------------------------------------

    async def _sync(self) -> str:
        """List everything and tell all of it; gives the version of the nodes."""
        version = await self._list()
        await self._look()
        self._tell_all()
        await self._drop_tokens()
        return version

    async def _list(self) -> str:
        listed = await self._api.request("GET", nodes.NODES)
        views = (nodes.view(self._cluster, node) for node in listed.get("items") or ())
        self._nodes = {view.name: view for view in views}
        return str(listed["metadata"]["resourceVersion"])

    async def _look(self) -> None:
        applied = await addons.recorded(self._api)
        try:
            self._members = await self._etcd.voting_members(self.access.control_planes)
            self._etcd_error = ""
        except UnreachableError as error:
            self._etcd_error = str(error)
        # Without ever having known the members, nobody may act on the control plane: it counts as silent.
        known = self._members is not None
        self._view = ClusterView(
            cluster=self._cluster,
            secrets=True,
            initialised=True,
            api=known,
            etcd_members=self._members or (),
            addons=applied,
            error="" if known else f"etcd's members can't be listed: {self._etcd_error}",
        )

    async def _stay(self, version: str) -> None:
        """Keep up until the API is silent."""
        tasks = [
            asyncio.create_task(self._watch(version)),
            asyncio.create_task(self._pulse()),
            asyncio.create_task(self._approvals.run()),
        ]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, version: str) -> None:
        while True:
            try:
                version = await self._api.watch(nodes.NODES, version, self._on_node)
            except (ExpiredError, UnreachableError, RefusedError) as error:
                log.debug("listing nodes again", cluster=self._cluster, why=str(error) or "too old")
                version = await self._list()
                self._tell_all()
                self._wake.set()
                await asyncio.sleep(1.0)

    async def _on_node(self, kind: str, node: Json) -> None:
        view = nodes.view(self._cluster, node)
        old = self._nodes.get(view.name)
        if kind == "DELETED":
            if old is None or old.uid != view.uid:  # told already, or another of that name is there
                return
            self._nodes.pop(view.name)
            view = NodeView(cluster=self._cluster, name=view.name, present=False)
        elif view == old:
            return
        else:
            self._nodes[view.name] = view
        self._tell([view])
        if old is None or not view.present or old.ready != view.ready or old.machine != view.machine:
            self._wake.set()

    async def _pulse(self) -> None:
        """See that the API answers, though no watch would tell, and look at what is not watched."""
        while True:
            try:
                async with asyncio.timeout(PULSE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.look()
            except UnreachableError:
                await self.look()  # one lost answer is no silence; the next may take another way
            await self._drop_tokens()

    async def _drop_tokens(self) -> None:
        present = {view.machine for view in self._nodes.values() if view.machine}
        if present - self._joined:
            await tokens.drop(self._api, present)
        self._joined = present

    # --- telling ----------------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        self._told = self._view
        self._tell([self._view, *self._nodes.values()], full=True)

    def _tell_cluster(self) -> None:
        if self._view != self._told:
            self._told = self._view
            self._tell([self._view])

    def _tell(self, views: Iterable[AnyView], *, full: bool = False) -> None:
        self._sink(f"cluster/{self._cluster}", [self._observed(view) for view in views], full=full)

    def _observed(self, view: AnyView, good_until: float = FOREVER) -> Observation[AnyView]:
        return Observation(value=view, time=time.time(), source=f"cluster/{self._cluster}", good_until=good_until)

    def _silence(self, error: Exception) -> None:
        """Tell that nobody answers; the nodes that were shown say what was."""
        answered = self._view.initialised or any(m.joined for m in self.access.control_planes)
        # An API that has never answered is one that is being made: nothing is wrong with that.
        sentence = _sentence(self.access, error) if answered else ""
        was = self._told is None or self._told.api
        self._view = msgspec.structs.replace(
            self._view, api=False, secrets=not isinstance(error, NoSecretsError), error=sentence
        )
        if was:
            now = time.time()
            stale = [self._observed(view, good_until=now) for view in self._nodes.values()]
            self._told = self._view
            self._sink(f"cluster/{self._cluster}", [self._observed(self._view), *stale], full=False)
        else:
            self._tell_cluster()


def _sentence(access: ClusterAccess, error: Exception) -> str:
    where = f"the API of {access.cluster} at {access.endpoint}:{access.port}"
    if isinstance(error, RefusedError):
        return f"{where} refuses: {error.reason}"
    if isinstance(error, UnreachableError):
        return f"{where} does not answer: {error}"
    return f"{where} can't be followed: {type(error).__name__}"
