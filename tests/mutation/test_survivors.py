"""The list of mutants that survive, and the ids that it uses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench import mutation


def test_every_listed_mutant_exists_and_has_a_cause() -> None:
    known = mutation.listed()
    everything = [mutant.id for module in mutation.MODULES for mutant in mutation.mutants(module)]
    assert [name for name, count in Counter(everything).items() if count > 1] == []
    assert sorted(known.keys() - set(everything)) == [], "the code has changed: run `make bench ONLY=mutation`"
    assert list(known) == sorted(known)


def test_every_test_file_that_a_module_names_exists() -> None:
    folder = Path(__file__).resolve().parent.parent
    assert [name for names in mutation.MODULES.values() for name in names if not (folder / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("line", ["a.b:AddNot:1", "a.b:AddNot:1 Laziness", "a.b:AddNot:1 Wording\na.b:AddNot:1 Wording"])
def test_a_list_without_causes_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "survivors.txt"
    path.write_text("# a comment\n\na.c:AddNot:1 Wording why\n")
    assert mutation.listed(path) == {"a.c:AddNot:1": "Wording"}
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match="has no cause"):
        mutation.listed(path)


SOURCE = """
LIMIT = 3


def outer(value: int | None, /) -> bool:
    def inner() -> bool:
        return value == 1 and value < LIMIT
    return inner()


class Thing:
    def method(self) -> int:
        return 1 << 2
"""


def test_ids_name_the_function_and_annotations_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text(SOURCE)
    monkeypatch.setattr(mutation, "PACKAGE", tmp_path)
    found = {mutant.id: mutant for mutant in mutation.mutants("room")}
    assert "room.outer.inner:ReplaceAndWithOr:1" in found
    assert found["room.outer.inner:ReplaceAndWithOr:1"].function == "outer"
    assert "value == 1 or value < LIMIT" in mutation.mutated(found["room.outer.inner:ReplaceAndWithOr:1"])
    assert found["room.Thing.method:ReplaceBinaryOperator_LShift_RShift:1"].function == "Thing.method"
    assert found["room:NumberReplacer:1"].function == ""
    assert not [name for name in found if "BitOr" in name]
    assert not [name for name in found if name.endswith("Eq_Is:1")]
