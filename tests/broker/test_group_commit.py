"""Work that is committed together: each keeps or loses its own changes, and nobody hears of it before the commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from chrysalis.broker.database import Database
from chrysalis.broker.group_commit import GroupCommit
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.rooms import Counter

WORKERS = 16


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


def put(name: str) -> object:
    return lambda db: db.execute(text("INSERT INTO counters (name, value) VALUES (:name, 0)"), {"name": name})


def names(database: Database) -> set[str]:
    with database.reading() as db:
        return {row.name for row in db.execute(text("SELECT name FROM counters"))} - {str(counter) for counter in Counter}


def test_what_fails_takes_back_only_its_own(database: Database) -> None:
    """All wait while the first holds the writer, so that they are committed together."""
    begun, go = threading.Event(), threading.Event()

    def first(_: Connection) -> None:
        begun.set()
        go.wait(60)

    failed: list[type[BaseException]] = []

    def work(number: int) -> None:
        def both(db: Connection) -> None:
            db.execute(text("INSERT INTO counters (name, value) VALUES (:name, 0)"), {"name": f"n{number}"})
            if number % 4 == 1:  # a row that is there: the statement fails
                db.execute(text("INSERT INTO counters (name, value) VALUES ('changes', 0)"))
            if number % 4 == 2:
                raise KeyError(number)

        try:
            database.transact(both)
        except (IntegrityError, KeyError) as error:
            failed.append(type(error))

    threads = [threading.Thread(target=database.transact, args=(first,))]
    threads[0].start()
    begun.wait(60)
    threads += [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads[1:]:
        thread.start()
    while len(database._writer._waiting) < WORKERS:
        threading.Event().wait(0.01)
    go.set()
    for thread in threads:
        thread.join(60)
    assert sorted(kind.__name__ for kind in failed) == ["IntegrityError"] * 4 + ["KeyError"] * 4
    assert names(database) == {f"n{number}" for number in range(WORKERS) if number % 4 not in (1, 2)}


def test_an_answer_means_that_it_is_committed(database: Database) -> None:
    seen: list[bool] = []

    def work(number: int) -> None:
        database.transact(put(f"n{number}"))  # type: ignore[arg-type]
        seen.append(f"n{number}" in names(database))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [True] * WORKERS


def test_a_commit_that_fails_is_heard_by_all(database: Database) -> None:
    class Fails:
        def __enter__(self) -> Connection:
            raise OSError("no disk")

        def __exit__(self, *_: object) -> None: ...

    writer = GroupCommit(Fails)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            writer.run(lambda _: None)
    writer.close()
    with pytest.raises(BrokerError, match="ending"):
        writer.run(lambda _: None)
