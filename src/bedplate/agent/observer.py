"""What the agent sees: this store's domains, volumes and retained disks, its server. Tells changes, never levels.

libvirt's events and the agent's own acts say where to look; looking is always reading back. Only the bootstrap unit of
a guest that was given files is asked again and again, until it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import msgspec

from bedplate.agent.domains import METADATA_URI, DomainMark, read_mark
from bedplate.agent.faults import HypervisorDown
from bedplate.agent.guest import BootstrapStatus, GuestChannel, GuestUnreachable
from bedplate.agent.host import Host
from bedplate.agent.redact import tail
from bedplate.agent.state import AgentState, MachineRecord
from bedplate.agent.volumes import DiskPool
from bedplate.agent.worker import Worker
from bedplate.model.agent_protocol import Pool
from bedplate.model.ids import Key, MachineUid, StoreId
from bedplate.model.inventory import AnyView, DomainState, DomainView, RetainedDiskView, ServerView

log = logging.getLogger("bedplate.agent")

POLL_SECONDS = 2.0
"""Between looks at a bootstrap unit."""
POLL_SILENCE_SECONDS = 300.0
"""A unit that says nothing for so long after its files came is not asked any more; new files start it again."""
GREET_TRIES = 5
AGENT_GONE_SECONDS = 10.0
"""A guest agent that is away for less was only restarted."""
BOOT_PATIENCE_SECONDS = 300.0
"""After so long without a guest agent the console's last lines are told: ten times a slow boot under emulation."""
ROUND_SECONDS = 60.0
"""Between looks at the pools' room, the one thing that changes without an event."""
CONSOLE_BYTES = 16 * 1024

Send = Callable[[Sequence[AnyView], bool], Awaitable[None]]


class Facts(msgspec.Struct, frozen=True):
    """What libvirt says of one domain of ours."""

    mark: DomainMark
    state: DomainState
    agent_channel: bool = False


class _Guest:
    """What is known of a running guest by asking it."""

    def __init__(self) -> None:
        self.agent = False
        self.bootstrap = BootstrapStatus()
        self.silent = ""
        self.poll_until = 0.0
        self.tasks: dict[str, asyncio.Task[None]] = {}


