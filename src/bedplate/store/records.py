"""The controller's records in a transaction: blueprints, journal and attempts, secrets, leadership, settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, func, insert, select, update

from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import AnyEntry, Blueprint, Delta
from bedplate.model.ids import Epoch, Key, OperationId, Revision
from bedplate.model.journal import OperationRecord, after, begun
from bedplate.model.steps import Done, StepResult
from bedplate.ports import CommitConflict
from bedplate.store import tables as t
from bedplate.store.changelog import counter
from bedplate.store.errors import StoreError
from bedplate.store.vault import Vault

_pack = msgspec.msgpack.Encoder().encode
_entry = msgspec.msgpack.Decoder(AnyEntry).decode
_operation = msgspec.msgpack.Decoder(OperationRecord).decode
_attempt = msgspec.msgpack.Decoder(Attempt).decode


class Records:
    """Base of `Transaction`; reads and writes all but objects."""

    def __init__(self, connection: Connection, now: float, vault: Vault) -> None:
        self.connection = connection
        self.now = now
        self._vault = vault

    def _put(self, table: Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
        """Update the row, or insert it; on every database."""
        where = [table.c[k] == v for k, v in keys.items()]
        if self.connection.execute(update(table).where(*where).values(values)).rowcount == 0:
            self.connection.execute(insert(table), {**keys, **values})

    # --- settings and counters ---

    def setting(self, name: str) -> str | None:
        return self.connection.execute(select(t.settings.c.value).where(t.settings.c.name == name)).scalar()

    def set_setting(self, name: str, value: str | None) -> None:
        """Keep a setting; None forgets it."""
        if value is None:
            self.connection.execute(t.settings.delete().where(t.settings.c.name == name))
        else:
            self._put(t.settings, {"name": name}, {"value": value})

    def counter(self, name: str) -> int:
        """Give a counter's value, 0 where it was never set."""
        return counter(self.connection, name)

    def set_counter(self, name: str, value: int) -> None:
        self._put(t.counters, {"name": name}, {"value": value})

    def forget_changes(self) -> None:
        """Empty the change log: whoever follows it must list again. Raise the counter `compacted` with it."""
        self.connection.execute(t.changes.delete())

    # --- secrets ---

    def get_secret(self, name: str) -> bytes | None:
        c = t.secrets.c
        row = self.connection.execute(select(c.nonce, c.value).where(c.name == name)).first()
        return None if row is None else self._vault.open(name, row[0], row[1])

    def put_secret(self, name: str, value: bytes) -> None:
        nonce, sealed = self._vault.seal(name, value)
        self._put(t.secrets, {"name": name}, {"nonce": nonce, "value": sealed})

    def delete_secret(self, name: str) -> None:
        self.connection.execute(t.secrets.delete().where(t.secrets.c.name == name))

    def list_secrets(self, prefix: str) -> Sequence[str]:
        c = t.secrets.c.name
        found = self.connection.execute(select(c).where(c.startswith(prefix, autoescape=True)).order_by(c)).scalars()
        return list(found)

    # --- blueprints ---

    def newest_blueprint(self) -> Revision:
        """Number of the newest blueprint; 0: there is none yet."""
        return Revision(self.connection.execute(select(func.max(t.blueprints.c.number))).scalar() or 0)

    def load_blueprint(self, number: Revision | None = None) -> Blueprint:
        """Give the newest blueprint, or an earlier one that is still kept.

        Raises:
            StoreError: that blueprint is not kept.
        """
        number = self.newest_blueprint() if number is None else number
        if number == 0:
            return Blueprint()
        b, e = t.blueprints.c, t.entries.c
        head = self.connection.execute(select(b.parent, b.reason).where(b.number == number)).first()
        if head is None:
            raise StoreError(f"blueprint {number} is not kept any more")
        valid = select(e.key, e.data).where(e.since <= number, (e.until.is_(None)) | (e.until > number))
        entries = {Key(k): _entry(data) for k, data in self.connection.execute(valid)}
        return Blueprint(number=number, parent=Revision(head[0]), reason=head[1], entries=entries)

    def commit_blueprint(self, delta: Delta, epoch: Epoch) -> Revision:
        """Keep the child of the newest blueprint; what is written is in proportion to the delta.

        Raises:
            CommitConflict: the parent is not the newest, or a higher epoch has begun.
        """
        self.check_epoch(epoch)
        newest = self.newest_blueprint()
        if delta.parent != newest:
            raise CommitConflict(f"blueprint {newest} is the newest, not {delta.parent}: another controller committed")
        number = Revision(newest + 1)
        row = {"number": number, "parent": newest, "reason": delta.reason, "epoch": epoch, "time": self.now}
        self.connection.execute(insert(t.blueprints), row)
        e = t.entries.c
        for k, entry in delta.changes.items():
            ended = update(t.entries).where(e.key == k, e.until.is_(None)).values(until=number)
            self.connection.execute(ended)
            if entry is None:
                self.clear_attempts(k)
            else:
                self.connection.execute(insert(t.entries), {"key": k, "since": number, "data": _pack(entry)})
        return number

    # --- the journal ---

    def begin_operation(self, operation: OperationRecord) -> None:
        """Write down a step before it has any effect.

        Raises:
            CommitConflict: a higher epoch has begun.
        """
        self.check_epoch(operation.epoch)
        row = {
            "id": operation.id,
            "epoch": operation.epoch,
            "started": operation.started,
            "finished": None,
            "data": _pack(operation),
        }
        self.connection.execute(insert(t.operations), row)
        step = operation.step
        history = self.attempt(step.target, step.name)
        self.set_attempt(step.target, step.name, begun(history, step, operation.started))

    def find_operation(self, operation: OperationId) -> OperationRecord | None:
        """Give an operation that is still kept."""
        found = self.connection.execute(select(t.operations.c.data).where(t.operations.c.id == operation)).scalar()
        return None if found is None else _operation(found)

    def finish_operation(self, operation: OperationId, result: StepResult, finished: float) -> OperationRecord | None:
        """Write down how a step ended; None: it is not known, or ended already."""
        record = self.find_operation(operation)
        if record is None or record.finished is not None:
            return None
        # What was read back is in the inventory; the journal keeps how it ended.
        kept = msgspec.structs.replace(result, views=()) if isinstance(result, Done) else result
        ended = msgspec.structs.replace(record, finished=finished, result=kept)
        row = update(t.operations).where(t.operations.c.id == operation)
        self.connection.execute(row.values(finished=finished, data=_pack(ended)))
        history = self.attempt(record.step.target, record.step.name)
        self.set_attempt(record.step.target, record.step.name, after(history, record.step, result, finished))
        return ended

    def open_operations(self) -> list[OperationRecord]:
        """Operations that were begun and are not known to have ended, oldest first."""
        c = t.operations.c
        query = select(c.data).where(c.finished.is_(None)).order_by(c.started, c.id)
        return [_operation(data) for data in self.connection.execute(query).scalars()]

    def operations_since(self, time: float) -> list[OperationRecord]:
        """Operations that went on at that time (seconds since the epoch) or began later, as far as they are kept."""
        c = t.operations.c
        query = select(c.data).where((c.finished.is_(None)) | (c.finished >= time)).order_by(c.started, c.id)
        return [_operation(data) for data in self.connection.execute(query).scalars()]

    def attempt(self, target: Key, step: str) -> Attempt:
        c = t.attempts.c
        data = self.connection.execute(select(c.data).where(c.target == target, c.step == step)).scalar()
        return Attempt() if data is None else _attempt(data)

    def set_attempt(self, target: Key, step: str, value: Attempt) -> None:
        self._put(t.attempts, {"target": target, "step": step}, {"data": _pack(value)})

    def attempts(self) -> dict[Key, dict[str, Attempt]]:
        """The history of all steps by target and step name."""
        found: dict[Key, dict[str, Attempt]] = {}
        c = t.attempts.c
        for target, step, data in self.connection.execute(select(c.target, c.step, c.data)):
            found.setdefault(Key(target), {})[step] = _attempt(data)
        return found

    def clear_attempts(self, target: Key) -> None:
        """Forget the history of a target."""
        self.connection.execute(t.attempts.delete().where(t.attempts.c.target == target))

    # --- leadership ---

    def check_epoch(self, epoch: Epoch) -> None:
        """Raises `CommitConflict` where a higher epoch has begun."""
        newest = counter(self.connection, "epoch")
        if epoch != newest:
            raise CommitConflict(f"epoch {epoch} is over: epoch {newest} has begun")

    def acquire(self, holder: str, ttl: float) -> Epoch | None:
        """Begin a new epoch for `ttl` seconds, unless another holder's has not ended; then None."""
        row = self.connection.execute(select(t.leadership)).first()
        if row is not None and row.held and row.holder != holder and row.expires > self.now:
            return None
        epoch = counter(self.connection, "epoch") + 1
        self.set_counter("epoch", epoch)
        values = {"holder": holder, "epoch": epoch, "expires": self.now + ttl, "held": True}
        self._put(t.leadership, {"id": 1}, values)
        return Epoch(epoch)

    def renew(self, holder: str, epoch: Epoch, ttl: float) -> bool:
        """Prolong the epoch by `ttl` seconds from now; False: it is over."""
        c = t.leadership.c
        mine = update(t.leadership).where(c.holder == holder, c.epoch == epoch, c.held)
        return self.connection.execute(mine.values(expires=self.now + ttl)).rowcount == 1

    def release(self, holder: str, epoch: Epoch) -> None:
        """Give up, so that another need not wait."""
        c = t.leadership.c
        self.connection.execute(
            update(t.leadership).where(c.holder == holder, c.epoch == epoch).values(held=False, expires=self.now)
        )
