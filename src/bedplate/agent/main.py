"""The agent's beginning and end: enrols, puts its parts together, runs until it is told to stop.

Ends without touching guests, whatever the reason, and so that its watchdog does not end them either where that can be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import libvirt

from bedplate.agent.certificates import MoveCertificates, qemu_folder
from bedplate.agent.connection import ControllerLink
from bedplate.agent.disk_steps import DiskSteps
from bedplate.agent.domain_steps import DomainSteps
from bedplate.agent.drift_watch import DriftWatch
from bedplate.agent.enrol import EnrolmentFailed, images_from
from bedplate.agent.faults import HypervisorDown
from bedplate.agent.guest import GuestChannel
from bedplate.agent.hardware_health import HealthWatch
from bedplate.agent.host import Host, accelerator, boot_id, guest_cpu, has_kernel_alone, libvirt_host_uuid
from bedplate.agent.hypervisor_role import HypervisorRole
from bedplate.agent.lease_keeper import LeaseKeeper
from bedplate.agent.load import LoadSampler
from bedplate.agent.machines import Machines
from bedplate.agent.measuring import Measurer
from bedplate.agent.migration import Migration
from bedplate.agent.node.credentials import Credentials, drop_enrolment
from bedplate.agent.observer import Observer
from bedplate.agent.passage import Passage, libvirt_socket
from bedplate.agent.seed import Seeds
from bedplate.agent.signing import SigningFailed
from bedplate.agent.starting import (
    LOG_FORMAT,
    RETRY_SECONDS,
    STATE_FOLDER,
    StartFailed,
    alone,
    enrolled,
    read_enrol_file,
    until_told,
)
from bedplate.agent.state import AgentState, Identity
from bedplate.agent.watchdog import Watchdog, choose
from bedplate.agent.worker import Supervisor, Worker, WorkerPool, start_event_loop
from bedplate.model.agent_protocol import PING_SECONDS, SILENCE_SECONDS, EnrolFile
from bedplate.model.cpus import CpuModel
from bedplate.model.ids import ServerName

log = logging.getLogger("bedplate.agent")

RUNTIME_FOLDER = Path("/run/bedplate")


def run(
    enrol_file: str = "",
    *,
    deployed: bool = False,
    state: Path = STATE_FOLDER,
    libvirt_uri: str = "qemu:///system",
    address: str = "",
    use: Literal["auto", "kvm", "tcg"] = "auto",
    watchdog: str = "",
    keepalive: float = PING_SECONDS,
    silence: float = SILENCE_SECONDS,
    runtime: Path = RUNTIME_FOLDER,
    dial_own_addresses: bool = False,
) -> int:
    """Run the agent until SIGTERM or SIGINT, with its log on standard error; gives the exit code.

    Args:
        enrol_file: Path of the enrolment file, `-` for standard input; empty: the server is enrolled already.
        deployed: The enrolment comes, once, from the EFI system partition, where a RAM system wrote it.
        state: Folder of the agent's key and memory.
        libvirt_uri: The local libvirt.
        address: This server's address for other hypervisors; empty: that of the connection.
        use: KVM, emulation, or whichever works.
        watchdog: Path of the server's watchdog, `auto` for the usual one where it is there; empty: none.
        keepalive: Seconds between signs of life.
        silence: Seconds without one after which the connection is given up and made anew.
        runtime: Folder in memory for what is of no use after a reboot.
        dial_own_addresses: Let streams go to the server's own loopback (for tests).
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    options = _Options(
        libvirt_uri, address, use, choose(watchdog), keepalive, silence, runtime, dial_own_addresses, deployed
    )
    try:
        with alone(state):
            memory = AgentState(state)
            # First of all: what an agent before this one guarded must not wait for an enrolment or for libvirt.
            keeper = _taken_over(memory, options)
            try:
                file = Credentials().enrolment() if deployed else read_enrol_file(enrol_file)
                asyncio.run(_serve(memory, file, options, keeper))
            finally:
                keeper.close()
    except (StartFailed, EnrolmentFailed, SigningFailed) as error:
        sys.stderr.write(f"bedplate agent: {error}\n")
        return 1
    return 0


@dataclass(frozen=True)
class _Options:
    """As `run` was given them."""

    uri: str
    address: str
    use: Literal["auto", "kvm", "tcg"]
    watchdog: str
    keepalive: float
    silence: float
    runtime: Path
    dial_own_addresses: bool
    deployed: bool


class _Keeping:
    """The keeper of leases, from the moment on in which it is known whose they are."""

    def __init__(self, state: AgentState, options: _Options) -> None:
        self._state = state
        self._options = options
        self._keeper: LeaseKeeper | None = None

    def begin(self, identity: Identity) -> LeaseKeeper:
        """The keeper; made the first time."""
        if self._keeper is None:
            self._keeper = LeaseKeeper(
                identity.store,
                identity.server,
                boot_id(),
                Watchdog(self._options.watchdog),
                self._options.runtime / "handover.json",
                self._state.knows,
            )
            self._keeper.take_over()
            self._keeper.start()
        return self._keeper

    def close(self) -> None:
        """End it."""
        if self._keeper is not None:
            self._keeper.close()


