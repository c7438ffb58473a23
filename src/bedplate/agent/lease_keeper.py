"""Keeps this server's leases, ends the guests of a pool whose lease is lost, and feeds the watchdog while that is done.

Each pool is renewed by one thread and watched by another, since its storage may hang; one more thread, the guardian,
touches no storage and no libvirt and is what acts. None of them needs the event loop. It starts no guest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bedplate.agent.faults import AgentFault
from bedplate.agent.kept_lease import KeptLease
from bedplate.agent.lease_files import Handover, HeldPool, LeaseFolder, leave_handover, read_handover
from bedplate.agent.leases import Clock, Lease, LeaseRecord, LeaseState, Sighting
from bedplate.agent.qemu_processes import Guest, guests_on, kill
from bedplate.agent.watchdog import Watchdog
from bedplate.model.agent_protocol import Pool
from bedplate.model.ids import Key, MachineUid, ServerName, StoreId
from bedplate.model.inventory import LeaseView
from bedplate.model.leases import RENEW

log = logging.getLogger("bedplate.agent.leases")

TICK = 0.25
"""Seconds between the guardian's looks: with the kill's patience well below `EXPIRY - GIVE_UP`."""
KILL_SECONDS = 1.0
"""For a killed guest to be gone; one with much memory takes half of it. Those that are left are tried again."""
RETRY = 0.5
"""Seconds after a renewal that failed: several tries fit before `GIVE_UP`."""
CLOSE_SECONDS = 3.0
"""For the pools to take the word that the watchdog ends, where the agent ends while guests run."""


def boot_time() -> float:
    """Seconds since the server booted, also those through which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _spawn(work: Callable[[], None], name: str) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


