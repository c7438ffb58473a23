"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables of version 1. Written out, so that later changes of `tables.py` don't change the past."""
    op.create_table("settings", sa.Column("name", sa.String(200), primary_key=True), sa.Column("value", sa.Text))
    op.create_table("counters", sa.Column("name", sa.String(40), primary_key=True), sa.Column("value", sa.BigInteger))
    op.create_table(
        "objects",
        sa.Column("kind", sa.String(63), primary_key=True),
        sa.Column("namespace", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("name", sa.String(253), nullable=False),
        sa.Column("new", sa.LargeBinary, nullable=False),
        sa.Column("old", sa.LargeBinary),
    )
    op.create_index("changes_by_time", "changes", ["time"])
    _controller_tables()


def _controller_tables() -> None:
    op.create_table(
        "blueprints",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("parent", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("key", sa.String(400), primary_key=True),
        sa.Column("since", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("until", sa.BigInteger),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("entries_by_until", "entries", ["until"])
    op.create_table(
        "operations",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("operations_by_finished", "operations", ["finished"])
    op.create_table(
        "attempts",
        sa.Column("target", sa.String(400), primary_key=True),
        sa.Column("step", sa.String(63), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(400), primary_key=True),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "leadership",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
    )
