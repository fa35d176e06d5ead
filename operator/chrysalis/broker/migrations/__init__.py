"""The database's versions (Alembic)."""
