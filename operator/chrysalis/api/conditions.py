"""Conditions of custom resources: their types, their form, and how they change.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.clock import rfc3339

MAX_MESSAGE = 4096


class ConditionType(StrEnum):
    """What a condition speaks about.  Reconciling and Stalled are kstatus' words; the others are true when all is well."""

    READY = "Ready"
    ATTESTED = "Attested"
    COLLATERAL_FRESH = "CollateralFresh"
    KEY_RELEASED = "KeyReleased"
    SERVING = "Serving"
    SETTLING = "Settling"
    VALID = "Valid"
    USABLE = "Usable"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionStatus(StrEnum):
    """Kubernetes' three values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One condition, in the form of metav1.Condition."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z]+$", max_length=64)]
    status: ConditionStatus
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]+$", max_length=64)]
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] = ""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    last_transition_time: datetime


class Finding(Model):
    """What a reconciliation found about one condition; it becomes a Condition when it is written."""

    status: ConditionStatus
    reason: str
    message: str = ""


def merge(
    held: Iterable[Mapping[str, Any]], found: Mapping[ConditionType, Finding], *, generation: int, at: datetime
) -> list[dict[str, Any]]:
    """The list to write: each finding as a condition; lastTransitionTime moves only where the status flips.

    Conditions of types that are not in `found` are dropped: whoever calls owns the whole list.
    """
    before = {str(condition.get("type")): condition for condition in held}
    merged = []
    for kind, finding in found.items():
        old = before.get(kind)
        flipped = old is None or old.get("status") != finding.status or not old.get("lastTransitionTime")
        merged.append(
            {
                "type": str(kind),
                "status": str(finding.status),
                "reason": finding.reason,
                "message": finding.message[:MAX_MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": rfc3339(at) if flipped or old is None else old["lastTransitionTime"],
            }
        )
    return merged


def status_of(conditions: Iterable[Mapping[str, Any]], kind: str) -> str:
    """The status of one condition, "Unknown" where it is not there."""
    return next((str(c.get("status")) for c in conditions if c.get("type") == kind), ConditionStatus.UNKNOWN)
