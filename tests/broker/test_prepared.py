"""Statements on the driver's cursor: the same rows, the same classes of errors, nothing of the parameters in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from chrysalis.broker.database import Database
from chrysalis.broker.prepared import Prepared, Together
from chrysalis.broker.tables import counters, spent_nonces

ADD = Prepared(insert(spent_nonces).inline(), ("nonce", "expires_at"))
FIND = Prepared(select(spent_nonces.c.nonce, spent_nonces.c.expires_at).where(spent_nonces.c.expires_at > bindparam("least")))
FIXED = Prepared(select(counters.c.name).where(counters.c.name == "changes"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


def test_rows(database: Database) -> None:
    rows = [{"nonce": f"n{number}", "expires_at": number} for number in range(3)]
    with database.writing() as db:
        assert ADD.run(db, rows[0]) == 1
        assert ADD.each(db, rows[1:]) == 2
        assert ADD.each(db, []) == 0
    with database.reading() as db:
        assert sorted(FIND.rows(db, {"least": 0})) == [("n1", 1), ("n2", 2)]
        assert FIND.row(db, {"least": 2}) is None
        assert FIXED.row(db, {}) == ("changes",)


def test_a_transaction_that_is_rolled_back_leaves_nothing(database: Database) -> None:
    def work(db: Connection) -> None:
        ADD.run(db, {"nonce": "a", "expires_at": 1})
        raise KeyError

    with pytest.raises(KeyError):
        database.transact(work)
    with database.reading() as db:
        assert FIND.rows(db, {"least": 0}) == []


def test_an_error_is_of_sqlalchemys_class_and_names_no_value(database: Database) -> None:
    row = {"nonce": "secret-value", "expires_at": 7_654_321}
    with database.writing() as db:
        ADD.run(db, row)
    with pytest.raises(IntegrityError) as caught, database.writing() as db:
        ADD.run(db, row)
    assert "7654321" not in str(caught.value)
    assert not caught.value.connection_invalidated
    with database.reading() as db:  # the connection goes on
        assert FIND.rows(db, {"least": 0}) == [("secret-value", 7_654_321)]


BOTH = Together(
    update(counters).where(counters.c.name == "changes").values(value=bindparam("value")),
    insert(spent_nonces).inline().values(nonce=bindparam("nonce"), expires_at=bindparam("value")),
    update(spent_nonces).where(spent_nonces.c.expires_at < bindparam("before")).values(expires_at=bindparam("value")),
)
COUNTER = Prepared(select(counters.c.value).where(counters.c.name == "changes"))


def test_changes_together(database: Database) -> None:
    with database.writing() as db:
        ADD.each(db, [{"nonce": f"n{number}", "expires_at": number} for number in range(3)])
    with database.writing() as db:
        assert BOTH.run(db, {"value": 7, "nonce": "new", "before": 2}) == 2, "as many rows as the last part changed"
    with database.reading() as db:
        assert sorted(FIND.rows(db, {"least": -1})) == [("n0", 7), ("n1", 7), ("n2", 2), ("new", 7)]
        assert COUNTER.row(db, {}) == (7,)


def test_of_changes_together_all_are_made_or_none(database: Database) -> None:
    with database.writing() as db:
        ADD.run(db, {"nonce": "there", "expires_at": 1})
    with pytest.raises(IntegrityError), database.writing() as db:
        BOTH.run(db, {"value": 9, "nonce": "there", "before": 5})
    with database.reading() as db:
        assert FIND.rows(db, {"least": 0}) == [("there", 1)]
        assert COUNTER.row(db, {}) == (0,)
