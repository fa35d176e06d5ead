"""Statements on the driver's cursor: the same rows, the same classes of errors, nothing of the parameters in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from chrysalis.broker.database import Database
from chrysalis.broker.prepared import Prepared
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
