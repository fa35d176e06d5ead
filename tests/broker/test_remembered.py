"""What is read once for each state of the database."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from chrysalis.broker.remembered import Remembered
from chrysalis.broker.rooms import Counter, mark
from chrysalis.broker.store import Store, StoredPolicy


class Shelf:
    """Values that can change, each change with a new number; counts how often it is read."""

    def __init__(self) -> None:
        self.number, self.value, self.reads = 0, "", 0

    def read(self) -> str | None:
        self.reads += 1
        return self.value or None


def test_it_is_read_again_when_the_number_has_changed_or_there_is_none() -> None:
    remembered: Remembered[str, str] = Remembered()
    shelf = Shelf()
    shelf.value = "a"
    assert [remembered.find("k", 1, shelf.read) for _ in range(3)] == ["a"] * 3
    assert shelf.reads == 1
    shelf.value = "b"
    assert remembered.find("k", 2, shelf.read) == "b"
    assert remembered.find("k", None, shelf.read) == "b"
    assert shelf.reads == 3


def test_what_is_not_there_is_looked_for_each_time() -> None:
    remembered: Remembered[str, str] = Remembered()
    shelf = Shelf()
    assert remembered.find("k", 1, shelf.read) is None
    shelf.value = "a"
    assert remembered.find("k", 1, shelf.read) == "a"


def test_another_number_serves_nothing_be_it_lower() -> None:
    remembered: Remembered[str, str] = Remembered()
    assert remembered.find("k", 2, lambda: "new") == "new"
    assert remembered.find("k", 1, lambda: "read now") == "read now"
    assert remembered.find("k", 2, lambda: "again") == "again"


def test_only_so_many_are_held() -> None:
    remembered: Remembered[int, int] = Remembered(2)
    for key in range(3):
        remembered.find(key, 1, lambda key=key: key)
    assert remembered.find(2, 1, lambda: -1) == 2
    assert remembered.find(0, 1, lambda: -1) == -1


def test_a_database_that_was_set_back_is_read_even_where_it_has_had_as_many_changes(database_url: str) -> None:
    store = Store(database_url)

    def put(version: int, payload: str) -> None:
        assert store.put_policy(StoredPolicy("owner", "workers", version, payload, "envelope"), 1)

    def seen() -> str:
        found = store.policy("owner", "workers", store.inputs().records)
        return "" if found is None else found.payload

    put(1, "first")
    with store.database.reading() as db:
        before = db.execute(text("SELECT value FROM counters WHERE name = 'records'")).scalar_one()
    put(2, "lost with the old primary")
    assert seen() == "lost with the old primary"
    with store.database.writing() as db:  # what an older copy of the database does under a running broker
        db.execute(text("DELETE FROM policies WHERE version = 2"))
        db.execute(text("UPDATE counters SET value = :value WHERE name = 'records'"), {"value": before})
    put(2, "what the owner put to the new one")
    assert seen() == "what the owner put to the new one"
    store.close()


def test_marks_only_grow_and_do_not_meet_again(database_url: str) -> None:
    store = Store(database_url)
    marks = [store.database.transact(lambda db: mark(db, Counter.SHARED)) for _ in range(3)]
    assert marks == sorted(set(marks))
    assert len({after - before for before, after in pairwise(marks)}) == 2
    store.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40))
def test_nobody_gets_what_is_older_than_the_number_that_he_read(steps: list[tuple[bool, int]]) -> None:
    remembered: Remembered[int, int] = Remembered(2)
    number = 0
    for changes, key in steps:
        number += changes
        assert remembered.find(key, number, lambda now=number: now) == number
