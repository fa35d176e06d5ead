"""Alembic's entry: migrate on the connection that the store hands over."""

from __future__ import annotations

from alembic import context

from chrysalis.broker.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
