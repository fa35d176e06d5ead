"""What an owner signs is read in one way only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy

SPEC: dict[str, Any] = {
    "version": 7,
    "trustRoot": "Intel",
    "tdx": {
        "tcb": {"allowedStatuses": ["UpToDate"]},
        "measurements": [],
        "tdAttributes": {"value": "0000001000000000", "mask": "ff" * 8},
        "xfam": {"value": "e702060000000000", "mask": "ff" * 8},
    },
}
GOOD = json.dumps({"schemaVersion": "chrysalis/v1", "name": "p", "spec": SPEC})


def test_signed_bytes_are_read_as_they_stand() -> None:
    found = SignedPolicy.of_payload(GOOD.encode())
    assert found == SignedPolicy(name="p", spec=AttestationPolicySpec.model_validate(SPEC)) == SignedPolicy.model_validate_json(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"name": "p"', '"name": "q", "name": "p"', "'name' stands twice"),
        ('"version": 7', '"version": 7, "version": 7', "'version' stands twice"),
        (
            '"allowedStatuses": ["UpToDate"]',
            '"allowedStatuses": ["UpToDate"], "allowedStatuses": ["OutOfDate"]',
            "'allowedStatuses' stands twice",
        ),
        (
            '"allowedStatuses": ["UpToDate"]',
            '"allowedStatuses": ["UpToDate"], "allowed_statuses": ["OutOfDate"]',
            "Extra inputs are not permitted",
        ),
        ('"version": 7', '"version": 7, "more": 1', "Extra inputs are not permitted"),
        ('"version": 7', '"version": NaN', "spec.version"),
        ('"version": 7', '"version": 7' + ', "x": ' + "[" * 100_000, "too deeply"),
        ("}", "", "delimiter"),
    ],
)
def test_what_could_be_read_in_two_ways_or_in_none(old: str, new: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SignedPolicy.of_payload(GOOD.replace(old, new, 1).encode())


def test_a_name_is_told_at_a_bounded_length() -> None:
    long = "n" * 65
    with pytest.raises(ValueError, match=f"^the member '{'n' * 64}' stands twice"):
        SignedPolicy.of_payload(f'{{"{long}": 1, "{long}": 2}}'.encode())
