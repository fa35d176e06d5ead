"""What mutants of the appraisal showed to be untested: which reasons are left out where little can be established."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.attestation import appraisal
from chrysalis.attestation.verdict import Verdict
from e2e.simtd import pki
from e2e.simtd.pki import SimulatedPlatform


def test_a_platform_that_cannot_be_read_is_not_called_a_wrong_one(
    judge: Callable[..., Verdict], platform: SimulatedPlatform, policy_document: dict[str, Any], reasons: Callable[[Verdict], list[str]]
) -> None:
    wrong = policy_document | {"tdx": policy_document["tdx"] | {"fmspcs": ["0" * 12]}}
    assert "FmspcNotAllowed" in reasons(judge(document=wrong))
    chain = pki.pem(platform.certificates["tcb"], platform.certificates["root"])  # a leaf without the extension that names the platform
    verdict = judge(document=wrong, quote=platform.quote(bytes(range(64)), chain=chain))
    assert not verdict.accepted
    assert verdict.fmspc is None
    assert "FmspcNotAllowed" not in reasons(verdict)


def test_attributes_that_break_two_rules_are_told_once(
    judge: Callable[..., Verdict], platform: SimulatedPlatform, reasons: Callable[[Verdict], list[str]]
) -> None:
    reserved = (int.from_bytes(pki.TD_ATTRIBUTES, "little") | 1 << 40).to_bytes(8, "little")
    told = reasons(judge(quote=platform.quote(bytes(range(64)), td_attributes=reserved)))
    assert told.count("TdAttributesNotAllowed") == 1


def test_the_platform_is_told_where_only_the_signature_is_wrong(
    judge: Callable[..., Verdict], platform: SimulatedPlatform, reasons: Callable[[Verdict], list[str]]
) -> None:
    quote = bytearray(platform.quote(bytes(range(64))))
    quote[200] ^= 1
    verdict = judge(quote=bytes(quote))
    assert "SignatureInvalid" in reasons(verdict)
    assert verdict.fmspc == pki.FMSPC.hex().upper()


def test_measurements_are_judged_beside_a_wrong_initdata(
    judge: Callable[..., Verdict], platform: SimulatedPlatform, reasons: Callable[[Verdict], list[str]]
) -> None:
    told = reasons(judge(quote=platform.quote(bytes(range(64)), mrtd=bytes(48))))
    assert "InitdataMismatch" in told
    assert any(reason.startswith("Measurement") for reason in told)


def test_trailing_bytes_are_shown_at_a_bounded_length(judge: Callable[..., Verdict], platform: SimulatedPlatform) -> None:
    junk = bytes(range(1, 41))
    verdict = judge(quote=platform.quote(bytes(range(64))) + junk)
    told = next(reason for reason in verdict.reasons if reason.reason == "QuoteTrailingData")
    assert told.message.startswith("40 bytes ")
    assert told.detail == junk[:32].hex()


END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before_the_end", "later", "left"),
    [(100, 10, 90), (10, 10, 0), (9, 10, 0), (0, 10, 0), (0, 0, 0)],
)
def test_a_result_lives_until_the_calendar_ends(before_the_end: int, later: int, left: int) -> None:
    assert appraisal._after(END - timedelta(seconds=before_the_end), later) == END - timedelta(seconds=left)
