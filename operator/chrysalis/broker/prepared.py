"""Statements that every attestation runs: compiled once for each kind of database, and run on the driver's own cursor.

For a statement of one row, what SQLAlchemy does around the driver (events, result metadata, the look-up of the compiled form)
takes several times as long as the database.  Here the text comes from the same expressions; only that part is left out.
Errors come as SQLAlchemy's classes, so that whoever retries need not know the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ClauseElement, Connection, Delete, Insert, Update, func, literal_column, select
from sqlalchemy.exc import DBAPIError

POSTGRESQL = "postgresql"

Values = Mapping[str, Any]


class Prepared:
    """One statement; its parameters are named by `bindparam`, or are the columns of an INSERT.  Thread-safe.

    Values go to the driver as they are: texts, whole numbers, bytes and None, which are all that the broker's tables hold.
    """

    def __init__(self, make: ClauseElement | Callable[[str], ClauseElement], columns: Sequence[str] | None = None) -> None:
        """make: the expression, or what gives it for a dialect's name.  columns: those that an INSERT sets."""
        self._make = make
        self._columns = None if columns is None else list(columns)
        self._texts: dict[str, tuple[str, tuple[str, ...] | None, dict[str, Any]]] = {}

    def rows(self, db: Connection, values: Values) -> list[tuple[Any, ...]]:
        """All rows that it returns."""
        text, arguments = self._bound(db, values)
        with _cursor(db, text) as cursor:
            cursor.execute(text, arguments)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def row(self, db: Connection, values: Values) -> tuple[Any, ...] | None:
        """Its one row, or None."""
        found = self.rows(db, values)
        return found[0] if found else None

    def run(self, db: Connection, values: Values) -> int:
        """Run it for what it changes; how many rows that were."""
        text, arguments = self._bound(db, values)
        with _cursor(db, text) as cursor:
            cursor.execute(text, arguments)
            return int(cursor.rowcount)

    def each(self, db: Connection, values: Sequence[Values]) -> int:
        """Run it for each of these; how many rows they changed together."""
        if len(values) < 2:
            return self.run(db, values[0]) if values else 0
        bound = [self._bound(db, one) for one in values]
        with _cursor(db, bound[0][0]) as cursor:
            cursor.executemany(bound[0][0], [arguments for _, arguments in bound])
            return int(cursor.rowcount)

    def _bound(self, db: Connection, values: Values) -> tuple[str, Any]:
        known = self._texts.get(db.dialect.name)
        if known is None:
            expression = self._make(db.dialect.name) if callable(self._make) else self._make
            compiled: Any = expression.compile(dialect=db.dialect, column_keys=self._columns)
            order = None if compiled.positiontup is None else tuple(compiled.positiontup)
            fixed = {name: value for name, value in compiled.params.items() if isinstance(value, int | str)}
            known = self._texts[db.dialect.name] = (str(compiled), order, fixed)
        text, order, fixed = known
        if order is None:
            return text, {**fixed, **values}
        return text, [values[name] if name in values else fixed[name] for name in order]


class Together:
    """Changes that belong together: one exchange with PostgreSQL, as parts of one statement; one after the other on SQLite.

    Each part names its parameters by `bindparam`; parameters of one name have one value.  No part may depend on what another
    one changes: on PostgreSQL all of them see the tables as they were before (its manual, "Data-Modifying Statements in WITH"),
    foreign keys apart, which are checked when all is done.  Thread-safe.
    """

    def __init__(self, *parts: Insert | Update | Delete) -> None:
        """parts: in the order in which SQLite runs them; of the last one the changed rows are counted."""
        *others, last = parts
        told = last.returning(literal_column("1")).cte("last_part")
        others_first = [part.cte(f"part_{number}") for number, part in enumerate(others)]
        self._one = Prepared(select(func.count()).select_from(told).add_cte(*others_first))
        self._each = [Prepared(part) for part in parts]

    def run(self, db: Connection, values: Values) -> int:
        """Make all of the changes; how many rows the last part changed."""
        if db.dialect.name == POSTGRESQL:
            row = self._one.row(db, values)
            return 0 if row is None else int(row[0])
        return [part.run(db, values) for part in self._each][-1]


@contextmanager
def _cursor(db: Connection, text: str) -> Iterator[Any]:
    base = db.dialect.loaded_dbapi.Error
    cursor = db.connection.cursor()
    try:
        yield cursor
    except base as error:
        lost = db.dialect.is_disconnect(error, db.connection, None)
        if lost:
            db.invalidate(error)
        # Without the parameters: they are evidence, or the audit log's.
        raise DBAPIError.instance(text, None, error, base, hide_parameters=True, connection_invalidated=lost, dialect=db.dialect) from error
    finally:
        cursor.close()
