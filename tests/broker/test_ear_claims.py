"""What a result claims: one row for each claim of AR4SI, and never more than was checked."""

from __future__ import annotations

from typing import Any

import pytest

from chrysalis.broker import ear_claims
from chrysalis.wire.ear import EarResult

GOOD: dict[str, Any] = {
    "evidence_class": "Hardware",
    "placement": "External",
    "isolation": "PodTD",
    "tcb_status": "UpToDate",
    "measurement": "m",
    "limited_by": "l",
    "policy_owner": "ab" * 32,
    "policy_name": "p",
    "policy_version": 3,
    "key_id": "k",
    "model_digest": "sha256:" + "1" * 64,
}
BEST = {
    "instance-identity": 2,
    "configuration": 2,
    "executables": 3,
    "file-system": 0,
    "hardware": 2,
    "runtime-opaque": 2,
    "storage-opaque": 0,
    "sourced-data": 0,
}


def result(**changes: Any) -> EarResult:
    return EarResult.model_validate(GOOD | changes)


def test_the_best_claims_nothing_that_was_not_checked() -> None:
    appraisal = ear_claims.appraisal(result())
    assert appraisal.vector == BEST
    assert appraisal.status == "affirming"
    assert appraisal.policy_ids == [f"policy:{'ab' * 32}/p/3"]


@pytest.mark.parametrize(
    ("changes", "differs", "status"),
    [
        ({"tcb_status": "SWHardeningNeeded"}, {"hardware": 32}, "warning"),
        ({"tcb_status": "ConfigurationNeeded"}, {"configuration": 32}, "warning"),
        ({"tcb_status": "ConfigurationAndSWHardeningNeeded"}, {"hardware": 32, "configuration": 32}, "warning"),
        ({"tcb_status": "OutOfDate"}, {"hardware": 32}, "warning"),
        ({"tcb_status": "OutOfDateConfigurationNeeded"}, {"hardware": 32, "configuration": 32}, "warning"),
        ({"tcb_status": "SomethingNew"}, {"hardware": 32}, "warning"),
        ({"isolation": "NodeTD"}, {"configuration": 32}, "warning"),
        (
            {"evidence_class": "Simulated"},
            {"hardware": 97, "instance-identity": 97, "runtime-opaque": 96},
            "contraindicated",
        ),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else value,
)
def test_each_weakness_shows_where_it_is(changes: dict[str, Any], differs: dict[str, int], status: str) -> None:
    appraisal = ear_claims.appraisal(result(**changes))
    assert appraisal.vector == BEST | differs
    assert appraisal.status == status


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (0, "none"),
        (1, "none"),
        (2, "affirming"),
        (31, "affirming"),
        (32, "warning"),
        (95, "warning"),
        (96, "contraindicated"),
        (-96, "contraindicated"),
        (127, "contraindicated"),
    ],
)
def test_tiers(value: int, tier: str) -> None:
    assert ear_claims.tier(value) == tier
