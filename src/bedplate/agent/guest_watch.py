"""What is known of running guests by asking them: whether the guest agent is up, how the bootstrap unit gets on.

Asks only when something says that there is an answer; only the bootstrap unit of a guest that was given files is asked
again and again, until it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import libvirt

from bedplate.agent.bootstrap_word import BootstrapStatus
from bedplate.agent.disks import Disks
from bedplate.agent.facts import Facts
from bedplate.agent.faults import HypervisorDown
from bedplate.agent.guest import GuestChannel, GuestUnreachable
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import DomainView

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


class _Guest:
    """One running guest."""

    def __init__(self) -> None:
        self.agent = False
        self.bootstrap = BootstrapStatus()
        self.silent = ""
        self.poll_until = 0.0
        self.tasks: dict[str, asyncio.Task[None]] = {}


class GuestWatch:
    """The running guests of one server.

    Args:
        refresh: Looks at a machine anew and tells what changed.
        facts: Reads a domain.
    """

    def __init__(
        self,
        channel: GuestChannel,
        disks: Disks,
        refresh: Callable[[MachineUid], Awaitable[object]],
        facts: Callable[[MachineUid], Awaitable[Facts | None]],
    ) -> None:
        self._channel = channel
        self._disks = disks
        self._refresh = refresh
        self._facts = facts
        self._guests: dict[MachineUid, _Guest] = {}

    def agent_up(self, uid: MachineUid) -> bool:
        """Whether the guest agent has answered since the guest began to run here."""
        return uid in self._guests and self._guests[uid].agent

    def bootstrap(self, uid: MachineUid) -> BootstrapStatus:
        """What the bootstrap unit said last."""
        return self._guests[uid].bootstrap if uid in self._guests else BootstrapStatus()

    def complaint(self, uid: MachineUid) -> str:
        """Why something seems wrong inside; empty: nothing."""
        guest = self._guests.get(uid)
        return guest.bootstrap.detail or guest.silent if guest is not None else ""

    def files_written(self, uid: MachineUid) -> None:
        """A guest was given files for its bootstrap: its unit's word is looked for from now on."""
        guest = self._guests.setdefault(uid, _Guest())
        guest.poll_until = time.monotonic() + POLL_SILENCE_SECONDS
        guest.bootstrap = BootstrapStatus()
        self._start(guest, "poll", self._poll(uid, guest))

    def agent_changed(self, uid: MachineUid, *, up: bool) -> None:
        """The guest agent's channel was opened or closed."""
        guest = self._guests.setdefault(uid, _Guest())
        if up and not guest.agent:
            self._start(guest, "greet", self._greet(uid, guest))
        elif not up:
            self._start(guest, "leave", self._leave(uid, guest))

    def runs(self, uid: MachineUid, view: DomainView) -> None:
        """The guest runs: its guest agent is waited for."""
        guest = self._guests.setdefault(uid, _Guest())
        if not guest.agent and not guest.silent:
            self._start(guest, "boot", self._boot_patience(uid, guest, view))

    def ended(self, uid: MachineUid) -> None:
        """The guest does not run, or runs anew: what was known of it is of the past."""
        guest = self._guests.pop(uid, None)
        if guest is not None:
            current = asyncio.current_task()
            for task in guest.tasks.values():
                if task is not current:
                    task.cancel()

    async def stop(self) -> None:
        """End all asking."""
        tasks = [task for guest in self._guests.values() for task in guest.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        await self._refresh(uid)
        if guest.bootstrap.state == "running":
            self._start(guest, "poll", self._poll(uid, guest))

    async def _leave(self, uid: MachineUid, guest: _Guest) -> None:
        await asyncio.sleep(AGENT_GONE_SECONDS)
        facts = await self._facts(uid)
        if facts is not None and not facts.agent_channel:
            guest.agent = False
            await self._refresh(uid)

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
                await self._refresh(uid)

    async def _boot_patience(self, uid: MachineUid, guest: _Guest, view: DomainView) -> None:
        await asyncio.sleep(max(0.0, view.started + BOOT_PATIENCE_SECONDS - time.time()))
        if not guest.agent:
            console = await self._disks.console_tail(uid, view.disk_pool)
            guest.silent = f"no guest agent after {BOOT_PATIENCE_SECONDS:.0f} s; the console's last lines:\n{console}"
            await self._refresh(uid)

    def _start(self, guest: _Guest, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run one task of a kind per guest."""
        running = guest.tasks.get(name)
        if running is not None and not running.done():
            work.close()
            return

        async def guarded() -> None:
            try:
                await work
            except (HypervisorDown, libvirt.libvirtError, GuestUnreachable, OSError) as error:
                log.warning("watching a guest: %s", error)

        guest.tasks[name] = asyncio.get_running_loop().create_task(guarded())
