"""Independent verifiers judge the same material; the committed table says what each of them says, and why they differ.

A difference that is new or has vanished fails.  Look at it, then write the table anew and give each new difference its
cause: see the message.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from e2e.opinions import Case, cases, table
from e2e.opinions.table import Cause, Line

AS_COMMITTED = table.load()
LEAST_MUTATIONS = 40


def _compare(material: list[Case]) -> None:
    changes = table.changes(table.judge(material), AS_COMMITTED)
    assert not changes, (
        "\n".join(changes)
        + f"\n{len(changes)} rows are not as in {table.TABLE.name}. If each is understood and right, run `{table.REGENERATE}` "
        + "and give every new difference its cause there."
    )


@pytest.mark.opinions
@pytest.mark.parametrize("version", [4, 5])
def test_simulated_quotes_with_one_thing_bent(version: int) -> None:
    material = list(cases.simulated(version))
    assert len(material) > LEAST_MUTATIONS
    _compare(material)


@pytest.mark.opinions
@pytest.mark.vectors
def test_real_quotes(vectors: Path) -> None:
    _compare(list(cases.real(vectors)))


def test_every_difference_has_a_cause_of_the_closed_list_and_nothing_else_has() -> None:
    assert table.unexplained(AS_COMMITTED.values()) == []
    assert {line.cause for line in AS_COMMITTED.values()} - {""} == {cause.value for cause in Cause}, "a cause that explains nothing"


def test_everyone_accepts_the_good_ones() -> None:
    assert [AS_COMMITTED[vector, "none"].chrysalis for vector in ("simulated-v4", "simulated-v5")] == ["Accepted"] * 2
    assert not AS_COMMITTED["simulated-v4", "none"].differs
    assert not AS_COMMITTED["simulated-v5", "none"].differs


AGREED = Line("v", "m", "Refused", "TcbOutOfDate", "Refused", "Refused")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (AGREED, None),
        (replace(AGREED, tinfoil="Unsupported"), None),
        (replace(AGREED, gotdx="Accepted"), "the cause '' is not of the list"),
        (replace(AGREED, gotdx="Accepted", cause="Whatever"), "the cause 'Whatever' is not of the list"),
        (replace(AGREED, gotdx="Accepted", cause="StatusAllowList"), None),
        (replace(AGREED, cause="StatusAllowList"), "the verifiers agree"),
    ],
)
def test_what_an_explanation_is(line: Line, complaint: str | None) -> None:
    found = table.unexplained([line])
    assert (complaint is None) == (found == [])
    assert complaint is None or complaint in found[0]


def test_new_changed_and_vanished_rows_are_named() -> None:
    case = Case("v", "m", b"", "", cases.AT, b"")
    verdict = table.Opinion(False, "because")
    judged = [table.Judged(case, verdict, "TcbOutOfDate", verdict, verdict)]
    assert table.changes(judged, {AGREED.key: AGREED}) == []
    assert "not in the table" in table.changes(judged, {})[0]
    assert (
        "the table says chrysalis Refused SignatureInvalid"
        in table.changes(judged, {AGREED.key: replace(AGREED, reason="SignatureInvalid")})[0]
    )
    assert "not judged" in table.changes(judged, {AGREED.key: AGREED, ("v", "other"): replace(AGREED, mutation="other")})[0]
    assert table.changes(judged, {AGREED.key: AGREED, ("w", "m"): replace(AGREED, vector="w")}) == []


def test_a_cause_is_kept_for_the_same_verdicts_only() -> None:
    case = Case("v", "m", b"", "", cases.AT, b"")
    judged = [table.Judged(case, table.Opinion(False), "TcbOutOfDate", table.Opinion(True), table.Opinion(False))]
    before = replace(AGREED, tinfoil="Accepted", cause="StatusAllowList")
    assert table.with_causes(judged, {before.key: before})[0].cause == "StatusAllowList"
    assert table.with_causes(judged, {before.key: replace(before, gotdx="Accepted")})[0].cause == ""
    assert table.with_causes(judged, {})[0].cause == ""
