"""Opens the database: settings of SQLite, migrations, faults turned into `StoreUnavailable`. Knows no objects."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, text

from bedplate.store.errors import StoreError, StoreUnavailable

HEAD = "0001"
"""The tables' present version. Checked without Alembic, whose import alone costs half a second."""

WRITE = {"bedplate_write": True}


def connect(url: str) -> Engine:
    """Give an engine for the URL. SQLite runs in WAL mode and syncs at each commit: the journal must not be lost."""
    engine = create_engine(url, pool_size=8, max_overflow=24, pool_timeout=60)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver's own guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON", "cache_size=-4000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("bedplate_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextlib.contextmanager
def faults() -> Generator[None]:
    """Turn the database's faults into `StoreUnavailable` with a sentence on the cause."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise StoreUnavailable(explain(error)) from error


def explain(error: Exception) -> str:
    """Say what is wrong with the database and what would mend it."""
    cause = str(getattr(error, "orig", None) or error).splitlines()[0]
    low = cause.lower()
    if "full" in low:
        return "the store's disk is full: free some space, then Bedplate goes on by itself"
    if "readonly" in low or "read-only" in low:
        return "the store's file is read-only: make the data folder writable, then Bedplate goes on by itself"
    if "locked" in low:
        return "the store is locked by another process: end whatever holds the database open"
    if "unable to open" in low:
        return "the store's file can't be opened: check that the data folder is there and writable"
    if "malformed" in low or "not a database" in low:
        return "the store's file is damaged: restore a backup with `bedplate restore`"
    return f"the store does not answer: {cause}"


def migrate(engine: Engine) -> None:
    """Bring the tables to the present version.

    Raises:
        StoreError: the store was written by a later version of Bedplate.
        StoreUnavailable: it can't be read or written.
    """
    with faults():
        with engine.connect() as connection:
            version = _version(connection)
        if version == HEAD:
            return
        if version is not None and version > HEAD:
            raise StoreError(
                f"the store has version {version} of the tables, this Bedplate knows {HEAD}: use a later one"
            )
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with engine.connect().execution_options(**WRITE) as connection, connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    inspected = connection.dialect.has_table(connection, "alembic_version")
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if inspected else None
