"""`ports.Kubernetes`: follows clusters and runs the steps on their APIs, over the agents' streams. Decides nothing."""

from __future__ import annotations

import asyncio
import functools
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bedplate import pki
from bedplate.drivers.kubernetes import addons, nodes, out_of_service, tokens
from bedplate.drivers.kubernetes.addons import AddonError
from bedplate.drivers.kubernetes.api import ClusterApi, RefusedError
from bedplate.drivers.kubernetes.connection import UnreachableError
from bedplate.drivers.kubernetes.drain import Drain, uncordon
from bedplate.drivers.kubernetes.etcd import Etcd
from bedplate.drivers.kubernetes.follower import Follower
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ClusterKey, Generation, MachineUid
from bedplate.model.inventory import ClusterView
from bedplate.model.steps import (
    ClearOutOfService,
    DeleteNode,
    Done,
    DrainNode,
    Failed,
    InstallAddons,
    KubernetesStep,
    MarkOutOfService,
    StepResult,
    Ticket,
    UncordonNode,
    Unknown,
)
from bedplate.ports import ClusterAccess, Dialer, SecretStore, Sink

_REMEMBERED = 1000
"""Drains whose first try is remembered; more than ever go on at once."""


class _Followed:
    """One followed cluster with all that is open to it."""

    def __init__(self, api: ClusterApi, etcd: Etcd, follower: Follower) -> None:
        self.api = api
        self.follower = follower
        self._etcd = etcd
        self._task = asyncio.create_task(follower.run())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._etcd.stop()
        await self.api.stop()


class KubernetesDriver:
    """`ports.Kubernetes`, and the maker of join tokens for the bootstrap driver."""

    def __init__(
        self,
        dialer: Dialer,
        secrets: SecretStore,
        sink: Sink,
        addon_text: Callable[[ClusterKey, str], str | None],
        machines: Callable[[ClusterKey], list[MachineEntry]],
    ) -> None:
        """Make a driver that follows nothing yet.

        Args:
            dialer: All ways to machines.
            secrets: Where clusters' authorities are kept.
            sink: Takes what is seen.
            addon_text: Gives an addon's manifest by cluster and name; None where it is not declared.
            machines: Gives a cluster's planned machines.
        """
        self._dialer = dialer
        self._secrets = secrets
        self._sink = sink
        self._addon_text = addon_text
        self._machines = machines
        self._followed: dict[ClusterKey, _Followed] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._folder: Path | None = None
        self._numbers = itertools.count(1)
        self._first_try: dict[tuple[MachineUid, Generation], float] = {}

    # --- following --------------------------------------------------------------------------------------------

    def follow(self, clusters: Mapping[ClusterKey, ClusterAccess]) -> None:
        """Watch exactly these clusters from now on. Called from the event loop."""
        for cluster, followed in list(self._followed.items()):
            wanted = clusters.get(cluster)
            if wanted is not None and _same_place(wanted, followed.follower.access):
                if wanted != followed.follower.access:
                    followed.follower.access = wanted
                continue
            del self._followed[cluster]
            task = asyncio.create_task(followed.stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        for cluster, access in clusters.items():
            if cluster not in self._followed:
                self._followed[cluster] = self._start(access)

    async def stop(self) -> None:
        """Follow nothing, close everything."""
        self.follow({})
        await asyncio.gather(*self._stopping)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, access: ClusterAccess) -> _Followed:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="bedplate-"))  # nobody else may enter (0700)
        name = str(next(self._numbers))  # short: a unix socket's path has a hundred letters
        api = ClusterApi(access, self._dialer, self._secrets, self._folder / name)
        etcd = Etcd(self._secrets, access.secrets, self._dialer, self._folder, name)
        follower = Follower(api, etcd, self._sink, functools.partial(self._machines, access.cluster))
        return _Followed(api, etcd, follower)

    # --- join tokens ------------------------------------------------------------------------------------------

    async def join_token(self, cluster: ClusterKey, machine: MachineEntry, minutes: int) -> str:
        """A bootstrap token for that machine alone, good for so long; deleted once the machine is a node.

        Raises:
            OSError: the API does not answer or refuses.
        """
        followed = self._followed.get(cluster)
        if followed is None:
            raise ConnectionError(f"cluster {cluster} is not followed yet")
        try:
            return await tokens.make(followed.api, machine.uid, minutes)
        except (UnreachableError, RefusedError) as error:
            raise ConnectionError(str(error)) from None

    # --- steps ------------------------------------------------------------------------------------------------

    async def run(self, step: KubernetesStep, ticket: Ticket) -> StepResult:
        """Run one step within the ticket's deadline. Raises nothing but cancellation."""
        cluster = step.cluster.cluster
        followed = self._followed.get(cluster)
        if followed is None:
            return _unreachable(cluster, "it is not followed yet")
        try:
            async with asyncio.timeout(ticket.deadline):
                match step:
                    case InstallAddons():
                        return await self._install_addons(step, followed)
                    case DrainNode():
                        return await self._drain(step, followed)
                    case UncordonNode():
                        return await uncordon(followed.api, step.machine)
                    case DeleteNode():
                        return await self._delete_node(step, followed)
                    case MarkOutOfService():
                        return await out_of_service.mark(followed.api, step.machine)
                    case ClearOutOfService():
                        return await out_of_service.clear(followed.api, step.machine)
        except TimeoutError:
            return Unknown(message=f"{step.name} did not end within {ticket.deadline:.0f} s")
        except UnreachableError as error:
            return _unreachable(cluster, str(error))
        except AddonError as error:
            return Failed(reason=error.reason, message=str(error), permanent=error.permanent)
        except RefusedError as error:
            if error.status in (503, 504):
                return _unreachable(cluster, error.reason)
            return Failed(reason=error.reason, message=f"the API of {cluster} refuses: {error}")

    async def _install_addons(self, step: InstallAddons, followed: _Followed) -> StepResult:
        text = functools.partial(self._addon_text, step.cluster.cluster)
        await addons.install(followed.api, step.cluster, text)
        await followed.follower.look()
        seen = followed.follower.view
        secrets = await asyncio.to_thread(pki.exists, self._secrets, step.cluster.secrets)
        view = ClusterView(
            cluster=step.cluster.cluster,
            secrets=secrets,
            initialised=True,
            api=seen.api,
            etcd_members=seen.etcd_members,
            addons=seen.addons,
        )
        return Done(views=(view,))

    async def _drain(self, step: DrainNode, followed: _Followed) -> StepResult:
        machine = step.machine
        k = (machine.uid, machine.generation)
        # A drain that is tried again has no more time than the first try left it.
        began = self._first_try.setdefault(k, time.monotonic())
        while len(self._first_try) > _REMEMBERED:
            del self._first_try[next(iter(self._first_try))]
        result = await Drain(followed.api, machine, began + machine.drain_timeout).run()
        self._first_try.pop(k, None)
        return result

    async def _delete_node(self, step: DeleteNode, followed: _Followed) -> StepResult:
        result = await nodes.delete(followed.api, step.machine)
        if isinstance(result, Done) and not result.message:
            followed.follower.node_is_gone(step.machine)
        return result


def _same_place(a: ClusterAccess, b: ClusterAccess) -> bool:
    return (a.secrets, a.endpoint, a.port) == (b.secrets, b.endpoint, b.port)


def _unreachable(cluster: ClusterKey, why: str) -> Failed:
    remedy = "check that its control-plane machines run and that their servers' agents are connected"
    return Failed(reason="ApiUnreachable", message=f"the API of {cluster} does not answer: {why}; {remedy}")
