"""One lease as it is kept: its file and its state together. Every method may hang with the pool's storage."""

from __future__ import annotations

import logging
import threading
import time

import msgspec

from bedplate.agent.lease_files import LeaseFolder
from bedplate.agent.leases import Clock, Lease, LeaseRecord, LeaseState, Sighting, Witness
from bedplate.model.agent_protocol import Pool

log = logging.getLogger("bedplate.agent.leases")


class KeptLease:
    """This server's lease on one pool.

    Args:
        first: The record's first content, with the counter at 0.
        clock: See `leases`.
    """

    def __init__(self, pool: Pool, folder: LeaseFolder, lease: Lease, first: LeaseRecord, clock: Clock) -> None:
        self.pool = pool
        self.lease = lease
        self.paths = {pool.path}
        """The pool's names in paths: as it is called, and as it really is."""
        self.renewed = 0.0
        self.error = ""
        """Why the last renewal did not go; empty: it went."""
        self.stop = threading.Event()
        self.shown: LeaseState = LeaseState.NEW
        """What was last acted on."""
        self._folder = folder
        self._record = first
        self._witness = Witness(clock)
        self._writing = threading.Lock()
        self._closed = False

    def renew(self, begun: float, *, guarded: bool) -> bool:
        """Renew once; gives whether it went."""
        try:
            with self._writing:
                if self._closed:
                    return True
                self._write(guarded=guarded)
            self.paths = {self.pool.path, self._folder.real_path()}
        except OSError as error:
            if not self.error:
                log.warning("the lease on disk pool %s was not renewed: %s", self.pool.name, error)
            self.error = str(error)
            return False
        if self.error:
            log.info("the lease on disk pool %s is renewed again", self.pool.name)
        self.error, self.renewed = "", begun
        self.lease.renewed(begun)
        return True

    def close(self) -> bool:
        """Write as the last word that no watchdog guards this server any more; gives whether it went."""
        try:
            with self._writing:
                self._closed = True
                self._write(guarded=False)
        except OSError as error:
            log.warning("disk pool %s could not be told that the watchdog ends: %s", self.pool.name, error)
            return False
        return True

    def look(self) -> list[Sighting]:
        """Look at the others' leases; gives what is seen anew. Nothing where this server is the blind one."""
        if self.lease.state is not LeaseState.HELD:
            self._witness.forget()
            return []
        try:
            files = self._folder.others(self._record.server)
        except OSError as error:
            log.debug("others' leases on disk pool %s can't be read: %s", self.pool.name, error)
            return []
        return self._witness.look(files, self.lease.age())

    def why(self) -> str:
        """Why no guest may start on the pool, for people."""
        match self.lease.state:
            case LeaseState.NEW:
                return f"its lease was not renewed yet ({self.error or 'the first renewal is on its way'})"
            case LeaseState.RENEWED:
                return "its lease was lost and is renewed; the controller was not spoken with since"
            case LeaseState.HELD:
                return "its lease is just running out"
            case LeaseState.LOST | LeaseState.ENDED:
                return f"its lease was lost: {self.error or 'its storage does not answer'}"

    def _write(self, *, guarded: bool) -> None:
        counter = self._record.counter + 1
        self._record = msgspec.structs.replace(self._record, counter=counter, guarded=guarded, written=time.time())
        self._folder.write(self._record)
