"""The cache: keys follow contents, entries are whole or absent."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from e2e import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.root() == tmp_path / "cache"
    monkeypatch.delenv("CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "chrysalis"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "chrysalis"


def test_a_key_follows_names_and_contents(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("a")
    assert cache.key("x", one) == cache.key("x", one)
    assert cache.key("x", [one, other]) == cache.key("x", [other, one])
    different = {cache.key("x", one), cache.key("y", one), cache.key("x", other), cache.key("xone"), cache.key("x", "one"), cache.key(b"x")}
    one.write_text("b")
    assert len(different | {cache.key("x", one)}) == 7


def test_an_entry_is_made_once(folder: Path) -> None:
    made: list[Path] = []

    def make(place: Path) -> None:
        made.append(place)
        (place / "it").write_text("whole")

    threads = [threading.Thread(target=cache.entry, args=("thing", "1", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (folder / "thing-1" / "it").read_text() == "whole"


def test_a_failed_entry_leaves_nothing_and_can_be_made_later(folder: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.entry("thing", "1", fail)
    assert [path.name for path in folder.iterdir()] == ["locks"]
    assert list(cache.entry("thing", "1", lambda place: None).iterdir()) == []


def test_an_entry_that_nobody_used_for_a_week_goes_when_a_new_one_comes(folder: Path) -> None:
    keys = [digit * cache.KEY_DIGITS for digit in "abc"]
    unused, used, other = (
        cache.entry("thing", keys[0], _empty),
        cache.entry("thing", keys[1], _empty),
        cache.entry("thingy", keys[0], _empty),
    )
    for place in (unused, used, other):
        os.utime(place, (1, 1))
    assert cache.entry("thing", keys[1], _empty) == used
    new = cache.entry("thing", keys[2], _empty)
    assert {path for path in folder.iterdir() if path.name != "locks"} == {used, other, new}


def _empty(place: Path) -> None:
    """Nothing belongs into these entries."""
