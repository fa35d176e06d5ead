"""What `make bench` picks, prints, writes and ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import Row
from bench import __main__ as program

KEYS = {"id", "value", "unit", "reference", "ratio", "reach", "ok"}


def _row(name: str, *, ok: bool | None = None) -> Row:
    return Row(id=name, value=1.5, unit="s", reference="one: 1 s", ratio=1.5, reach=None if ok is None else "≤ 1.35 ×", ok=ok)


def _area(monkeypatch: pytest.MonkeyPatch, name: str, ids: tuple[str, ...], *, fails: bool = False) -> list[str]:
    """An area that notes that it was measured."""
    measured: list[str] = []

    def measure() -> list[Row]:
        measured.append(name)
        if fails:
            raise RuntimeError("no cluster")
        return [_row(each) for each in ids]

    module = ModuleType(f"bench.{name}")
    vars(module).update(IDS=ids, measure=measure)
    monkeypatch.setitem(sys.modules, f"bench.{name}", module)
    return measured


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONLY", raising=False)
    monkeypatch.setattr(program, "AREAS", ("one", "two"))


def _results() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(program.RESULTS.read_text())
    return rows


def test_everything_is_measured_and_written_with_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    _area(monkeypatch, "one", ("one.a", "one.b"))
    _area(monkeypatch, "two", ("two.a",))
    assert program.main() == 0
    assert [row["id"] for row in _results()] == ["one.a", "one.b", "two.a"]
    assert all(set(row) == KEYS for row in _results())


def test_a_prefix_measures_only_its_areas_and_keeps_only_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = _area(monkeypatch, "one", ("one.a", "one.b")), _area(monkeypatch, "two", ("two.a",))
    monkeypatch.setenv("ONLY", "one.b")
    assert program.main() == 0
    assert (one, two) == (["one"], [])
    assert [row["id"] for row in _results()] == ["one.b"]


def test_a_prefix_of_nothing_ends_with_two_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _area(monkeypatch, "one", ("one.a",))
    _area(monkeypatch, "two", ("two.a",))
    monkeypatch.setenv("ONLY", "three")
    assert program.main() == 2
    assert not program.RESULTS.exists()


def test_an_area_that_fails_is_named_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _area(monkeypatch, "one", ("one.a",), fails=True)
    _area(monkeypatch, "two", ("two.a",))
    assert program.main() == 1
    assert [row["id"] for row in _results()] == ["two.a"]
    assert "could not be measured: one" in capsys.readouterr().err


def test_the_table_marks_a_bound_that_was_missed_and_no_other() -> None:
    missed, met = program.table([_row("a", ok=False), _row("b", ok=True)]).splitlines()[1:]
    assert "MISSED" in missed
    assert "MISSED" not in met


def test_arguments_measure_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measured = _area(monkeypatch, "verify", ("verify.a",))
    monkeypatch.setattr(program, "AREAS", ("verify",))
    assert program.main(["--help"]) == 2
    assert (measured, "usage: make bench" in capsys.readouterr().err) == ([], True)