class Observer:
    """Keeps the views of one server and tells their changes while there is somebody to tell."""

    def __init__(self, state: AgentState, store: StoreId, host: Host, worker: Worker, guests: GuestChannel) -> None:
        self._state = state
        self._store = store
        self._host = host
        self._worker = worker
        self._channel = guests
        self._guests: dict[MachineUid, _Guest] = {}
        self._told: dict[Key, AnyView] = {}
        self._send: Send | None = None
        self._full_due = False
        self._locks: dict[MachineUid, asyncio.Lock] = {}
        self._server_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: dict[MachineUid, asyncio.Event] = {}
        self.pools: dict[str, DiskPool] = {}
        self.hypervisor_error = "libvirt was not reached yet"
        self._pool_error = ""

    # --- who is told --------------------------------------------------------------------------------------------

    async def attach(self, send: Send) -> None:
        """A controller is there: it is told everything once, then changes."""
        self._send = send
        self._told.clear()
        self._full_due = True
        await self.resync()

    def detach(self) -> None:
        """The controller is gone."""
        self._send = None

    async def configure(self, pools: Sequence[Pool]) -> None:
        """Serve exactly these disk pools."""
        errors: list[str] = []
        fresh: dict[str, DiskPool] = {}
        for pool in pools:
            known = self.pools.get(pool.name)
            if known is not None and known.pool == pool:
                fresh[pool.name] = known
                continue
            made = DiskPool(pool, self._store, self._host.server)
            try:
                await asyncio.to_thread(made.prepare)
                fresh[pool.name] = made
            except OSError as error:
                errors.append(f"disk pool {pool.name}: {error}")
        self.pools = fresh
        self._pool_error = "; ".join(errors)

    # --- looking ------------------------------------------------------------------------------------------------

    def hypervisor_changed(self, error: str) -> None:
        """libvirt came (empty) or went."""
        if error != self.hypervisor_error:
            log.log(logging.WARNING if error else logging.INFO, "hypervisor: %s", error or "libvirt answers")
        self.hypervisor_error = error
        self._spawn(self.resync() if not error else self.refresh_server())

    def event(self, uuid: str, what: str, detail: str) -> None:
        """libvirt says that something happened to a domain."""
        uid = MachineUid(uuid)
        waiter = self._waiters.get(uid)
        if waiter is not None:
            waiter.set()
        if what == "reboot" or (what == "lifecycle" and detail == "started"):
            self._forget_guest(uid)
        if what == "agent":
            self._agent_changed(uid, detail == "up")
        else:
            self._spawn(self.refresh(uid))

    async def wait_for_event(self, uid: MachineUid, timeout: float) -> None:
        """Wait until something happens to a domain, or the time is over."""
        event = self._waiters.setdefault(uid, asyncio.Event())
        event.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout)

    async def facts(self, uid: MachineUid) -> Facts | None:
        """Read one domain; None where there is none of ours. Raises `HypervisorDown`."""

        def work(connection: Any) -> Facts | None:
            try:
                return _facts(connection.lookupByUUIDString(uid))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise

        found = await self._worker.call(work)
        return found if found is not None and found.mark.store == self._store else None

    async def resync(self) -> None:
        """Read everything and tell what changed; the first time for a controller, all of it."""
        await self.refresh_server()
        try:
            found = await self._worker.call(_all_facts)
        except (HypervisorDown, libvirt.libvirtError) as error:
            log.warning("domains can't be read: %s", error)
            return
        facts = {f.mark.uid: f for f in found if f.mark.store == self._store}
        volumes = await asyncio.to_thread(self._volumes)
        retained = await asyncio.to_thread(self._retained)
        uids = {*facts, *volumes, *(k.rsplit("/", 1)[1] for k in self._told if k.startswith("domain/"))}
        views: list[AnyView] = [self._view(MachineUid(u), facts.get(MachineUid(u)), volumes) for u in sorted(uids)]
        views += retained
        if self._send is not None and self._full_due:
            self._full_due = False
            server = await self._server_view()
            everything = [server, *views]
            self._told = {v.key: v for v in everything}
            await self._send(everything, True)
        else:
            await self.tell(views)
        for fact in facts.values():
            if fact.state == "running":
                view = self._view(fact.mark.uid, fact, volumes)
                self._watch_boot(fact.mark.uid, view)
                if fact.agent_channel:
                    self._agent_changed(fact.mark.uid, up=True)

    async def refresh(self, uid: MachineUid) -> DomainView | None:
        """Look at one machine and tell what changed; None where libvirt can't be asked."""
        async with self._locks.setdefault(uid, asyncio.Lock()):
            try:
                facts = await self.facts(uid)
            except (HypervisorDown, libvirt.libvirtError) as error:
                log.warning("domain %s can't be read: %s", uid, error)
                return None
            if facts is None and not self._state.knows(uid):
                return None  # somebody else's
            volumes = await asyncio.to_thread(self._volume_of, uid)
            view = self._view(uid, facts, volumes)
            if view.state == "running":
                self._watch_boot(uid, view)
            else:
                self._forget_guest(uid)
            await self.tell([view])
            return view

    async def refresh_server(self) -> None:
        """Look at the server and its pools and tell what changed."""
        async with self._server_lock:
            await self.tell([await self._server_view()])

    async def retained_changed(self, uid: MachineUid, pool: str, present: bool) -> RetainedDiskView:
        """A retained disk came or went."""
        view = RetainedDiskView(server=self._host.server, uid=uid, present=present, disk_pool=pool)
        await self.tell([view])
        return view

    async def rounds(self) -> None:
        """Look now and then at what has no events, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            await self.refresh_server()

    async def server_view(self) -> ServerView:
        """The server as it is now."""
        return await self._server_view()

    async def tell(self, views: Sequence[AnyView]) -> None:
        """Send those that differ from what was told."""
        if self._send is None or self._full_due:
            return
        fresh = [v for v in views if not _same(self._told.get(v.key), v)]
        for view in fresh:
            self._told[view.key] = view
        if fresh:
            with contextlib.suppress(ConnectionError):
                await self._send(fresh, False)

    # --- views --------------------------------------------------------------------------------------------------

    def _view(self, uid: MachineUid, facts: Facts | None, volumes: dict[MachineUid, str]) -> DomainView:
        record = self._adopt(uid, facts)
        pool = volumes.get(uid, "")
        plain = DomainView(
            server=self._host.server,
            uid=uid,
            generation=record.generation,
            boot=record.boot,
            volume=uid in volumes,
            disk_pool=pool,
        )
        if facts is None:
            return plain
        state: DomainState = facts.state
        if state in {"shutoff", "crashed"} and record.boot < facts.mark.boot:
            state = "defined"
        guest = self._guests.get(uid) if state == "running" else None
        detail = ""
        if guest is not None:
            detail = guest.bootstrap.detail or guest.silent
        elif state == "crashed":
            detail = self._console_tail(uid, pool)
        elif state == "paused":
            detail = "the guest is paused: its disk pool may be full"
        return msgspec.structs.replace(
            plain,
            generation=facts.mark.generation,
            state=state,
            guest_agent=guest is not None and guest.agent,
            started=record.started,
            bootstrap=guest.bootstrap.state if guest is not None else "",
            detail=detail,
        )

    def _adopt(self, uid: MachineUid, facts: Facts | None) -> MachineRecord:
        """The machine's record; one that was lost is made again from the domain itself, taken for started."""
        if facts is not None and not self._state.knows(uid):
            mark = facts.mark
            self._state.keep(
                MachineRecord(
                    uid=uid,
                    generation=mark.generation,
                    boot=mark.boot,
                    started=time.time() if facts.state == "running" else 0.0,
                    disk_pool=mark.disk_pool,
                )
            )
        return self._state.record(uid)

    def _volumes(self) -> dict[MachineUid, str]:
        return {v.uid: name for name, pool in self.pools.items() for v in pool.volumes()}

    def _volume_of(self, uid: MachineUid) -> dict[MachineUid, str]:
        found = next((name for name, pool in self.pools.items() if pool.volume(uid) is not None), None)
        return {uid: found} if found is not None else {}

    def _retained(self) -> list[RetainedDiskView]:
        server = self._host.server
        return [
            RetainedDiskView(server=server, uid=v.uid, present=True, disk_pool=name)
            for name, pool in self.pools.items()
            for v in pool.retained()
        ]

    async def _server_view(self) -> ServerView:
        views = []
        error = "; ".join(e for e in (self.hypervisor_error, self._pool_error) if e)
        for pool in self.pools.values():
            try:
                views.append(await asyncio.to_thread(pool.view))
            except OSError as failed:
                error = f"{error}; disk pool {pool.pool.name}: {failed}".lstrip("; ")
        return await self._host.view(tuple(views), error)

    def _console_tail(self, uid: MachineUid, pool: str) -> str:
        served = self.pools.get(pool or self._state.record(uid).disk_pool)
        return tail(read_end(served.console_log(uid))) if served is not None else ""

    # --- guests -------------------------------------------------------------------------------------------------

    def files_written(self, uid: MachineUid) -> None:
        """A guest was given files for its bootstrap: its unit's word is looked for from now on."""
        guest = self._guests.setdefault(uid, _Guest())
        guest.poll_until = time.monotonic() + POLL_SILENCE_SECONDS
        guest.bootstrap = BootstrapStatus()
        self._start(uid, guest, "poll", self._poll(uid, guest))

    def _agent_changed(self, uid: MachineUid, up: bool) -> None:
        if not self._state.knows(uid):
            return  # somebody else's guest
        guest = self._guests.setdefault(uid, _Guest())
        if up and not guest.agent:
            self._start(uid, guest, "greet", self._greet(uid, guest))
        elif not up:
            self._start(uid, guest, "leave", self._leave(uid, guest))

    async def _greet(self, uid: MachineUid, guest: _Guest) -> None:
        for _ in range(GREET_TRIES):
            if await self._channel.ping(uid):
                break
        else:
            return
        guest.agent = True
        guest.silent = ""
        with contextlib.suppress(GuestUnreachable):
            guest.bootstrap = await self._channel.bootstrap(uid)
        await self.refresh(uid)
        if guest.bootstrap.state == "running":
            self._start(uid, guest, "poll", self._poll(uid, guest))

    async def _leave(self, uid: MachineUid, guest: _Guest) -> None:
        await asyncio.sleep(AGENT_GONE_SECONDS)
        facts = await self.facts(uid)
        if facts is not None and not facts.agent_channel:
            guest.agent = False
            await self.refresh(uid)

    async def _poll(self, uid: MachineUid, guest: _Guest) -> None:
        while guest.bootstrap.state in {"", "running"}:
            if not guest.bootstrap.state and time.monotonic() > guest.poll_until:
                return
            await asyncio.sleep(POLL_SECONDS)
            try:
                status = await self._channel.bootstrap(uid)
            except GuestUnreachable:
                continue
            if status != guest.bootstrap:
                guest.bootstrap = status
                await self.refresh(uid)

    def _watch_boot(self, uid: MachineUid, view: DomainView) -> None:
        guest = self._guests.setdefault(uid, _Guest())
        if not guest.agent and not guest.silent:
            self._start(uid, guest, "boot", self._boot_patience(uid, guest, view))

    async def _boot_patience(self, uid: MachineUid, guest: _Guest, view: DomainView) -> None:
        await asyncio.sleep(max(0.0, view.started + BOOT_PATIENCE_SECONDS - time.time()))
        if not guest.agent:
            console = await asyncio.to_thread(self._console_tail, uid, view.disk_pool)
            guest.silent = f"no guest agent after {BOOT_PATIENCE_SECONDS:.0f} s; the console's last lines:\n{console}"
            await self.refresh(uid)

    def _start(self, uid: MachineUid, guest: _Guest, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run one task of a kind per guest."""
        running = guest.tasks.get(name)
        if running is not None and not running.done():
            work.close()
            return
        guest.tasks[name] = self._spawn(work)

    def _forget_guest(self, uid: MachineUid) -> None:
        guest = self._guests.pop(uid, None)
        if guest is not None:
            current = asyncio.current_task()
            for task in guest.tasks.values():
                if task is not current:
                    task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None] | Coroutine[Any, Any, DomainView | None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except (HypervisorDown, libvirt.libvirtError, GuestUnreachable, OSError) as error:
                log.warning("observing: %s", error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """End all looking."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def read_end(path: Path) -> str:
    """The last 16 KiB of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - CONSOLE_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _same(told: AnyView | None, view: AnyView) -> bool:
    """True where there is nothing to tell; a pool's room counts from a change of 2 % or 1 GiB on."""
    if not isinstance(told, ServerView) or not isinstance(view, ServerView):
        return told == view
    if len(told.pools) != len(view.pools):
        return False
    pools = []
    for before, now in zip(told.pools, view.pools, strict=True):
        moved = abs(before.free_mib - now.free_mib)
        small = moved < min(1024, max(1, now.capacity_mib // 50))
        pools.append(msgspec.structs.replace(now, free_mib=before.free_mib) if small else now)
    return told == msgspec.structs.replace(view, pools=tuple(pools))


_STATES: dict[int, DomainState] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_SHUTOFF: "shutoff",
}


def _facts(domain: Any) -> Facts | None:
    try:
        mark = read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, 0))
        if mark is None:
            return None
        number, reason = domain.state()
        state = _STATES.get(number, "shutoff")
        if number == libvirt.VIR_DOMAIN_SHUTOFF and reason in {
            libvirt.VIR_DOMAIN_SHUTOFF_CRASHED,
            libvirt.VIR_DOMAIN_SHUTOFF_FAILED,
        }:
            state = "crashed"
        channel = state == "running" and _agent_channel(domain.XMLDesc(0))
        return Facts(mark, state, channel)
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN}:
            return None
        raise


def _all_facts(connection: Any) -> list[Facts]:
    found = (_facts(domain) for domain in connection.listAllDomains())
    return [f for f in found if f is not None]


def _agent_channel(xml: str) -> bool:
    target = ElementTree.fromstring(xml).find("./devices/channel/target[@name='org.qemu.guest_agent.0']")
    return target is not None and target.get("state") == "connected"
