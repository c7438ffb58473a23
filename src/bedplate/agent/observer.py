"""What the agent sees: this store's domains, volumes and retained disks, its server. Tells changes, never levels.

libvirt's events and the agent's own acts say where to look; looking is always reading back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import libvirt
import msgspec

from bedplate.agent import mounts
from bedplate.agent.bootstrap_word import BootstrapStatus
from bedplate.agent.disks import Disks
from bedplate.agent.facts import Facts, all_facts, facts_of
from bedplate.agent.faults import HypervisorDown
from bedplate.agent.guest import GuestChannel
from bedplate.agent.guest_watch import GuestWatch
from bedplate.agent.hardware_health import Problem
from bedplate.agent.host import Host
from bedplate.agent.lease_keeper import LeaseKeeper
from bedplate.agent.role import Send
from bedplate.agent.state import AgentState, MachineRecord
from bedplate.agent.worker import Worker
from bedplate.model.agent_protocol import Pool
from bedplate.model.drift import Drift
from bedplate.model.ids import Key, MachineUid, StoreId
from bedplate.model.inventory import (
    AnyView,
    DomainState,
    DomainView,
    LeaseView,
    LoadView,
    RetainedDiskView,
    ServerView,
)

log = logging.getLogger("bedplate.agent")

ROUND_SECONDS = 60.0
"""Between looks at the pools' room, the one thing that changes without an event."""

Arrival = Callable[[MachineUid], Awaitable[None]]


async def _no_arrival(_uid: MachineUid) -> None:
    """Nobody awaits machines."""


