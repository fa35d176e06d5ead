"""What is read once for each state of the database."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chrysalis.broker.remembered import Remembered


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


def test_an_older_number_neither_serves_nor_replaces_what_is_newer() -> None:
    remembered: Remembered[str, str] = Remembered()
    assert remembered.find("k", 2, lambda: "new") == "new"
    assert remembered.find("k", 1, lambda: "read now") == "read now"
    assert remembered.find("k", 2, lambda: "never") == "new"


def test_only_so_many_are_held() -> None:
    remembered: Remembered[int, int] = Remembered(2)
    for key in range(3):
        remembered.find(key, 1, lambda key=key: key)
    assert remembered.find(2, 1, lambda: -1) == 2
    assert remembered.find(0, 1, lambda: -1) == -1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40))
def test_nobody_gets_what_is_older_than_the_number_that_he_read(steps: list[tuple[bool, int]]) -> None:
    remembered: Remembered[int, int] = Remembered(2)
    number = 0
    for changes, key in steps:
        number += changes
        assert remembered.find(key, number, lambda now=number: now) == number
