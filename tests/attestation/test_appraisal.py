"""The appraisal as a whole: derived expiry, trust roots, sessions, scope, and the form of its result."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.genuineness import INTEL
from chrysalis.attestation.reasons import REMEDIES, AttestationReason
from chrysalis.attestation.verdict import Verdict
from e2e.simtd.pki import CollateralShape, SimulatedPlatform, Tampering

Appraise = Callable[..., Verdict]
Reasons = Callable[[Verdict], list[str]]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def test_every_reason_has_a_remedy() -> None:
    assert set(REMEDIES) == set(AttestationReason)
    assert all(text and text[0].islower() and not text.endswith(".") for text in REMEDIES.values())


def edit(name: str, at: datetime) -> CollateralShape:
    text = at.strftime("%Y-%m-%dT%H:%M:%SZ")

    def change(info: dict[str, Any], identity: dict[str, Any]) -> None:
        (info if name == "tcbInfo" else identity)["nextUpdate"] = text

    return CollateralShape(tampering=Tampering(edit=change))


SOON = AT + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("shape", "limited_by"),
    [
        (edit("tcbInfo", SOON), "tcbInfo.nextUpdate"),
        (edit("qeIdentity", SOON), "qeIdentity.nextUpdate"),
        (CollateralShape(crl_next=SOON), "pckCrl.nextUpdate"),
        (CollateralShape(root_crl_next=SOON), "rootCrl.nextUpdate"),
    ],
)
def test_the_first_part_to_expire_limits_the_result(
    judge: Appraise, platform: SimulatedPlatform, shape: CollateralShape, limited_by: str
) -> None:
    verdict = judge(collateral=Collateral.from_json(platform.collateral(AT, shape)))
    assert (verdict.expires_at, verdict.limited_by) == (SOON, limited_by)


def test_the_policys_maximum_age_limits_the_result(judge: Appraise, policy_document: dict[str, Any]) -> None:
    assert (judge().expires_at, judge().limited_by) == (AT + timedelta(hours=1), "freshness.maxResultAgeSeconds")
    document = copy.deepcopy(policy_document)
    document["tdx"]["measurements"][0]["expires"] = "2026-11-01T12:10:00Z"
    verdict = judge(document=document)
    assert (verdict.expires_at, verdict.limited_by) == (AT + timedelta(minutes=10), "measurement.expires")


def test_certificates_limit_the_result(platform: SimulatedPlatform) -> None:
    late = datetime(2049, 12, 20, tzinfo=UTC)
    bundle = Collateral.from_json(platform.collateral(late))
    verdict = appraise(quote=platform.quote(), collateral=bundle, policy=None, at=late, roots=[platform.root_der])
    assert verdict.expires_at == datetime(2049, 12, 31, tzinfo=UTC)
    assert verdict.limited_by in ("pckCertificate.notAfter", "tcbSigningCertificate.notAfter")


def test_fractions_of_a_second_are_cut_off(judge: Appraise) -> None:
    verdict = judge(at=AT + timedelta(microseconds=999_999))
    assert verdict.to_json_dict()["expiresAt"] == "2026-11-01T13:00:00Z"


def test_a_naive_time_is_a_mistake_of_the_caller(judge: Appraise) -> None:
    with pytest.raises(ValueError, match="aware"):
        judge(at=AT.replace(tzinfo=None))


def test_a_policy_for_intels_root_refuses_simulated_evidence(judge: Appraise, reasons: Reasons, policy_document: dict[str, Any]) -> None:
    document = policy_document | {"trustRoot": "Intel", "brokerPlacement": ["External"]}
    assert reasons(judge(document=document)) == ["TrustRootMismatch"]


def test_a_policys_root_counts_and_given_roots_must_contain_it(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any]
) -> None:
    other = SimulatedPlatform.create().root_der
    assert judge(roots=[other, platform.root_der]).accepted
    assert reasons(judge(roots=[other])) == ["TrustRootMismatch"]
    assert reasons(judge(roots=[INTEL])) == ["TrustRootMismatch"]
    wrong = policy_document | {"trustRoot": {"der": base64.b64encode(other).decode()}}
    assert reasons(judge(document=wrong)) == ["TrustRootMismatch"]
    for der in ("AAAA", "A"):
        assert not judge(document=policy_document | {"trustRoot": {"der": der}}).accepted


def test_development_is_never_for_intels_root(policy_document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Development"):
        AttestationPolicySpec.model_validate(policy_document | {"trustRoot": "Intel"})


@pytest.mark.parametrize(
    ("given", "accepted"),
    [(bytes(range(64)), True), (None, True), (bytes(64), False), (bytes(range(63)), False), (b"", False)],
)
def test_report_data(judge: Appraise, reasons: Reasons, given: bytes | None, accepted: bool) -> None:
    assert reasons(judge(report_data=given)) == ([] if accepted else ["ReportDataMismatch"])


def test_without_a_policy_genuineness_and_tcb_only_are_judged(judge: Appraise, reasons: Reasons, platform: SimulatedPlatform) -> None:
    verdict = judge(document=None, quote=platform.quote(mrtd=bytes(48)), initdata=None, event_log=None, report_data=None)
    assert verdict.accepted
    assert (verdict.scope, verdict.measurement_name) == ("GenuinenessAndTcb", None)
    assert verdict.expires_at == AT.replace(hour=0) + timedelta(days=30)
    assert reasons(judge(document=None, initdata=b"other")) == ["InitdataMismatch"]
    assert reasons(judge(document=None, event_log=b"junk", initdata=None)) == ["EventLogMalformed"]
    assert reasons(judge(document=None, report_data=bytes(64))) == ["ReportDataMismatch"]


def test_only_zero_padding_may_follow(judge: Appraise, reasons: Reasons, platform: SimulatedPlatform) -> None:
    quote = platform.quote()
    plain: dict[str, Any] = {"document": None, "initdata": None, "event_log": None, "report_data": None}
    assert judge(quote=quote + bytes(3000), **plain).accepted
    assert reasons(judge(quote=quote + b"\0\1", **plain)) == ["QuoteTrailingData"]
    debug = platform.quote(td_attributes=bytes.fromhex("0100001000000000"))
    assert reasons(judge(quote=debug + b"junk", **plain)) == ["TdDebugEnabled", "QuoteTrailingData"]


def test_the_json_of_a_result(judge: Appraise) -> None:
    document = json.loads(json.dumps(judge(event_log=None).to_json_full()))
    assert list(document)[:2] == ["verdict", "reasons"]
    for name in ("evidenceClass", "tcbStatus", "advisoryIDs", "fmspc", "expiresAt", "limitedBy", "measurements"):
        assert name in document
    assert document["verdict"] == "Refused"
    assert sorted(document["reasons"][0]) == ["detail", "message", "reason", "remedy"]
    assert Verdict.model_validate(document) == judge(event_log=None)


def test_a_refusal_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Verdict.refused()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.integers(0, 6000), value=st.integers(1, 255), end=st.integers(1, 9000))
def test_any_change_of_a_quote_is_refused(judge: Appraise, platform: SimulatedPlatform, position: int, value: int, end: int) -> None:
    data = bytearray(platform.quote(bytes(range(64))))
    data[position % len(data)] ^= value
    assert not judge(quote=bytes(data[:end]), document=None, initdata=None, event_log=None).accepted
