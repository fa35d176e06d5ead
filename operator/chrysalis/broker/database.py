"""The broker's database: SQLite (WAL) for one broker, PostgreSQL for several replicas over one.

Both keep the same promises: what a call wrote is durable before it returns; writing transactions take effect one after the
other, across all replicas; and one that was broken off leaves nothing behind.  On SQLite that is BEGIN IMMEDIATE, on
PostgreSQL an advisory lock that the transaction holds until it has committed (so whoever reads the newest number of the
change sequence has seen all lower ones).
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from chrysalis.broker.group_commit import GroupCommit
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.turns import Turns

SQLITE, POSTGRESQL = "sqlite", "postgresql"
DRIVERS = frozenset({SQLITE, "postgresql+psycopg"})
CONNECTIONS = 8
"""Kept open; as many again may be opened for a moment."""
BUSY_SECONDS = 10
LOCK_SECONDS = 15
"""PostgreSQL: for the writers' lock, or another one; then the transaction is tried again."""
STATEMENT_SECONDS = 120
IDLE_SECONDS = 20
"""PostgreSQL: a transaction whose broker says nothing for this long is rolled back: a replica that hangs, or was cut off from
the network, in the middle of one must not hold up all others."""
ATTEMPTS = 5
RETRIED_STATES = frozenset({"40001", "40P01", "55P03"})
"""SQLSTATE (PostgreSQL, appendix A): serialization_failure, deadlock_detected, lock_not_available."""
IDLE_CHECK_SECONDS = 0.5
_WRITE, _USED = "chrysalis_write", "chrysalis_used"
_LOCK_WRITE, _LOCK_MIGRATE = 0x6368_7279_0001, 0x6368_7279_0002
_CACHE_PAGES = -1024  # KiB for each SQLite connection: sixteen connections with the default would hold 32 MiB

T = TypeVar("T")


class Database:
    """An engine over one database whose tables are of this version.  Thread-safe."""

    def __init__(self, url: str | URL) -> None:
        """Open it, and make or migrate its tables; replicas that start at once wait for each other.

        Raises BrokerError (SettingsInvalid for a URL of another kind, DatabaseUnavailable when it does not answer).
        """
        self.engine = _engine(_parse(url))
        self._readers = _readers(self.engine)
        self._turns = _turns(self.engine.url)
        self._writer = GroupCommit(self.writing)
        try:
            self._migrate()
        except SQLAlchemyError as error:
            raise BrokerError(
                BrokerReason.DATABASE_UNAVAILABLE,
                "the database cannot be opened",
                "check database.url of the broker's settings, that the server answers and that the user may create tables",
                f"{type(error).__name__}: {error}"[:1024],
            ) from error

    @property
    def shared(self) -> bool:
        """Whether replicas can share it (PostgreSQL)."""
        return self.engine.dialect.name == POSTGRESQL

    def check(self) -> None:
        """That it answers, and takes writes: a broker over a standby would be ready and could do nothing.

        Raises BrokerError (DatabaseUnavailable), SQLAlchemyError.
        """
        with self.reading() as db:
            if self.shared and db.execute(text("SHOW transaction_read_only")).scalar_one() == "on":
                raise BrokerError(
                    BrokerReason.DATABASE_UNAVAILABLE,
                    "the broker's database only reads",
                    "let database.url name the primary server; where it names several, with target_session_attrs=read-write",
                )
            db.execute(text("SELECT count(*) FROM counters")).scalar_one()

    def close(self) -> None:
        """Finish what is being written and close all connections."""
        self._writer.close()
        self.engine.dispose()
        self._readers.dispose()

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run work in a writing transaction and commit; it is run again where the database says that this helps.

        Work of several threads may be committed together, each in a savepoint.  work must not call `transact` itself, and must
        not keep anything of a run that failed.  Raises what work raises, and SQLAlchemyError.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._writer.run(work)
            except DBAPIError as error:
                if attempt == ATTEMPTS or not _passes(error):
                    raise
                time.sleep((5 + secrets.randbelow(15)) / 1000 * attempt)  # spreads replicas that met
        raise AssertionError("the loop returns or raises")

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writing one overlaps; committed at the end, rolled back when the block raises."""
        turn = contextlib.nullcontext() if self._turns is None else self._turns.turn()
        with turn, self.engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """For statements that change nothing; each sees what was committed before it."""
        with self._readers.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that changes nothing and in which every statement sees the same state of the whole database."""
        options = {"isolation_level": "REPEATABLE READ"} if self.shared else {}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.writing() as connection:
            if self.shared:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_MIGRATE})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def unavailable(error: SQLAlchemyError) -> BrokerError | None:
    """What is said to whoever asked while the database does not do its part; None for an error that is the broker's own.

    Not reached, restarted, promoted or demoted (a server that only reads), out of space or of connections, locked for too long.
    Only the driver's own words stand in `detail`: a statement's parameters may be sealed keys or evidence.
    """
    if not isinstance(error, OperationalError | InterfaceError | InternalError | DisconnectionError | PoolTimeout):
        return None
    words = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
    return BrokerError(
        BrokerReason.DATABASE_UNAVAILABLE,
        "the broker's database does not take this now",
        "try again in a second; if it stays, let the broker's operator look whether the database runs, takes writes and has space",
        f"{type(error).__name__}: {words}"[:512],
    )


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _not_a_database("database.url is no URL") from error
    if parsed.drivername not in DRIVERS:
        raise _not_a_database(f"database.url is of the kind {parsed.drivername!r}")
    return parsed


