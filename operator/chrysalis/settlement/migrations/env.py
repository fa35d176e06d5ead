"""Runs migrations on the connection that chrysalis.settlement.store hands over; never opens one of its own."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None, transactional_ddl=True)
context.run_migrations()
