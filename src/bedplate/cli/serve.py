"""Puts the controller together: store, engine, drivers, agents' listener and API in one process. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import structlog

from bedplate.api.app import create_app
from bedplate.api.blobs import Blobs
from bedplate.api.hooks import Hooks
from bedplate.api.server import listening, serve_app
from bedplate.checks.blueprint import Checker
from bedplate.cli import context
from bedplate.cli.handlers import Handlers
from bedplate.cli.identity import api_identity, bracketed, public_names
from bedplate.cli.measurements import Measurements
from bedplate.drivers.agents.server import AgentServer
from bedplate.drivers.kubeadm.driver import KubeadmDriver
from bedplate.drivers.kubernetes.driver import KubernetesDriver
from bedplate.drivers.netboot.media import Media, Medium, Parts
from bedplate.drivers.netboot.network import NetworkBoot, NetworkBootFailed
from bedplate.drivers.redfish.driver import RedfishDriver
from bedplate.engine.engine import Engine
from bedplate.model.agent_protocol import Mount, Pool
from bedplate.model.blueprint import MachineEntry, MetalEntry, RetainedDiskEntry
from bedplate.model.ids import ClusterKey, Digest, Epoch, ServerName
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster
from bedplate.model.kinds.infrastructure import DiskPool, Image, ImageFile, PoolMount, Release, Server, server_labels
from bedplate.model.kinds.measurement import Measurement
from bedplate.model.labels import matches
from bedplate.model.policy import Policy
from bedplate.runner.controller import Controller
from bedplate.runner.persistence import StorePersistence, spec_changed
from bedplate.store import codec
from bedplate.store.changelog import Change
from bedplate.store.errors import StoreError
from bedplate.store.store import Store

log = logging.getLogger("bedplate.serve")

FILED = ("Image", "Release", "Measurement")
"""Kinds whose objects name files by their digest."""
CONTEXT_NAME = "bedplate"
HOLDER = "controller"
"""The folder's lock already keeps other processes out, so a restarted controller leads at once."""


