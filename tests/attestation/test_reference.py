"""Which withdrawals concern which evidence, and what reference values may not say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from chrysalis.api.reference import ReferenceValues
from chrysalis.attestation.reference import Measured, withdrawn

IMAGE, POLICY = "sha256:" + "2" * 64, "sha256:" + "3" * 64
MEASURED = Measured(IMAGE, 1, POLICY, {"mrtd": "aa" * 48, "rtmr1": "bb" * 48, "mrseam": "cc" * 48})
SINCE = "2026-01-01T00:00:00Z"


def values(*entries: dict[str, Any], **members: Any) -> ReferenceValues:
    gone = [{"why": "x", "since": SINCE} | entry for entry in entries]
    times = {"issued": SINCE, "expires": "2027-01-01T00:00:00Z"}
    return ReferenceValues.model_validate({"version": 1, "release": "1", "withdrawn": gone} | times | members)


def guest(name: str = "g", **registers: str) -> dict[str, Any]:
    return {"kind": "GuestImage", "value": name, "registers": {"name": name} | registers}


@pytest.mark.parametrize(
    ("entry", "concerned"),
    [
        ({"kind": "WorkerImage", "value": IMAGE}, True),
        ({"kind": "WorkerImage", "value": IMAGE.upper().replace("SHA256", "sha256")}, True),
        ({"kind": "WorkerImage", "value": POLICY}, False),
        ({"kind": "PolicyDigest", "value": POLICY}, True),
        ({"kind": "PolicyDigest", "value": IMAGE}, False),
        ({"kind": "TemplateVersion", "value": "1"}, True),
        ({"kind": "TemplateVersion", "value": "2"}, False),
        (guest(mrtd="AA" * 48), True),
        (guest(mrtd="aa" * 48, rtmr1="bb" * 48), True),
        (guest(mrtd="aa" * 48, rtmr1="ee" * 48), False),
        (guest(mrtd="aa" * 48, rtmr2="00" * 48), False),
        (guest(mrtd="ee" * 48), False),
    ],
)
def test_which_withdrawals_concern_evidence(entry: dict[str, Any], concerned: bool) -> None:
    assert bool(withdrawn([values(), values(entry)], MEASURED)) is concerned


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 0}, "version"),
        ({"release": ""}, "release"),
        ({"expires": SINCE}, "expires must be after issued"),
        ({"issued": "2026-01-01T00:00:00"}, "issued"),
        ({"workerImages": [{"digest": "latest"}]}, "workerImages"),
        ({"withdrawn": [{"kind": "WorkerImage", "value": IMAGE, "why": "", "since": SINCE}]}, "why"),
        ({"withdrawn": [{"kind": "Other", "value": IMAGE, "why": "x", "since": SINCE}]}, "kind"),
        ({"withdrawn": [{"kind": "WorkerImage", "value": IMAGE, "why": "x", "since": SINCE}] * 2}, "twice"),
        ({"withdrawn": [{"kind": "GuestImage", "value": "g", "why": "x", "since": SINCE}]}, "registers"),
        ({"withdrawn": [guest(mrtd="aa" * 48) | {"value": "h", "why": "x", "since": SINCE}]}, "name of the guest"),
        ({"withdrawn": [guest(mrtd="aa" * 48) | {"kind": "WorkerImage", "why": "x", "since": SINCE}]}, "registers"),
        (
            {"templateVersions": [1], "withdrawn": [{"kind": "TemplateVersion", "value": "1", "why": "x", "since": SINCE}]},
            "at once",
        ),
    ],
)
def test_what_a_document_may_not_say(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        values(**change)


@pytest.mark.parametrize(
    ("at", "current"),
    [
        (datetime(2025, 12, 31, tzinfo=UTC), False),
        (datetime(2026, 1, 1, tzinfo=UTC), True),
        (datetime(2026, 12, 31, tzinfo=UTC), True),
        (datetime(2027, 1, 1, tzinfo=UTC), False),
    ],
)
def test_values_are_current_between_their_dates(at: datetime, current: bool) -> None:
    assert values().current(at) is current
