"""Where the database is, and what a broker says when it cannot be used."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from chrysalis.broker import database as database_module
from chrysalis.broker.database import Database
from chrysalis.broker.database_settings import DatabaseSettings, url_of
from chrysalis.broker.reasons import BrokerError, BrokerReason
from tests.stopwatch import Stopwatch

SERVER = "postgresql+psycopg://broker@db:5432/chrysalis?sslmode=verify-full"


def test_without_settings_it_is_a_file_in_the_state_folder(tmp_path: Path) -> None:
    url = url_of(None, tmp_path)
    assert url.drivername == "sqlite"
    assert url.database == str(tmp_path / "broker.db")


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    settings = DatabaseSettings.model_validate({"url": SERVER, "passwordFile": secret})
    url = url_of(settings, tmp_path)
    assert url.password == "s3cret"
    assert "s3cret" not in str(url)  # as it stands in messages
    assert url.query["sslmode"] == "verify-full"
    assert url_of(DatabaseSettings(url=SERVER), tmp_path).password is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://broker:secret@db/chrysalis",
        "postgresql+psycopg://broker@db/chrysalis?password=secret",
        "mysql://db/chrysalis",
        "postgresql://db/chrysalis",
        "nothing",
    ],
)
def test_urls_that_are_not_taken(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings(url=url)
    assert "secret" not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * 5000])
def test_a_password_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "password"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(BrokerError) as caught:
        DatabaseSettings(url=SERVER, password_file=secret).resolve()
    assert caught.value.reason == BrokerReason.SETTINGS_INVALID


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(BrokerError) as caught:
        Database(f"postgresql+psycopg://broker@/none?host={tmp_path}")
    assert caught.value.reason == BrokerReason.DATABASE_UNAVAILABLE
    assert caught.value.remedy


def test_what_helps_once_is_tried_again(database_url: str) -> None:
    database = Database(database_url)
    tries: list[int] = []

    def work(_: object) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("statement", {}, Exception("database is locked"))
        return "done"

    assert database.transact(work) == "done"
    assert len(tries) == 3

    def never(_: object) -> None:
        tries.append(1)
        raise OperationalError("statement", {}, Exception("no such table"))

    tries.clear()
    with pytest.raises(OperationalError):
        database.transact(never)
    assert len(tries) == 1
    database.close()


@pytest.mark.postgres
def test_a_replica_that_hangs_in_a_transaction_holds_up_nobody(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "IDLE_SECONDS", 1)
    hanging = Database(postgres_url)
    monkeypatch.undo()
    other = Database(postgres_url)
    held = hanging.writing()
    db = held.__enter__()
    with Stopwatch() as taken:
        assert other.transact(lambda _: "done") == "done"  # at the writers' lock until the server has ended the first
    assert taken.seconds < 10
    with pytest.raises(DBAPIError):
        db.execute(text("SELECT 1"))
    with contextlib.suppress(SQLAlchemyError):
        held.__exit__(None, None, None)
    assert hanging.transact(lambda _: "again") == "again"
    hanging.close()
    other.close()


@pytest.mark.postgres
def test_the_urls_own_options_count(postgres_url: str) -> None:
    database = Database(make_url(postgres_url).update_query_dict({"options": "-c lock_timeout=3s"}))
    with database.reading() as db:
        assert db.execute(text("SHOW lock_timeout")).scalar_one() == "3s"
        assert db.execute(text("SHOW statement_timeout")).scalar_one() == "2min"
    database.close()


def test_a_snapshot_sees_one_state_of_everything(database_url: str) -> None:
    """A backup reads table after table; what is committed meanwhile is in none of them."""
    database = Database(database_url)

    def change(db: Connection) -> None:
        for counter in ("changes", "inputs"):
            db.execute(text("UPDATE counters SET value = value + 1 WHERE name = :name"), {"name": counter})

    value = text("SELECT value FROM counters WHERE name = :name").execution_options(yield_per=1)
    with database.snapshot() as db:
        seen = [db.execute(value, {"name": "changes"}).scalar_one()]
        database.transact(change)
        seen.append(db.execute(value, {"name": "inputs"}).scalar_one())
    assert seen == [0, 0]
    with database.reading() as db:
        assert db.execute(text("SELECT value FROM counters WHERE name = 'inputs'")).scalar_one() == 1
    database.close()


def test_a_database_is_ready_that_answers(database_url: str) -> None:
    database = Database(database_url)
    database.check()
    database.transact(lambda db: db.execute(text("DROP TABLE counters")))
    with pytest.raises(SQLAlchemyError):
        database.check()
    database.close()


@pytest.mark.postgres
def test_a_server_that_only_reads_is_not_ready_and_refuses_for_now(postgres_url: str) -> None:
    """A standby, or a primary that was demoted: its sessions say so themselves."""
    database = Database(postgres_url)

    def turn(word: str) -> None:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(text("SET default_transaction_read_only = off"))
            db.execute(text(f'ALTER DATABASE "{database.engine.url.database}" SET default_transaction_read_only = {word}'))
        database.engine.dispose()
        database._readers.dispose()

    turn("on")
    with pytest.raises(BrokerError) as caught:
        database.check()
    assert caught.value.reason == BrokerReason.DATABASE_UNAVAILABLE
    with pytest.raises(SQLAlchemyError) as refused:
        database.transact(lambda db: db.execute(text("DELETE FROM spent_nonces")))
    told = database_module.unavailable(refused.value)
    assert told is not None
    assert (told.reason, told.status) == (BrokerReason.DATABASE_UNAVAILABLE, 503)
    turn("off")  # the twin
    database.check()
    database.transact(lambda db: db.execute(text("DELETE FROM spent_nonces")))
    database.close()