def serve(
    data: Path,
    *,
    listen: tuple[str, int],
    agents: tuple[str, int],
    context_file: Path | None,
    slow: bool = False,
    proxy_url: str = "",
    agent_address: str = "",
    media_url: str = "",
    netboot: str = "",
    netboot_port: int = 0,
) -> int:
    """Run until SIGTERM or SIGINT; gives the exit code.

    Args:
        data: Folder of the store, its key and uploaded images.
        listen: Host and port of the API.
        agents: Host and port where agents connect.
        context_file: Where the administrator's context is written; None: `context` in `data`.
        slow: Guests are emulated: clusters get longer leases and time-outs.
        proxy_url: Proxy that kubeconfigs name; empty: none.
        agent_address: `HOST:PORT` where servers reach the agents' listener; empty: as `agents`.
        media_url: Where BMCs reach it, for virtual media; empty: `https://` and `agent_address`.
        netboot: Interface on which servers that boot from the network are answered; empty: none are.
        netboot_port: Where they fetch what they boot, over plain HTTP.
    """
    _log_to_stderr()
    try:
        listener = listening(*listen)
    except OSError as error:
        where = f"{listen[0]}:{listen[1]}"
        print(f"bedplate: can't listen at {where}: {error.strerror}; name another with --listen", file=sys.stderr)
        return 1
    try:
        store = Store.open(data)
    except StoreError as error:
        print(f"bedplate: {error}", file=sys.stderr)
        return 1
    try:
        return asyncio.run(
            Process(
                store,
                data,
                listener,
                agents,
                slow,
                proxy_url,
                host=listen[0],
                agent_address=agent_address,
                media_url=media_url,
                network=NetworkBoot(netboot, netboot_port) if netboot else None,
            ).run(context_file or data / "context")
        )
    except NetworkBootFailed as error:
        print(f"bedplate: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()


class Process:
    """One controller process."""

    def __init__(
        self,
        store: Store,
        data: Path,
        listener: socket.socket,
        agents: tuple[str, int],
        slow: bool,
        proxy_url: str,
        *,
        host: str = "",
        agent_address: str = "",
        media_url: str = "",
        network: NetworkBoot | None = None,
    ) -> None:
        """`host`: what the listener was asked to listen at, where that is a name or all addresses."""
        self._network = network
        self._agent_address = agent_address
        self._media_url = media_url
        self._store = store
        self._proxy_url = proxy_url
        self._listener = listener
        address, port = listener.getsockname()[:2]
        self._names = public_names(host or address)
        self._url = f"https://{bracketed(self._names[0])}:{port}"
        self._epoch = Epoch(0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._blobs = Blobs(data / "blobs")
        # Nobody waits for a random seed: jitter only has to differ between stores.
        policy = Policy(joins_at_once=1) if slow else Policy()
        self._engine = Engine(policy, seed=_seed(store.id), checker=Checker())
        self._media = media = Media(
            store,
            _ram_system,
            self._enrol_bare,
            lambda: self.media_url,
            network=network.dhcp if network is not None else None,
            network_url=network.url if network is not None else "",
        )
        self._agents = AgentServer(
            listen=[f"{agents[0]}:{agents[1]}"],
            store=store.id,
            epoch=lambda: self._epoch,
            secrets=store,
            sink=self._sink,
            images=self._blobs,
            pools_for=self._pools_for,
            user_data=self._user_data,
            media=media,
        )
        self._kubernetes = KubernetesDriver(
            dialer=self._agents, secrets=store, sink=self._sink, addon_text=self._addon_text, machines=self._machines
        )
        self._bootstrap = KubeadmDriver(guests=self._agents, secrets=store, tokens=self._kubernetes, slow=slow)
        self._bmcs = RedfishDriver(store.user_secret, self._sink, netboot=media)
        self._controller = Controller(
            self._engine, StorePersistence(store, HOLDER), self._agents, self._bootstrap, self._kubernetes, self._bmcs
        )

    async def run(self, context_file: Path) -> int:
        """Lead, listen, serve, until told to stop."""
        loop = asyncio.get_running_loop()

        def committed(changes: Sequence[Change]) -> None:
            loop.call_soon_threadsafe(self._changed, tuple(changes))

        if self._network is not None:
            await self._network.start(self._media)
            await self._media.resume()
        unsubscribe = self._store.subscribe(committed)
        self._epoch = await self._controller.lead()
        # The engine holds the blueprint before the first agent asks which disk pools its machines use.
        running = asyncio.create_task(self._controller.run())
        await self._agents.start()
        # Those whose Server was deleted while the controller was about to end.
        await self._agents.forget_all_but([ServerName(s.metadata.name) for s in self._store.all("Server")])
        identity = await asyncio.to_thread(api_identity, self._store, self._names)
        handlers = Handlers(
            self._store,
            self._controller,
            self._agents,
            self._bootstrap,
            self._bmcs,
            seed=_seed(self._store.id),
            proxy_url=self._proxy_url,
            agent_address=self._agent_address,
        )
        measuring = Measurements(self._store, self._agents, self._blobs, lambda: self._epoch, handlers.machine)
        hooks = Hooks(planner=handlers, streams=handlers, operator=handlers, measuring=measuring)
        app = create_app(self._store, token=identity.token, blobs=self._blobs, hooks=hooks)
        context.save(CONTEXT_NAME, self._url, identity.ca, identity.token, context_file)
        log.info("the API listens at %s, agents at %s", self._url, ", ".join(self._agents.addresses))
        stopping = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stopping.set)
        serving = asyncio.create_task(serve_app(app, self._listener, identity.certificate))
        stopper = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({running, serving, stopper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unsubscribe()
            self._controller.stop()
            serving.cancel()
            stopper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            await running
            await self._kubernetes.stop()
            await self._bmcs.stop()
            await self._agents.stop()
            if self._network is not None:
                await self._network.stop()
        return 0

    @property
    def agent_address(self) -> str:
        """`HOST:PORT` where servers reach the agents' listener; known once it listens."""
        return self._agent_address or self._agents.addresses[0]

    @property
    def media_url(self) -> str:
        """Where BMCs reach that listener, for virtual media; known once it listens."""
        return self._media_url or f"https://{self.agent_address}"

    # --- what the parts ask of each other ---

    async def _enrol_bare(self, entry: MetalEntry) -> bytes:
        """What the RAM system of a bare server enrols with; the board may be another than when it was there last. In
        rescue what lies on the disk comes back, under the key that it has."""
        beside = entry.state == "rescue"
        return await self._agents.enrolment(entry.server, controller=self.agent_address, replace=True, beside=beside)

    def _sink(self, source: str, observations: Sequence[Any], *, full: bool = False) -> None:
        self._controller.sink(source, observations, full=full)

    def _changed(self, changes: tuple[Change, ...]) -> None:
        event = spec_changed(changes)
        if event is not None:
            self._controller.tell(event)
        for change in changes:
            if change.type != "DELETED":
                continue
            if change.kind == "Server":
                self._spawn(self._agents.forget(ServerName(change.name)))
                self._spawn(self._media.withdraw(ServerName(change.name)))
            if change.kind in FILED:
                self._spawn(asyncio.to_thread(self._drop_files, codec.decode(change.kind, change.new)))
        if any(moves_pools(c) for c in changes):
            self._spawn(self._agents.pools_changed())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what follows a change of the store failed", exc_info=error)

    def _drop_files(self, gone: Object) -> None:
        """Remove the files of a deleted image or release that no other one names."""
        named = {d for kind in FILED for o in self._store.all(kind) for d in _digests(o)}
        for digest in _digests(gone) - named:
            self._blobs.remove(digest)

    def _pools_for(self, server: ServerName) -> list[Pool]:
        known = self._store.find("Server", "", server)
        labels = server_labels(known) if isinstance(known, Server) else {}
        pools = (p for p in self._store.all("DiskPool") if isinstance(p, DiskPool))
        return [
            Pool(name=p.metadata.name, path=p.spec.path, type=p.spec.type, mount=_mount(p.spec.mount))
            for p in pools
            if matches(p.spec.server_selector, labels) or self._holds_disks(server, p.metadata.name)
        ]

    def _holds_disks(self, server: ServerName, pool: str) -> bool:
        """Such a pool is served whatever its selector says now: else the disks would seem to be gone."""
        entries, index = self._engine.blueprint.entries, self._engine.index
        machines = (entries.get(k) for k in index.by_server.get(server, ()))
        if any(isinstance(m, MachineEntry) and m.disk_pool == pool for m in machines):
            return True
        retained = (e for e in entries.values() if isinstance(e, RetainedDiskEntry)) if index.retained[pool] else ()
        return any((e.server, e.disk_pool) == (server, pool) for e in retained)

    def _machines(self, cluster: ClusterKey) -> list[MachineEntry]:
        return [m for m in self._engine.blueprint.machines() if m.cluster == cluster]

    def _addon_text(self, cluster: ClusterKey, name: str) -> str | None:
        found = self._engine.spec.spec.clusters.get(f"cluster/{cluster}")  # type: ignore[call-overload]
        if not isinstance(found, Cluster):
            return None
        return next((a.manifest for a in found.spec.addons if a.name == name), None)

    async def _user_data(self, machine: MachineEntry) -> bytes:
        import base64

        namespace, _, name = machine.user_data.partition("/")
        data = await asyncio.to_thread(self._store.user_secret, namespace, name)
        if data is None or "userdata" not in data:
            raise LookupError(f"Secret {machine.user_data} with the key 'userdata' is missing")
        return base64.b64decode(data["userdata"])


def _mount(declared: PoolMount | None) -> Mount | None:
    if declared is None:
        return None
    return Mount(type=declared.type, source=declared.source, options=declared.options)


def moves_pools(change: Change) -> bool:
    """True where the change may give a server another set of disk pools."""
    if change.kind not in {"DiskPool", "Server"}:
        return False
    if change.type != "MODIFIED" or change.old is None:
        return True
    before, after = codec.decode(change.kind, change.old), codec.decode(change.kind, change.new)
    if isinstance(before, Server) and isinstance(after, Server):
        return server_labels(before) != server_labels(after)
    return before.metadata.generation != after.metadata.generation


def _digests(obj: Object) -> set[Digest]:
    """The files that an image or a release names."""
    files: tuple[ImageFile, ...] = ()
    if isinstance(obj, Image):
        files = (obj.spec.disk, obj.spec.kernel, obj.spec.initrd, obj.spec.metal, obj.spec.metal_data)
    elif isinstance(obj, Release):
        files = tuple(obj.spec.files.values())
    elif isinstance(obj, Measurement):
        return {Digest(obj.spec.kit)}
    return {Digest(f.digest) for f in files if f.digest}


def _ram_system() -> Medium | None:
    """The RAM system that was built on this computer."""
    from bedplate.drivers.artifacts.ramsystem import find_ram_system

    found = find_ram_system()
    if found is None:
        return None
    named, folder = found.medium.network, found.path.parent
    kernel, initrd, system = (str(folder / name) for name in (named.kernel, named.initrd, named.system))
    parts = Parts(kernel, initrd, system, named.command_line)
    return Medium(found.path, found.medium.settings_offset, parts)


def _seed(store: str) -> int:
    return int(store.replace("-", "")[:8], 16)


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
