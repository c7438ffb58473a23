"""Alembic's migrations of the store's tables; run when a store of an older version is opened."""
