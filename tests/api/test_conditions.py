"""Conditions: what moves lastTransitionTime, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from chrysalis.api.conditions import MAX_MESSAGE, Condition, ConditionStatus, ConditionType, Finding, merge, status_of

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
LATER = AT + timedelta(minutes=5)
READY = Finding(status=ConditionStatus.TRUE, reason="Serving", message="2 of 2")


def test_a_new_condition_begins_now() -> None:
    (written,) = merge([], {ConditionType.READY: READY}, generation=3, at=AT)
    assert written == {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "message": "2 of 2",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-11-01T12:00:00Z",
    }
    assert Condition.model_validate(written).status == ConditionStatus.TRUE


def test_a_new_reason_does_not_move_the_time_but_a_flip_does() -> None:
    first = merge([], {ConditionType.READY: READY}, generation=1, at=AT)
    same = merge(first, {ConditionType.READY: READY.model_copy(update={"reason": "Other"})}, generation=2, at=LATER)
    assert same[0]["lastTransitionTime"] == "2026-11-01T12:00:00Z"
    assert same[0]["reason"] == "Other"
    flipped = merge(first, {ConditionType.READY: Finding(status=ConditionStatus.FALSE, reason="Gone")}, generation=2, at=LATER)
    assert flipped[0]["lastTransitionTime"] == "2026-11-01T12:05:00Z"


def test_messages_are_bounded() -> None:
    long = Finding(status=ConditionStatus.FALSE, reason="Long", message="x" * (MAX_MESSAGE + 1))
    assert len(merge([], {ConditionType.READY: long}, generation=1, at=AT)[0]["message"]) == MAX_MESSAGE


def test_an_absent_condition_is_unknown() -> None:
    assert status_of([], "Ready") == "Unknown"
    assert status_of([{"type": "Ready", "status": "False"}], "Ready") == "False"
