"""What every room of the store stands on: the one database, its counters, and an insert that leaves alone what is there."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Table, select, update
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


def count(db: Connection, counter: Counter, by: int = 1) -> int:
    """Let a counter grow and return its new value; the numbers up to it, `by` of them, are the caller's."""
    c = counters.c
    grown = update(counters).where(c.name == counter.value).values(value=c.value + by).returning(c.value)
    return int(db.execute(grown).scalar_one())


def counted(db: Connection, counter: Counter) -> int:
    """A counter's value."""
    return int(db.execute(select(counters.c.value).where(counters.c.name == counter.value)).scalar_one())


def insert_new(db: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless one with its primary key is there; False when it is."""
    make = postgresql_insert if db.dialect.name == POSTGRESQL else sqlite_insert
    # What came back tells; the drivers do not agree on the row count of such an insert.
    inserted = make(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return db.execute(inserted).one_or_none() is not None
