"""The tables, for SQLite and PostgreSQL alike. A change here needs a migration beside it (`migrations/versions`)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

settings = Table("settings", metadata, Column("name", String(200), primary_key=True), Column("value", Text))

counters = Table("counters", metadata, Column("name", String(40), primary_key=True), Column("value", BigInteger))
"""`revision`: the last write. `compacted`: changes up to it are gone. `epoch`: the highest leadership ever given."""

objects = Table(
    "objects",
    metadata,
    Column("kind", String(63), primary_key=True),
    Column("namespace", String(63), primary_key=True),
    Column("name", String(253), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("type", String(8), nullable=False),
    Column("kind", String(63), nullable=False),
    Column("namespace", String(63), nullable=False),
    Column("name", String(253), nullable=False),
    Column("new", LargeBinary, nullable=False),
    Column("old", LargeBinary),
    Index("changes_by_time", "time"),
)
"""`new` of a DELETED row is the last state under the revision of its deletion."""

blueprints = Table(
    "blueprints",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("parent", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("time", Float, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    Column("key", String(400), primary_key=True),
    Column("since", BigInteger, primary_key=True, autoincrement=False),
    Column("until", BigInteger),
    Column("data", LargeBinary, nullable=False),
    Index("entries_by_until", "until"),
)
"""A blueprint entry from blueprint `since` up to, not including, `until`; NULL: still so."""

operations = Table(
    "operations",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("started", Float, nullable=False),
    Column("finished", Float),
    Column("data", LargeBinary, nullable=False),
    Index("operations_by_finished", "finished"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("target", String(400), primary_key=True),
    Column("step", String(63), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(400), primary_key=True),
    Column("nonce", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(200), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", Float, nullable=False),
    Column("held", Boolean, nullable=False),
)
