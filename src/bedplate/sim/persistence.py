"""The simulated store as a controller's persistence, with leadership that ends by itself: the twin of the real one.

For tests and trials; the simulator drives the store itself and gives the lead to whom it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bedplate.engine import messages as msg
from bedplate.model.blueprint import Blueprint, Delta
from bedplate.model.ids import Epoch, Revision
from bedplate.ports import CommitConflict
from bedplate.sim.store import SimStore, StoreCommand

LEASE_SECONDS = 15.0


class SimLease:
    """Who leads and until when; kept beside the store, as it outlives controllers."""

    def __init__(self) -> None:
        self.holder = ""
        self.expires = 0.0


class SimPersistence:
    """Implements the runner's `Persistence` and `ports.BlueprintStore` on a `SimStore`."""

    def __init__(self, store: SimStore, lease: SimLease, holder: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._lease = lease
        self._holder = holder
        self._clock = clock

    def acquire(self) -> Epoch | None:
        """Lead, or None while another does."""
        if self._lease.holder not in {"", self._holder} and self._lease.expires > self._clock():
            return None
        self._store.epoch = Epoch(self._store.epoch + 1)
        self._lease.holder, self._lease.expires = self._holder, self._clock() + LEASE_SECONDS
        return self._store.epoch

    def renew(self, epoch: Epoch) -> bool:
        """Go on leading; False: the epoch is over."""
        mine = self._lease.holder == self._holder and epoch == self._store.epoch
        if mine:
            self._lease.expires = self._clock() + LEASE_SECONDS
        return mine

    def release(self, epoch: Epoch) -> None:
        """Give up, so that another need not wait."""
        if self._lease.holder == self._holder and epoch == self._store.epoch:
            self._lease.holder = ""

    def load(self, epoch: Epoch) -> msg.Started:
        """All that the engine starts from."""
        return self._store.load(epoch)

    def carry_out(self, commands: Sequence[StoreCommand]) -> list[msg.Event]:
        """Write the commands in one transaction and give their acknowledgements."""
        try:
            return self._store.carry_out(commands)
        except CommitConflict as error:
            return [msg.CommitLost(message=str(error))]

    def load_blueprint(self) -> Blueprint:
        """The newest blueprint."""
        return self._store.blueprint

    def commit_blueprint(self, delta: Delta, epoch: Epoch) -> Revision:
        """Raises `CommitConflict`."""
        return self._store.commit(delta, epoch)