class Observer:
    """Keeps the views of one server and tells their changes while there is somebody to tell."""

    def __init__(
        self,
        state: AgentState,
        store: StoreId,
        host: Host,
        worker: Worker,
        channel: GuestChannel,
        leases: LeaseKeeper,
    ) -> None:
        self._state = state
        self._store = store
        self._host = host
        self._worker = worker
        self._leases = leases
        self._told: dict[Key, AnyView] = {}
        self._load: LoadView | None = None
        self._send: Send | None = None
        self._full_due = False
        self._missed: list[AnyView] = []
        self._locks: dict[MachineUid, asyncio.Lock] = {}
        self._server_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: dict[MachineUid, asyncio.Event] = {}
        self.disks = Disks(state, store, host.server)
        self.guests = GuestWatch(channel, self.disks, self.refresh, self.facts)
        self.arrived: Arrival = _no_arrival
        """Told of a machine that was awaited and now runs here, before it is told of."""
        self.hypervisor_error = "libvirt was not reached yet"

    # --- who is told --------------------------------------------------------------------------------------------

    async def attach(self, send: Send) -> None:
        """A controller is there: it is told everything once, then changes."""
        self._send = send
        self._told.clear()
        self._full_due = True
        self._missed.clear()
        await self.resync()

    def detach(self) -> None:
        """The controller is gone."""
        self._send = None

    async def configure(self, pools: Sequence[Pool]) -> None:
        """Serve exactly these disk pools, but for those that a deployed server has nowhere."""
        if self._host.deployed:
            there = mounts.mounted()
            lacking = [p for p in pools if not mounts.in_place(p, there)]
            for pool in lacking:
                log.warning("disk pool %s is not served: nothing is mounted at %s", pool.name, pool.path)
            pools = [p for p in pools if p not in lacking]
        self._leases.serve(pools)
        await self.disks.configure(pools)

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
            self.guests.ended(uid)
        if what != "agent":
            self._spawn(self.refresh(uid))
        elif self._state.knows(uid):  # else it is somebody else's guest
            self.guests.agent_changed(uid, up=detail == "up")

    async def wait_for_event(self, uid: MachineUid, timeout: float) -> None:
        """Wait until something happens to a domain, or the time is over."""
        event = self._waiters.setdefault(uid, asyncio.Event())
        event.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout)

    async def facts(self, uid: MachineUid) -> Facts | None:
        """Read one domain; None where there is none of ours. Raises `HypervisorDown`."""
        found = await self._worker.call(lambda connection: facts_of(connection, uid))
        return found if found is not None and found.mark.store == self._store else None

    async def resync(self) -> None:
        """Read everything and tell what changed; the first time for a controller, all of it."""
        await self.refresh_server()
        try:
            found = await self._worker.call(all_facts)
        except (HypervisorDown, libvirt.libvirtError) as error:
            log.warning("domains can't be read: %s", error)
            return
        facts = {f.mark.uid: f for f in found if f.mark.store == self._store}
        for fact in facts.values():
            await self._receive(fact)
        volumes = await self.disks.volumes()
        retained = await self.disks.retained()
        told = (MachineUid(k.rsplit("/", 1)[1]) for k in self._told if k.startswith("domain/"))
        uids = {*facts, *volumes, *told, *(r.uid for r in self._state.live())}
        domains = [await self._view(uid, facts.get(uid), volumes) for uid in sorted(uids)]
        await self._deliver([*domains, *retained])
        for view in domains:
            if view.state == "running":
                self.guests.runs(view.uid, view)
                if facts[view.uid].agent_channel:
                    self.guests.agent_changed(view.uid, up=True)

    async def _deliver(self, views: Iterable[AnyView]) -> None:
        if self._send is None or not self._full_due:
            await self.tell([*views, *self._leases.views()])
            return
        load = [self._load] if self._load is not None else []
        everything: list[AnyView] = [await self.server_view(), *views, *self._leases.views(), *load]
        send, self._full_due = self._send, False
        self._told = {v.key: v for v in everything}
        missed, self._missed = self._missed, []
        if send is not None:
            await send(everything, True)
            await self.tell(missed)  # what happened while all of it was read

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
            if facts is not None:
                await self._receive(facts)
            view = await self._view(uid, facts, await self.disks.volume_of(uid))
            if view.state == "running":
                self.guests.runs(uid, view)
            else:
                self.guests.ended(uid)
            await self.tell([view])
            return view

    async def _receive(self, facts: Facts) -> None:
        if facts.state == "running" and self._state.record(facts.mark.uid).source:
            await self.arrived(facts.mark.uid)

    async def refresh_server(self) -> None:
        """Look at the server and its pools and tell what changed."""
        async with self._server_lock:
            await self.tell([await self.server_view()])

    async def retained_changed(self, uid: MachineUid, pool: str, present: bool) -> RetainedDiskView:
        """A retained disk came or went."""
        view = RetainedDiskView(server=self._host.server, uid=uid, present=present, disk_pool=pool)
        await self.tell([view])
        return view

    def lease_changed(self, view: LeaseView) -> None:
        """Something new was seen of a lease. Its own one's changes show in the server's view too."""
        self._spawn(self.tell([view]))
        if view.server == self._host.server:
            self._spawn(self.refresh_server())

    async def hardware_changed(self, problems: list[Problem]) -> None:
        """The server's hardware was looked at."""
        self._host.ails(problems)
        await self.refresh_server()

    async def drifted(self, found: Drift) -> None:
        """It was looked at whether this system is as deployed."""
        self._host.drift = found
        await self.refresh_server()

    async def load_changed(self, view: LoadView) -> None:
        """The load is worth telling."""
        self._load = view
        await self.tell([view])

    async def rounds(self) -> None:
        """Look now and then at what has no events, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            await self.disks.retry()
            await self.refresh_server()

    async def server_view(self) -> ServerView:
        """The server as it is now."""
        pools, wrong = await self.disks.views()
        error = "; ".join(e for e in (self.hypervisor_error, wrong, self._leases.error) if e)
        return await self._host.view(tuple(pools), error)

    async def tell(self, views: Sequence[AnyView]) -> None:
        """Send those that differ from what was told."""
        if self._send is None:
            return
        if self._full_due:
            self._missed += views
            return
        fresh = [v for v in views if not _same(self._told.get(v.key), v)]
        for view in fresh:
            self._told[view.key] = view
        if fresh:
            with contextlib.suppress(ConnectionError):
                await self._send(fresh, False)

    # --- views --------------------------------------------------------------------------------------------------

    async def _view(self, uid: MachineUid, facts: Facts | None, volumes: dict[MachineUid, str]) -> DomainView:
        record = await self._adopt(uid, facts)
        pool = volumes.get(uid, "")
        plain = DomainView(
            server=self._host.server,
            uid=uid,
            generation=record.generation,
            boot=record.boot,
            volume=uid in volumes,
            disk_pool=pool,
        )
        if facts is None or facts.left or record.source:  # what is awaited runs elsewhere until it has come
            return plain
        state: DomainState = "running" if facts.moving else facts.state
        if state in {"shutoff", "crashed"} and record.boot < facts.mark.boot:
            state = "defined"
        detail = ""
        bootstrap = self.guests.bootstrap(uid) if state == "running" else BootstrapStatus()
        if state == "running":
            detail = self.guests.complaint(uid)
        elif state == "crashed":
            detail = await self.disks.console_tail(uid, pool)
        elif state == "paused":
            detail = "the guest is paused: its disk pool may be full"
        return msgspec.structs.replace(
            plain,
            generation=facts.mark.generation,
            state=state,
            guest_agent=state == "running" and self.guests.agent_up(uid),
            started=record.started,
            bootstrap=bootstrap.state,
            bootstrap_up=bootstrap.up,
            bootstrap_began=bootstrap.began,
            bootstrap_ended=bootstrap.ended,
            detail=detail,
        )

    async def _adopt(self, uid: MachineUid, facts: Facts | None) -> MachineRecord:
        """The machine's record; one that was lost is made again from the domain itself, taken for started."""
        if facts is not None and not self._state.knows(uid):
            mark = facts.mark
            record = MachineRecord(
                uid=uid,
                generation=mark.generation,
                boot=mark.boot,
                started=time.time() if facts.state == "running" else 0.0,
                disk_pool=mark.disk_pool,
            )
            await asyncio.to_thread(self._state.keep, record)
        return self._state.record(uid)

    def _spawn(self, work: Coroutine[Any, Any, DomainView | None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except (HypervisorDown, libvirt.libvirtError, OSError) as error:
                log.warning("observing: %s", error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all looking."""
        await self.guests.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


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