def _taken_over(state: AgentState, options: _Options) -> _Keeping:
    keeping = _Keeping(state, options)
    identity = state.identity()
    if identity is not None:
        keeping.begin(identity)
    return keeping


async def _serve(state: AgentState, file: EnrolFile | None, options: _Options, keeping: _Keeping) -> None:
    start_event_loop()
    await until_told(_work(state, file, options, keeping))


async def _work(state: AgentState, file: EnrolFile | None, options: _Options, keeping: _Keeping) -> None:
    uri = options.uri
    worker, guest_workers, movers = Worker(uri, "steps"), WorkerPool(uri, "guests", 4), WorkerPool(uri, "moves", 2)
    try:
        host_uuid = await _host_uuid(worker, state)
        identity = await enrolled(state, file, host_uuid)
        if file is not None and options.deployed:
            await asyncio.to_thread(drop_enrolment)
        leases = keeping.begin(identity)
        use = options.use if options.use != "auto" else await asyncio.to_thread(accelerator)
        log.info("server %s, host uuid %s, guests by %s", identity.server, host_uuid, use)
        cpu = await _guest_cpu(worker, use)
        host = Host(identity.server, host_uuid, use, options.address, cpu=cpu, deployed=options.deployed)
        parts = _Parts(state, identity, host, options, leases, worker, guest_workers, movers)
        await parts.run()
    finally:
        worker.stop()
        guest_workers.stop()
        movers.stop()


class _Parts:
    """The agent's parts, put together."""

    def __init__(
        self,
        state: AgentState,
        identity: Identity,
        host: Host,
        options: _Options,
        leases: LeaseKeeper,
        worker: Worker,
        guest_workers: WorkerPool,
        movers: WorkerPool,
    ) -> None:
        def awaited(source: ServerName) -> bool:
            return self.migration.awaited(source)

        store, uri = identity.store, options.uri
        channel = GuestChannel(guest_workers)
        seeds = Seeds(options.runtime / "seeds")
        self.certificates = MoveCertificates(state, qemu_folder())
        self.leases = leases
        self.observer = observer = Observer(state, store, host, worker, channel, leases)
        self.passage = Passage(state, lambda: libvirt_socket(uri), awaited, options.runtime / "moves")
        disks = DiskSteps(state, observer, partial(images_from, state, identity))
        domains = DomainSteps(state, store, host.server, worker, observer, disks, leases, seeds, host.accelerator)
        self.migration = Migration(
            state, store, host, worker, movers, observer, disks, leases, self.passage, self.certificates
        )
        self.measurer = Measurer(
            state.folder / "measure",
            partial(images_from, state, identity),
            lambda: {name: Path(p.pool.path) for name, p in observer.disks.pools.items()},
            channel,
            host.accelerator,
        )
        machines = Machines(state, store, observer, disks, domains, self.migration, channel, self.measurer)
        self.supervisor = Supervisor(uri, observer.hypervisor_changed, observer.event)
        self.health = HealthWatch(observer.hardware_changed) if has_kernel_alone() else None
        self.drift = DriftWatch(observer.drifted) if options.deployed else None
        self.load = LoadSampler(host.server, state, worker, observer.load_changed)
        self.link = ControllerLink(
            state,
            identity,
            HypervisorRole(host, observer, machines, worker, leases),
            keepalive=options.keepalive,
            silence=options.silence,
            dial_own_addresses=options.dial_own_addresses,
            renewed=self.certificates.install,
        )

    async def run(self) -> None:
        """Run until cancelled."""
        loop = asyncio.get_running_loop()
        self.leases.changed = lambda view: _post(loop, self.observer.lease_changed, view)
        self.leases.unsure = lambda: _post(loop, self.link.reconnect)
        await asyncio.to_thread(self.certificates.install)
        with contextlib.suppress(OSError):
            await self.migration.settle()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.supervisor.run())
                group.create_task(self.observer.rounds())
                group.create_task(self.load.run())
                group.create_task(self.link.run())
                if self.drift is not None:
                    group.create_task(self.drift.run())
                if self.health is not None:
                    group.create_task(self.health.run())
        finally:
            self.measurer.close()
            await self.migration.stop()
            await self.passage.stop()
            await self.observer.stop()


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    """Call it in the loop, from any thread."""
    with contextlib.suppress(RuntimeError):  # the agent ends
        loop.call_soon_threadsafe(callback, *args)


async def _guest_cpu(worker: Worker, use: Literal["kvm", "tcg"]) -> tuple[str, tuple[CpuModel, ...]]:
    """What guests may know of the CPU; nothing is told where that can't be found out."""
    try:
        qemu = await worker.call(lambda connection: int(connection.getVersion())) if use == "tcg" else 0
        return await asyncio.to_thread(guest_cpu, use, qemu)
    except (HypervisorDown, libvirt.libvirtError, OSError) as error:
        log.warning("which CPU guests see is not told: %s", error)
        return "", ()


async def _host_uuid(worker: Worker, state: AgentState) -> str:
    """The hardware's identity; waits for libvirt, unless it was learnt before."""
    identity = state.identity()
    while True:
        try:
            return await worker.call(libvirt_host_uuid)
        except (HypervisorDown, libvirt.libvirtError) as error:
            if identity is not None:
                return identity.host_uuid
            log.warning("libvirt is not there yet: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