class LeaseKeeper:
    """The leases of one server.

    Args:
        store: Whose leases these are.
        server: The holder.
        boot_id: Of this server's boot.
        watchdog: Fed while every lease is held or its pool's guests are ended.
        handover: File in memory for the next agent.
        mine: Whether a machine is this agent's; others' guests are left alone.
        find, end: How guests are found and killed.
        folders: Gives the lease files of a pool.
        spawn: Runs a pool's renewing and watching, each in a thread of its own.
    """

    def __init__(
        self,
        store: StoreId,
        server: ServerName,
        boot_id: str,
        watchdog: Watchdog,
        handover: Path,
        mine: Callable[[MachineUid], bool],
        *,
        clock: Clock = boot_time,
        find: Callable[[set[str]], list[Guest]] = guests_on,
        end: Callable[[list[Guest], float], list[Guest]] = kill,
        folders: Callable[[str, StoreId], LeaseFolder] = LeaseFolder,
        spawn: Callable[[Callable[[], None], str], None] = _spawn,
    ) -> None:
        self._store = store
        self._server = server
        self._boot_id = boot_id
        self._watchdog = watchdog
        self._handover = handover
        self._mine = mine
        self._clock = clock
        self._find = find
        self._end = end
        self._folders = folders
        self._spawn = spawn
        self._pools: dict[str, KeptLease] = {}
        self._views: dict[Key, LeaseView] = {}
        self._mutex = threading.RLock()
        self._fed = float("-inf")
        self._wanted = False
        self._closed = threading.Event()
        self._guardian: threading.Thread | None = None
        self.changed: Callable[[LeaseView], None] = _nobody
        """Told what is seen anew; from any thread."""
        self.unsure: Callable[[], None] = _nothing
        """Told when what the controller said before is of the past: speak with it again. From any thread."""

    # --- who is served ------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Go on at once where an agent before this one was killed: feed its watchdog, renew its leases."""
        left = read_handover(self._handover, self._boot_id)
        for held in left.pools:
            self._keep(Pool(name=held.name, path=held.path, type="shared"), held.renewed if left.watchdog else None)
        if left.watchdog:
            self._wanted = True
            self._feed()

    def start(self) -> None:
        """Begin to guard, in a thread of its own."""
        if self._guardian is None:
            self._guardian = threading.Thread(target=self._guard, name="lease-guardian", daemon=True)
            self._guardian.start()

    def serve(self, pools: Sequence[Pool]) -> None:
        """Keep leases on exactly the shared ones of these pools from now on; does not block."""
        shared = {p.name: p for p in pools if p.type == "shared"}
        with self._mutex:
            for name, kept in list(self._pools.items()):
                if name in shared and shared[name].path == kept.pool.path:
                    continue
                if self._guests(kept):
                    log.warning("disk pool %s is no longer served, but guests run on it: its lease is kept", name)
                    continue
                kept.stop.set()
                del self._pools[name]
                self._drop_views(name)
            for name, pool in shared.items():
                if name not in self._pools:
                    self._keep(pool, None)
                if not self._wanted and self._guests(self._pools[name]):
                    self._arm()

    def _keep(self, pool: Pool, renewed_before: float | None) -> None:
        lease = Lease(self._clock, renewed_before)
        first = LeaseRecord(store=self._store, server=self._server, boot_id=self._boot_id, counter=0)
        kept = KeptLease(pool, self._folders(pool.path, self._store), lease, first, self._clock)
        self._pools[pool.name] = kept
        self._spawn(lambda: self._renew(kept), f"lease-renew-{pool.name}")
        self._spawn(lambda: self._watch(kept), f"lease-watch-{pool.name}")

    # --- what machines ask --------------------------------------------------------------------------------------

    def permit(self, pool: Pool) -> int:
        """Give leave to run a guest on a pool, as the number of the present term (0 for a local pool).

        Raises:
            AgentFault: its lease is not surely held.
        """
        if pool.type != "shared":
            return 0
        kept = self._pools.get(pool.name)
        if kept is None or kept.lease.held_for() <= 0:
            why = kept.why() if kept is not None else "this agent keeps no lease on it"
            raise AgentFault("LeaseNotHeld", f"no guest may start on disk pool {pool.name}: {why}")
        self._arm()
        return kept.lease.term

    def confirm(self, pool: Pool, term: int) -> None:
        """See that leave that was given still holds. Raises `AgentFault`."""
        if self.permit(pool) != term:
            raise AgentFault("LeaseNotHeld", f"the lease on disk pool {pool.name} was lost meanwhile")

    def spoken(self) -> None:
        """The controller has taken this agent on anew."""
        for kept in list(self._pools.values()):
            kept.lease.spoken()

    def views(self) -> list[LeaseView]:
        """All that is known of leases now."""
        with self._mutex:
            return list(self._views.values())

    @property
    def error(self) -> str:
        """What is wrong, for people; empty: nothing."""
        wrong = [self._watchdog.error] if self._wanted and self._watchdog.error else []
        for name, kept in list(self._pools.items()):
            if kept.lease.state in {LeaseState.LOST, LeaseState.ENDED, LeaseState.RENEWED}:
                wrong.append(f"disk pool {name}: {kept.why()}")
        return "; ".join(wrong)

    # --- the pools' own threads ---------------------------------------------------------------------------------

    def _renew(self, kept: KeptLease) -> None:
        while not kept.stop.is_set():
            begun = self._clock()
            kept.stop.wait(max(TICK, RENEW - (self._clock() - begun)) if self._renew_once(kept, begun) else RETRY)

    def renew(self) -> None:
        """Renew all leases once, now."""
        for kept in list(self._pools.values()):
            self._renew_once(kept, self._clock())

    def _renew_once(self, kept: KeptLease, begun: float) -> bool:
        went = kept.renew(begun, guarded=self._watchdog.armed)
        if went and not self._closed.is_set():
            self._leave_handover(watchdog=self._watchdog.armed)
        return went

    def _watch(self, kept: KeptLease) -> None:
        while not kept.stop.wait(RENEW):
            self._look(kept)

    def look(self) -> None:
        """Look at the others' leases once, now."""
        for kept in list(self._pools.values()):
            self._look(kept)

    def _look(self, kept: KeptLease) -> None:
        for sighting in kept.look():
            with self._mutex:
                if kept.lease.state is LeaseState.HELD:
                    self._tell(kept, sighting)

    # --- the guardian -------------------------------------------------------------------------------------------

    def _guard(self) -> None:
        while not self._closed.wait(TICK):
            try:
                self.tick()
            except Exception:  # unfed, the watchdog ends what this can't
                log.exception("guarding the leases")

    def tick(self) -> None:
        """Act on what has become of each lease, then feed the watchdog if all is in order."""
        for kept in list(self._pools.values()):
            self._act(kept)
        if self._wanted and self._clock() - self._fed >= RENEW:
            self._feed()

    def _feed(self) -> None:
        if all(kept.lease.in_order() for kept in list(self._pools.values())):
            self._fed = self._clock()
            if self._watchdog.armed or self._watchdog.arm():
                self._watchdog.feed()

    def _act(self, kept: KeptLease) -> None:
        state = kept.lease.state
        if state is LeaseState.LOST and kept.shown is not LeaseState.LOST:
            log.error("the lease on disk pool %s is lost: its guests are ended; %s", kept.pool.name, kept.why())
            self._drop_views(kept.pool.name)
            self.unsure()
        if state in {LeaseState.LOST, LeaseState.ENDED, LeaseState.RENEWED}:
            self._end_guests(kept)
        state = kept.lease.state
        if state is not kept.shown:
            kept.shown = state
            self._show(kept, state)

    def _show(self, kept: KeptLease, state: LeaseState) -> None:
        if state is LeaseState.RENEWED:
            self.unsure()
        if state is LeaseState.HELD:
            self._tell(kept, Sighting(self._server, True, self._boot_id, self._watchdog.armed))
        elif state in {LeaseState.ENDED, LeaseState.RENEWED}:
            self._tell(kept, Sighting(self._server, False, self._boot_id, self._watchdog.armed))

    def _end_guests(self, kept: KeptLease) -> None:
        guests = self._guests(kept)
        if guests:
            kept.lease.guests_found()
            log.warning("ended for the lost lease: %s", ", ".join(g.uid for g in guests))
            left = self._end(guests, KILL_SECONDS)
            if left:
                log.error("not ended yet: %s", ", ".join(f"{g.uid} (process {g.pid})" for g in left))
                return
            guests = self._guests(kept)
        if not guests:
            kept.lease.guests_gone()

    def _guests(self, kept: KeptLease) -> list[Guest]:
        """This agent's guests that run on a pool."""
        return [g for g in self._find(kept.paths) if self._mine(g.uid)]

    # --- what is told -------------------------------------------------------------------------------------------

    def _tell(self, kept: KeptLease, seen: Sighting) -> None:
        view = LeaseView(
            disk_pool=kept.pool.name,
            server=seen.server,
            witness=self._server,
            held=seen.held,
            boot_id=seen.boot_id,
            guarded=seen.guarded,
            renewed=time.time() if seen.held else 0.0,
        )
        with self._mutex:
            self._views[view.key] = view
        self.changed(view)

    def _drop_views(self, pool: str) -> None:
        """A blind witness tells nothing: what it told is not repeated."""
        with self._mutex:
            self._views = {k: v for k, v in self._views.items() if v.disk_pool != pool}

    # --- the watchdog -------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        with self._mutex:
            if self._watchdog.armed or not self._watchdog.path:
                return
            self._wanted = True
            if self._watchdog.arm():
                log.info("the watchdog %s guards this server", self._watchdog.path)
                self._fed = self._clock()
                self._leave_handover(watchdog=True)
            else:
                log.error("%s", self._watchdog.error)

    def _leave_handover(self, *, watchdog: bool) -> None:
        with self._mutex:
            pools = tuple(HeldPool(k.pool.name, k.pool.path, k.renewed) for k in self._pools.values() if k.renewed)
            try:
                leave_handover(self._handover, Handover(self._boot_id, watchdog, pools))
            except OSError as error:
                log.warning("nothing can be left for the next agent: %s", error)

    def state(self, pool: str) -> LeaseState:
        """How the lease on a pool is. Raises `KeyError` where there is none."""
        return self._pools[pool].lease.state

    def close(self) -> None:
        """End, so that guests run on and the watchdog does not end them.

        Each pool is first told that no watchdog guards this server any more, so that nobody takes an expired lease for
        the end of its guests. Where a pool with guests can't be told, the watchdog is left running, and the next agent
        must be back within its time.
        """
        self._closed.set()
        if self._guardian is not None:
            self._guardian.join(KILL_SECONDS + 2 * TICK)
        with self._mutex:
            pools = list(self._pools.values())
        for kept in pools:
            kept.stop.set()
        if not self._watchdog.armed:
            return
        told = self._unguard(pools)
        if all(k.lease.state is not LeaseState.LOST and (k in told or not self._guests(k)) for k in pools):
            self._watchdog.disarm()
            self._leave_handover(watchdog=False)
        else:
            log.warning("the watchdog runs on: start an agent within its time, or this server's power is cut")
            self._watchdog.leave()

    def _unguard(self, pools: list[KeptLease]) -> list[KeptLease]:
        told: list[KeptLease] = []

        def close(kept: KeptLease) -> None:
            if kept.close():
                told.append(kept)

        threads = [threading.Thread(target=close, args=(k,), daemon=True) for k in pools]
        end = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return list(told)


def _nobody(_view: LeaseView) -> None:
    """Nobody listens yet."""


def _nothing() -> None:
    """Nobody listens yet."""
