"""The disk pools that this server serves, and what was last seen in them.

A pool whose storage does not answer is not an empty pool: what was known of its disks stays known. Changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from bedplate.agent.redact import tail
from bedplate.agent.state import AgentState
from bedplate.agent.volumes import DiskPool
from bedplate.model.agent_protocol import Pool
from bedplate.model.ids import MachineUid, ServerName, StoreId
from bedplate.model.inventory import PoolView, RetainedDiskView

log = logging.getLogger("bedplate.agent")

CONSOLE_BYTES = 16 * 1024


class Disks:
    """The pools of one server, by name in `pools`; those that could not be prepared are not among them."""

    def __init__(self, state: AgentState, store: StoreId, server: ServerName) -> None:
        self._state = state
        self._store = store
        self._server = server
        self._wanted: tuple[Pool, ...] = ()
        self._trying: dict[str, DiskPool] = {}
        self._errors: dict[str, str] = {}
        self._seen: dict[str, set[MachineUid]] = {}
        self._kept: dict[str, set[MachineUid]] = {}
        self.pools: dict[str, DiskPool] = {}

    async def configure(self, pools: Sequence[Pool]) -> None:
        """Serve exactly these pools. One that can't be prepared is tried again by `retry`."""
        self._wanted = tuple(pools)
        self._errors.clear()
        self.pools = {p.name: self.pools[p.name] for p in pools if self._serves(p)}
        await self.retry()

    async def retry(self) -> None:
        """Try to prepare the pools that are not served yet."""
        await asyncio.gather(*(self._prepare(pool) for pool in self._wanted if not self._serves(pool)))

    async def _prepare(self, pool: Pool) -> None:
        made = self._trying.get(pool.name)
        if made is None or made.pool != pool:  # one that hangs keeps count of what hangs
            made = self._trying[pool.name] = DiskPool(pool, self._store, self._server)
        if made.io.hung:
            return
        try:
            await made.io.call(made.prepare)
            self._seen[pool.name] = {v.uid for v in await made.io.call(made.volumes)}
        except OSError as error:
            self._errors[pool.name] = f"disk pool {pool.name}: {error}"
        else:
            self.pools[pool.name] = made
            self._trying.pop(pool.name, None)
            self._errors.pop(pool.name, None)

    def _serves(self, pool: Pool) -> bool:
        known = self.pools.get(pool.name)
        return known is not None and known.pool == pool

    # --- what is in them ----------------------------------------------------------------------------------------

    async def volumes(self) -> dict[MachineUid, str]:
        """This server's machines' disks, each with its pool."""
        found: dict[MachineUid, str] = {}
        for pool in self._wanted:
            served = self.pools.get(pool.name)
            if served is not None:
                try:
                    self._seen[pool.name] = {v.uid for v in await served.io.glance(served.volumes)}
                except OSError as error:
                    log.warning("disk pool %s can't be read: %s", pool.name, error)
            found |= dict.fromkeys(self._told(pool), pool.name)
        return found

    async def volume_of(self, uid: MachineUid) -> dict[MachineUid, str]:
        """The same for one machine: one entry or none."""
        for pool in self._wanted:
            served, seen = self.pools.get(pool.name), self._seen.get(pool.name)
            if served is not None and seen is not None:
                try:
                    there = await served.io.glance(served.volume, uid) is not None
                    seen.add(uid) if there else seen.discard(uid)
                except OSError as error:
                    log.warning("disk pool %s can't be read: %s", pool.name, error)
            if uid in self._told(pool):
                return {uid: pool.name}
        return {}

    def _told(self, pool: Pool) -> set[MachineUid]:
        """Machines whose disks this server says to have in a pool."""
        seen = self._seen.get(pool.name)
        if seen is None:  # never read: what was written down is the last that is known
            return {r.uid for r in self._state.live() if r.disk_pool == pool.name and not r.source}
        # A shared pool's disk is this server's only while it has not been told to forget the machine.
        return {u for u in seen if not self._state.record(u).ended and (pool.type == "local" or self._state.knows(u))}

    async def retained(self) -> list[RetainedDiskView]:
        """The disks that this server retained."""
        views: list[RetainedDiskView] = []
        for name, pool in self.pools.items():
            try:
                self._kept[name] = {v.uid for v in await pool.io.glance(pool.retained)}
            except OSError as error:
                log.warning("disk pool %s can't be read: %s", name, error)
            views += [
                RetainedDiskView(server=self._server, uid=uid, present=True, disk_pool=name)
                for uid in sorted(self._kept.get(name, ()))
            ]
        return views

    async def views(self) -> tuple[list[PoolView], str]:
        """The pools as they are now, and what is wrong with the others."""
        errors = dict(self._errors)

        async def view(name: str, pool: DiskPool) -> PoolView | None:
            try:
                return await pool.io.glance(pool.view)
            except OSError as error:
                errors[name] = f"disk pool {name}: {error}"
                return None

        seen = await asyncio.gather(*(view(name, pool) for name, pool in self.pools.items()))
        return [v for v in seen if v is not None], "; ".join(errors.values())

    async def console_tail(self, uid: MachineUid, pool: str) -> str:
        """The last lines of a machine's console, without secrets; empty where they can't be read."""
        served = self.pools.get(pool or self._state.record(uid).disk_pool)
        if served is None:
            return ""
        try:
            return tail(await served.io.glance(read_end, served.console_log(uid)))
        except OSError:
            return ""


def read_end(path: Path) -> str:
    """The last 16 KiB of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - CONSOLE_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
