"""The store: one folder with a database, a key file and a lock. Blocking; every method may be called from any thread.

One writer at a time, any number of readers beside it. Whoever subscribes is told of each commit, in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
from sqlalchemy import Connection, insert

from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import Blueprint, Delta
from bedplate.model.ids import Epoch, Key, OperationId, Revision, StoreId
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.meta import ObjectMeta
from bedplate.model.spec import Spec, object_key
from bedplate.model.steps import StepResult
from bedplate.store import changelog, codec, database, retention
from bedplate.store import tables as t
from bedplate.store.changelog import Change, Cursor, Row
from bedplate.store.errors import Compacted, StoreError, StoreUnavailable
from bedplate.store.transaction import Transaction, user_secret
from bedplate.store.vault import Vault, load_key

DATABASE = "store.db"
KEY = "store.key"
LOCK = "store.lock"

Subscriber = Callable[[Sequence[Change]], None]

WRITES_BETWEEN_MAINTENANCE = 1000
"""Old history is pruned after so many writes: rare enough to cost nothing, often enough to bound the file."""

DECLARED = (
    "Server",
    "Network",
    "DiskPool",
    "Image",
    "Release",
    "Cluster",
    "NodePool",
    "VirtualMachine",
    "FleetPolicy",
    "CompatibilityMatrix",
)
"""The kinds that make up the spec."""

_CHECK = "bedplate/key-check"


class Page(NamedTuple):
    """A part of a list, as it was at `revision`."""

    revision: int
    items: list[bytes]
    """JSON of each object as users see it."""
    next: Cursor | None
    """Where the next page begins; None: this was the last."""


class Store:
    """Open with `Store.open`. Implements `ports.BlueprintStore` and `ports.SecretStore`."""

    def __init__(self, folder: Path, url: str, key: bytes, clock: Callable[[], float], lock: IO[str] | None) -> None:
        self.folder = folder
        self._clock = clock
        self._engine = database.connect(url)
        self._vault = Vault(key)
        self._lock_file = lock
        self._writer = threading.RLock()
        self._subscribers: list[Subscriber] = []
        self._writes = 0
        self.retention = retention.Retention()
        self.id = StoreId("")
        """Made at creation; written on all that this store makes in the world."""

    @classmethod
    def open(
        cls, folder: Path | str, *, url: str | None = None, clock: Callable[[], float] = time.time, lock: bool = True
    ) -> Store:
        """Open the store in a folder, or make a new one (folder mode 0700).

        `url`: an SQLAlchemy URL instead of the folder's own SQLite file. `lock`: keep other processes from opening
        it too, as their writes would not be noticed here.

        Raises:
            StoreError: another process has it open, the key does not fit, or a later version wrote it.
            StoreUnavailable: it can't be read or written.
        """
        folder = Path(folder)
        fresh = not (folder / DATABASE).exists() and url is None
        held: IO[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held = _lock(folder) if lock else None
            key = load_key(folder / KEY, create=fresh or url is not None)
            if fresh:
                os.close(os.open(folder / DATABASE, os.O_WRONLY | os.O_CREAT, 0o600))
        except (OSError, StoreError) as error:
            if held is not None:
                held.close()
            if isinstance(error, StoreError):
                raise
            raise StoreUnavailable(f"the data folder {folder} can't be used: {error.strerror}") from error
        store = cls(folder, url or f"sqlite:///{folder / DATABASE}", key, clock, held)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self) -> None:
        database.migrate(self._engine)
        with self.transaction() as tx:
            store_id = tx.setting("store-id")
            if store_id is None:
                store_id = str(uuid.uuid4())
                tx.set_setting("store-id", store_id)
                for name in ("revision", "compacted", "epoch"):
                    tx.connection.execute(insert(t.counters), {"name": name, "value": 0})
                tx.put_secret(_CHECK, store_id.encode())
            elif tx.get_secret(_CHECK) != store_id.encode():
                raise StoreError("the key file does not belong to this store")
        self.id = StoreId(store_id)

    def close(self) -> None:
        """Close all connections and let other processes open the store."""
        self._engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    # --- transactions and notification ---

    @contextlib.contextmanager
    def transaction(self) -> Generator[Transaction]:
        """Write in one transaction: all of it is kept when the block ends well, nothing when it raises.

        Subscribers are told before the next transaction can begin. Don't nest.

        Raises:
            StoreUnavailable: nothing was kept.
        """
        with self._writer:
            with database.faults():
                connection = self._engine.connect().execution_options(**database.WRITE)
                with connection, connection.begin():
                    tx = Transaction(connection, self._clock(), self._vault)
                    yield tx
                    tx.close()
            if tx.changes:
                for subscriber in tuple(self._subscribers):
                    subscriber(tx.changes)
                self._writes += len(tx.changes)
                if self._writes >= WRITES_BETWEEN_MAINTENANCE:
                    self._writes = 0
                    with contextlib.suppress(StoreUnavailable):  # this write was kept; pruning can wait
                        self.maintain()

    @contextlib.contextmanager
    def reading(self) -> Generator[Connection]:
        """A consistent view of the database at one moment. Raises `StoreUnavailable`."""
        with database.faults(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _view(self) -> Generator[Transaction]:
        with self.reading() as connection:
            yield Transaction(connection, self._clock(), self._vault)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with the changes of each commit, in order, in the writer's thread; it must not block.

        Gives a function that ends it.
        """
        with self._writer:
            self._subscribers.append(subscriber)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers.remove(subscriber)

        return end

    def maintain(self) -> None:
        """Forget old history: changes, blueprints, operations, events. Called by itself now and then."""
        with self.transaction() as tx:
            retention.prune(tx, self.retention)

    # --- objects: reading ---

    @property
    def revision(self) -> int:
        """The revision of the last write."""
        with self.reading() as connection:
            return changelog.counter(connection, "revision")

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Raises `NotFound`. Cluster-scoped kinds have the namespace ""."""
        with self._view() as view:
            return view.get(kind, namespace, name)

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Give the object or None."""
        with self._view() as view:
            return view.find(kind, namespace, name)

    def all(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Give all objects of the kind in a namespace, or in all."""
        with self._view() as view:
            return list(view.all(kind, namespace))

    def list_raw(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        limit: int | None = None,
        after: Cursor | None = None,
        revision: int | None = None,
        match: Callable[[bytes], bool] | None = None,
    ) -> Page:
        """Give a page of objects as JSON, in the order of namespace and name, now or as they were at `revision`.

        Raises:
            Compacted: that revision is too long ago.
        """
        with self.reading() as connection:
            newest = changelog.counter(connection, "revision")
            at = newest if revision is None else revision
            if at > newest:
                raise Compacted(at, newest)
            if at < newest:
                found: Iterator[Row] = changelog.rows_at(connection, kind, namespace, after, at)
            else:
                fetch = None if limit is None or match is not None else limit + 1
                found = iter(changelog.rows(connection, kind, namespace, after, fetch))
            if match is not None:
                found = (row for row in found if match(row.data))
            page = list(found) if limit is None else list(islice(found, limit + 1))
        more = limit is not None and len(page) > limit
        page = page[:limit]
        after = (page[-1].namespace, page[-1].name) if more and page else None
        return Page(at, [row.data for row in page], after)

    def changes_since(self, revision: int, kind: str | None = None) -> list[Change]:
        """Give all changes after the revision, oldest first.

        Raises:
            Compacted: they are no longer all kept, or the revision is of the future.
        """
        with self.reading() as connection:
            newest = changelog.counter(connection, "revision")
            if revision > newest:
                raise Compacted(revision, newest)
            return changelog.changes_since(connection, revision, kind)

    def load_spec(self) -> tuple[Spec, int]:
        """Give all declared objects as one snapshot, with its revision."""
        with self._view() as view:
            by_kind = {kind: {object_key(o): o for o in view.all(kind)} for kind in DECLARED}
            spec = Spec(
                servers=by_kind["Server"],  # type: ignore[arg-type]
                networks=by_kind["Network"],  # type: ignore[arg-type]
                disk_pools=by_kind["DiskPool"],  # type: ignore[arg-type]
                images=by_kind["Image"],  # type: ignore[arg-type]
                releases=by_kind["Release"],  # type: ignore[arg-type]
                clusters=by_kind["Cluster"],  # type: ignore[arg-type]
                node_pools=by_kind["NodePool"],  # type: ignore[arg-type]
                virtual_machines=by_kind["VirtualMachine"],  # type: ignore[arg-type]
                fleet_policies=by_kind["FleetPolicy"],  # type: ignore[arg-type]
                compatibility_matrices=by_kind["CompatibilityMatrix"],  # type: ignore[arg-type]
                doomed_machines=frozenset(o.metadata.uid for o in view.all("Machine") if o.metadata.deletion_timestamp),
                released_disks=frozenset(
                    o.spec.machine_uid  # type: ignore[attr-defined]
                    for o in view.all("RetainedDisk")
                    if o.metadata.deletion_timestamp
                ),
            )
            return spec, changelog.counter(view.connection, "revision")

    # --- objects: one write each; see `Transaction` for their meaning ---

    def create(self, obj: Object) -> Object:
        """Keep a new object. Raises `AlreadyExists`."""
        with self.transaction() as tx:
            return tx.create(obj)

    def update(self, obj: Object) -> Object:
        """Replace an object. Raises `NotFound`, `Conflict`."""
        with self.transaction() as tx:
            return tx.update(obj)

    def update_status(self, obj: Object) -> Object | None:
        """Replace the status only."""
        with self.transaction() as tx:
            return tx.update_status(obj)

    def update_metadata(
        self, kind: str, namespace: str, name: str, change: Callable[[ObjectMeta], ObjectMeta]
    ) -> Object:
        """Change labels, annotations, finalizers or owners. Raises `NotFound`."""
        with self.transaction() as tx:
            old = tx.get(kind, namespace, name)
            return tx.update(msgspec.structs.replace(old, metadata=change(old.metadata)))

    def finalise(self, kind: str, namespace: str, name: str, finalizer: str) -> Object | None:
        """Take a finalizer off."""
        with self.transaction() as tx:
            return tx.finalise(kind, namespace, name, finalizer)

    def delete(self, kind: str, namespace: str, name: str) -> tuple[Object, bool]:
        """Delete or mark for deletion; True: it is gone. Raises `NotFound`."""
        with self.transaction() as tx:
            return tx.delete(kind, namespace, name)

    def publish(self, obj: Object) -> Object | None:
        """Show what the controller sees."""
        with self.transaction() as tx:
            return tx.publish(obj)

    # --- blueprints and the journal ---

    def load_blueprint(self, number: Revision | None = None) -> Blueprint:
        """Give the newest blueprint, or an earlier one."""
        with self._view() as view:
            return view.load_blueprint(number)

    def commit_blueprint(self, delta: Delta, epoch: Epoch) -> Revision:
        """Raises `CommitConflict`."""
        with self.transaction() as tx:
            return tx.commit_blueprint(delta, epoch)

    def begin_operation(self, operation: OperationRecord) -> None:
        """Raises `CommitConflict`."""
        with self.transaction() as tx:
            tx.begin_operation(operation)

    def finish_operation(self, operation: OperationId, result: StepResult, finished: float) -> None:
        with self.transaction() as tx:
            tx.finish_operation(operation, result, finished)

    def open_operations(self) -> list[OperationRecord]:
        """Begun and not known to have ended, oldest first."""
        with self._view() as view:
            return view.open_operations()

    def operations_since(self, time: float) -> list[OperationRecord]:
        """Operations that went on at that time or began later, oldest first, as far as they are kept."""
        with self._view() as view:
            return view.operations_since(time)

    def added(self, kind: str, namespace: str, name: str) -> float | None:
        """When the object was made, seconds since the epoch; None where the change log does not go back so far."""
        with self.reading() as connection:
            return changelog.added(connection, kind, namespace, name)

    def attempts(self) -> dict[Key, dict[str, Attempt]]:
        """The history of all steps by target and step name."""
        with self._view() as view:
            return view.attempts()

    def record_event(self, about: Object, type_: str, reason: str, message: str) -> None:
        """Tell users of something that happened to the object; the same again only counts up."""
        with self.transaction() as tx:
            tx.record_event(codec.kind_of(about), about.metadata.namespace, about.metadata.name, type_, reason, message)

    def clear_attempts(self, target: Key) -> None:
        with self.transaction() as tx:
            tx.clear_attempts(target)

    # --- secrets (`ports.SecretStore`) ---

    def get_secret(self, name: str) -> bytes | None:
        with self._view() as view:
            return view.get_secret(name)

    def put_secret(self, name: str, value: bytes) -> None:
        with self.transaction() as tx:
            tx.put_secret(name, value)

    def put_secret_once(self, name: str, value: bytes) -> bytes:
        """Keep `value` unless there is one already; give the one kept."""
        with self.transaction() as tx:
            kept = tx.get_secret(name)
            if kept is None:
                tx.put_secret(name, value)
            return value if kept is None else kept

    def delete_secret(self, name: str) -> None:
        with self.transaction() as tx:
            tx.delete_secret(name)

    def list_secrets(self, prefix: str) -> Sequence[str]:
        with self._view() as view:
            return view.list_secrets(prefix)

    def user_secret(self, namespace: str, name: str) -> dict[str, str] | None:
        """Give the data (base64 texts by key) of a user's Secret object, or None."""
        data = self.get_secret(user_secret(namespace, name))
        return None if data is None else msgspec.json.decode(data, type=dict[str, str])

    # --- leadership and settings ---

    def acquire(self, holder: str, ttl: float) -> Epoch | None:
        """Begin a new epoch of `ttl` seconds; None while another holder leads. The same holder gets one at once."""
        with self.transaction() as tx:
            return tx.acquire(holder, ttl)

    def renew(self, holder: str, epoch: Epoch, ttl: float) -> bool:
        """Prolong the epoch; False: it is over."""
        with self.transaction() as tx:
            return tx.renew(holder, epoch, ttl)

    def release(self, holder: str, epoch: Epoch) -> None:
        with self.transaction() as tx:
            tx.release(holder, epoch)

    def setting(self, name: str) -> str | None:
        with self._view() as view:
            return view.setting(name)

    def set_setting(self, name: str, value: str | None) -> None:
        """Keep a setting; None forgets it."""
        with self.transaction() as tx:
            tx.set_setting(name, value)

    @property
    def restored(self) -> bool:
        """True from a restore until `accept_restored`: the controller only observes."""
        return self.setting("restored") is not None

    def accept_restored(self) -> None:
        """A person accepted what the restored store differs in from the world."""
        self.set_setting("restored", None)

    def check(self) -> None:
        """Try a write. Raises `StoreUnavailable`."""
        self.set_setting("checked", codec.timestamp(self._clock()))


def _lock(folder: Path) -> IO[str]:
    handle = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise StoreError(f"the data folder {folder} is in use by process {owner}; end that one first") from None
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle
