"""What every room of the store stands on: the one database, its counters, and an insert that leaves alone what is there."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Executable, Table, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from chrysalis.broker.database import POSTGRESQL, Database
from chrysalis.broker.tables import counters


class Counter(StrEnum):
    """The rows of `counters`; each only grows."""

    CHANGES = "changes"  # of results
    INPUTS = "inputs"  # requests to judge stored evidence again
    SHARED = "shared"  # those requests that concern everybody's


class Room:
    """A part of the store: some tables and the statements over them."""

    def __init__(self, database: Database) -> None:
        self.database = database


# Statements that every attestation runs are built once: building them costs more than running them.
_GROW = (
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("by"))
    .returning(counters.c.value)
)
_COUNTED = select(counters.c.value).where(counters.c.name == bindparam("counter"))


def count(db: Connection, counter: Counter, by: int = 1) -> int:
    """Let a counter grow and return its new value; the numbers up to it, `by` of them, are the caller's."""
    return int(db.execute(_GROW, {"counter": counter.value, "by": by}).scalar_one())


def counted(db: Connection, counter: Counter) -> int:
    """A counter's value."""
    return int(db.execute(_COUNTED, {"counter": counter.value}).scalar_one())


def insert_new(db: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless one with its primary key is there; False when it is."""
    return db.execute(_insert_new(db.dialect.name, table), values).one_or_none() is not None


@lru_cache
def _insert_new(dialect: str, table: Table) -> Executable:
    make = postgresql_insert if dialect == POSTGRESQL else sqlite_insert
    # What came back tells; the drivers do not agree on the row count of such an insert.
    return make(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
