"""The agent's beginning and end: enrols, puts its parts together, runs until it is told to stop.

Ends without touching guests, whatever the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import signal
import sys
from pathlib import Path
from typing import Literal

import libvirt
import msgspec

from bedplate.agent.connection import ControllerLink
from bedplate.agent.enrol import ControllerConnection, EnrolmentFailed, enrol, tls_context
from bedplate.agent.faults import HypervisorDown
from bedplate.agent.guest import GuestChannel
from bedplate.agent.host import Host, accelerator, libvirt_host_uuid
from bedplate.agent.machines import Machines
from bedplate.agent.observer import Observer
from bedplate.agent.seed import FOLDER, Seeds
from bedplate.agent.signing import SigningFailed
from bedplate.agent.state import AgentState, Identity
from bedplate.agent.worker import Supervisor, Worker, WorkerPool, start_event_loop
from bedplate.model.agent_protocol import EnrolFile

log = logging.getLogger("bedplate.agent")

STATE_FOLDER = Path("/var/lib/bedplate/agent")
RETRY_SECONDS = 3.0
BULK_SECONDS = 60.0
"""Of silence in an image's transfer."""


class StartFailed(Exception):
    """The agent can't run here; the text says why and what to do."""


def run(
    enrol_file: str = "",
    *,
    state: Path = STATE_FOLDER,
    libvirt_uri: str = "qemu:///system",
    address: str = "",
    use: Literal["auto", "kvm", "tcg"] = "auto",
    keepalive: float = 5.0,
    silence: float = 10.0,
    seeds: Path = FOLDER,
    dial_own_addresses: bool = False,
) -> int:
    """Run the agent until SIGTERM or SIGINT, with its log on standard error; gives the exit code.

    Args:
        enrol_file: Path of the enrolment file, `-` for standard input; empty: the server is enrolled already.
        state: Folder of the agent's key and memory.
        libvirt_uri: The local libvirt.
        address: This server's address for other hypervisors; empty: that of the connection.
        use: KVM, emulation, or whichever works.
        keepalive: Seconds between signs of life.
        silence: Seconds without one after which the connection is given up and made anew.
        seeds: Folder in memory for cloud-init seeds.
        dial_own_addresses: Let streams go to the server's own loopback (for tests).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        file = _read_enrol_file(enrol_file)
        with _alone(state):
            asyncio.run(
                _serve(
                    AgentState(state),
                    file,
                    libvirt_uri,
                    address,
                    use,
                    (keepalive, silence),
                    Seeds(seeds),
                    dial_own_addresses,
                )
            )
    except (StartFailed, EnrolmentFailed, SigningFailed) as error:
        sys.stderr.write(f"bedplate agent: {error}\n")
        return 1
    return 0


def _read_enrol_file(path: str) -> EnrolFile | None:
    if not path:
        return None
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return msgspec.json.decode(content, type=EnrolFile)
    except OSError as error:
        raise StartFailed(f"the enrolment file can't be read: {error}") from error
    except msgspec.MsgspecError as error:
        raise StartFailed(f"{path} is not an enrolment file: {error}; make one with the controller") from error


@contextlib.contextmanager
def _alone(folder: Path):
    """Two agents with one memory would answer for each other."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(f"another agent runs with the state folder {folder}") from None
        yield


async def _serve(
    state: AgentState,
    file: EnrolFile | None,
    uri: str,
    address: str,
    use: Literal["auto", "kvm", "tcg"],
    signs: tuple[float, float],
    seeds: Seeds,
    dial_own_addresses: bool,
) -> None:
    start_event_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ending = asyncio.ensure_future(stop.wait())
    working = asyncio.ensure_future(_work(state, file, uri, address, use, signs, seeds, dial_own_addresses))
    try:
        await asyncio.wait({ending, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        ending.cancel()
        working.cancel()
        await asyncio.gather(ending, working, return_exceptions=True)


async def _work(
    state: AgentState,
    file: EnrolFile | None,
    uri: str,
    address: str,
    use: Literal["auto", "kvm", "tcg"],
    signs: tuple[float, float],
    seeds: Seeds,
    dial_own_addresses: bool,
) -> None:
    worker, guest_workers = Worker(uri, "steps"), WorkerPool(uri)
    try:
        host_uuid = await _host_uuid(worker, state)
        identity = await _enrolled(state, file, host_uuid)
        accelerated = use if use != "auto" else await asyncio.to_thread(accelerator)
        log.info("server %s, host uuid %s, guests by %s", identity.server, host_uuid, accelerated)
        host = Host(identity.server, host_uuid, accelerated, address)
        channel = GuestChannel(guest_workers)
        observer = Observer(state, identity.store, host, worker, channel)

        def connect() -> ControllerConnection:
            context = tls_context(state.ca_file.read_text(), state)  # the certificate may have been renewed
            return ControllerConnection(identity.controller, context, BULK_SECONDS)

        machines = Machines(state, identity.store, worker, observer, channel, seeds, accelerated, connect)
        supervisor = Supervisor(uri, observer.hypervisor_changed, observer.event)
        link = ControllerLink(
            state,
            identity,
            host,
            observer,
            machines,
            worker,
            keepalive=signs[0],
            silence=signs[1],
            dial_own_addresses=dial_own_addresses,
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(supervisor.run())
                group.create_task(observer.rounds())
                group.create_task(link.run())
        finally:
            await observer.stop()
    finally:
        worker.stop()
        guest_workers.stop()


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


async def _enrolled(state: AgentState, file: EnrolFile | None, host_uuid: str) -> Identity:
    if file is None:
        identity = state.identity()
        if identity is None:
            raise StartFailed("this server is not enrolled: give --enrol-file with a file from the controller")
        return identity
    while True:
        try:
            return await asyncio.to_thread(enrol, state, file, host_uuid)
        except OSError as error:
            log.warning("the controller at %s is not reached: %s", file.controller, error)
            await asyncio.sleep(RETRY_SECONDS)
