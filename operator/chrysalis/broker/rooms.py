"""What every room of the store stands on: the one database, its counters, and an insert that leaves alone what is there."""

from __future__ import annotations

import secrets
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, Connection, Table, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from chrysalis.broker.database import POSTGRESQL, Database
from chrysalis.broker.prepared import Prepared
from chrysalis.broker.tables import counters

MARK_STEP = 1 << 32
"""2³¹ such steps fit into the column; two states after one that was set back have the same number with probability 2⁻³²."""


class Counter(StrEnum):
    """The rows of `counters`.  The first four only grow."""

    CHANGES = "changes"  # of results
    INPUTS = "inputs"  # requests to judge stored evidence again
    SHARED = "shared"  # a mark of those requests that concern everybody's
    RECORDS = "records"  # a mark of the changes of key records and policies
    NONCES = "nonces"  # chosen anew at each restore and accepted rollback: challenges from before are no more this broker's
    ANCHORED = "anchored"  # 1 as long as an anchor follows this database


class Inputs(NamedTuple):
    """Marks of what judgements rest on, at one moment; what was read under the same number is what is there.

    shared: collateral and reference values.  records: key records and policies.
    """

    shared: int
    records: int


INPUTS = tuple(
    select(counters.c.value).where(counters.c.name == counter.value).scalar_subquery() for counter in (Counter.SHARED, Counter.RECORDS)
)
"""The two numbers of `Inputs`, for a statement that asks for other things as well."""


class Room:
    """A part of the store: some tables and the statements over them."""

    def __init__(self, database: Database) -> None:
        self.database = database


_GROW = Prepared(
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("by"))
    .returning(counters.c.value)
)
_COUNTED = Prepared(select(counters.c.value).where(counters.c.name == bindparam("counter")))


def count(db: Connection, counter: Counter, by: int = 1) -> int:
    """Let a counter grow and return its new value; the numbers up to it, `by` of them, are the caller's."""
    return _number(_GROW.row(db, {"counter": counter.value, "by": by}))


def mark(db: Connection, counter: Counter) -> int:
    """Give a state a number of its own, and return it.

    It grows by a random step: after a database was set back (a standby that lagged was promoted, an older copy put in place), a
    state that comes from there must not have the number of one that a running broker remembers from before.
    """
    return count(db, counter, 1 + secrets.randbelow(MARK_STEP))


def counted(db: Connection, counter: Counter) -> int:
    """A counter's value."""
    return _number(_COUNTED.row(db, {"counter": counter.value}))


def put_counter(db: Connection, counter: Counter, value: int) -> None:
    """Set a counter that does not only grow."""
    db.execute(update(counters).where(counters.c.name == counter.value).values(value=value))


def insert_new(db: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless one with its primary key is there; False when it is."""
    return _insert_new(table, tuple(values)).row(db, values) is not None


@lru_cache
def _insert_new(table: Table, columns: tuple[str, ...]) -> Prepared:
    def make(dialect: str) -> ClauseElement:
        insert = postgresql_insert if dialect == POSTGRESQL else sqlite_insert
        # What came back tells; the drivers do not agree on the row count of such an insert.
        return insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)

    return Prepared(make, columns)


def _number(row: tuple[Any, ...] | None) -> int:
    if row is None:
        raise RuntimeError("a counter is missing")
    return int(row[0])
