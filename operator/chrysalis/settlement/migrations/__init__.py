"""Alembic's tree for the settler's ledger."""
