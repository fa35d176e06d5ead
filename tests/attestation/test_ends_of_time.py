"""Times at both ends of the calendar: a stranger may write them, and nothing may fail at them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import lint
from chrysalis.attestation.verdict import Verdict
from chrysalis.clock import parse_rfc3339, rfc3339

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
EAST, WEST = timezone(timedelta(hours=14)), timezone(-timedelta(hours=14))


@pytest.mark.parametrize("at", [FIRST, LAST, FIRST.replace(tzinfo=WEST), LAST.replace(tzinfo=EAST)])
def test_any_time_is_judged(judge: Callable[..., Verdict], at: datetime) -> None:
    assert judge().accepted
    assert not judge(at=at).accepted


@pytest.mark.parametrize("expires", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_policys_times_can_be_told_in_utc(policy_document: dict[str, Any], expires: str) -> None:
    for good in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        policy_document["tdx"]["measurements"][0]["expires"] = good
        lint.lint(AttestationPolicySpec.model_validate(policy_document), AT)
    policy_document["tdx"]["measurements"][0]["expires"] = expires
    with pytest.raises(ValidationError, match="year"):
        AttestationPolicySpec.model_validate(policy_document)


def test_a_given_time_can_be_told_in_utc() -> None:
    assert rfc3339(parse_rfc3339("0001-01-01T14:00:00+14:00")).endswith("01-01T00:00:00Z")
    with pytest.raises(ValueError, match="year"):
        parse_rfc3339("0001-01-01T00:00:00+14:00")