def _not_a_database(message: str) -> BrokerError:
    return BrokerError(
        BrokerReason.SETTINGS_INVALID, message, "write postgresql+psycopg://USER@HOST/DATABASE, or leave it out for SQLite in stateDir"
    )


def _engine(url: URL) -> Engine:
    if url.drivername == SQLITE:
        engine = create_engine(
            url,
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = _postgresql(url)
        event.listen(engine, "begin", _begin_postgresql)
    return engine


def _postgresql(url: URL, **more: Any) -> Engine:
    engine = create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=CONNECTIONS,
        connect_args={"connect_timeout": BUSY_SECONDS, "application_name": "chrysalis-broker", **_deadlines(url)},
        **more,
    )
    _check_idle(engine)
    return engine


def _readers(engine: Engine) -> Engine:
    """Where readers take their connections from.

    On PostgreSQL these are of their own and without transactions: READ COMMITTED promises a reader no more than that each
    statement sees what was committed before it, and BEGIN and ROLLBACK would be two more exchanges with the server.
    """
    return engine if engine.dialect.name == SQLITE else _postgresql(engine.url, isolation_level="AUTOCOMMIT")


def _turns(url: URL) -> Turns | None:
    """The line of a SQLite file's writers; PostgreSQL has one of its own, and a database in memory has one writer."""
    if url.drivername != SQLITE or not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return None
    return Turns(Path(url.database), BUSY_SECONDS)


def _check_idle(engine: Engine) -> None:
    """A connection that the server closed meanwhile (it was restarted, or another one was promoted) is replaced, not used.

    One that was in use a moment ago is not asked: that would be an exchange with the server for each transaction.
    """

    def note(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_USED] = time.monotonic()

    def check(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(_USED, float("inf")) < IDLE_CHECK_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError("the server has closed this connection") from error

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", check)


def _deadlines(url: URL) -> dict[str, str | int]:
    """Time limits on every step of a session, for libpq; what the URL itself says counts."""
    limits = {"lock_timeout": LOCK_SECONDS, "statement_timeout": STATEMENT_SECONDS, "idle_in_transaction_session_timeout": IDLE_SECONDS}
    own = url.query.get("options", "")
    options = " ".join([*(f"-c {name}={seconds}s" for name, seconds in limits.items()), own if isinstance(own, str) else " ".join(own)])
    network = {"keepalives_idle": IDLE_SECONDS, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": IDLE_SECONDS * 1000}
    return {"options": options.strip()} | {name: value for name, value in network.items() if name not in url.query}


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin_sqlite` does
    cursor = connection.cursor()
    try:
        for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON", f"cache_size={_CACHE_PAGES}"):
            cursor.execute(f"PRAGMA {pragma}")
        for attempt in range(ATTEMPTS):
            try:
                # Two processes that turn the same new file to WAL: one gets "locked" at once, whatever the timeout.
                cursor.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.05)
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes the lock at once; one that upgrades later could fail instead of wait.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    # READ COMMITTED: each statement after the lock sees all that the writers before it committed.
    if connection.get_execution_options().get(_WRITE):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_WRITE})")


def _passes(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed when it is run again."""
    state = getattr(error.orig, "sqlstate", None)
    return state in RETRIED_STATES or error.connection_invalidated or "database is locked" in str(error.orig)
