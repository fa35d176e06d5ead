"""Trust domains and modules that are refused, each by its own reason beside its twin; and all reasons told at once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.api.initdata import mrconfigid
from chrysalis.api.policy import Tcb, TcbStatus
from chrysalis.attestation import genuineness, rules
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.quote import parse
from chrysalis.attestation.verdict import Verdict
from e2e.simtd.pki import CollateralShape, SimulatedPlatform, Tampering

Appraise = Callable[..., Verdict]
Reasons = Callable[[Verdict], list[str]]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SIGNER = b"\x5e" * 48


def judged(platform: SimulatedPlatform, quote: bytes, shape: CollateralShape | None = None) -> Verdict:
    collateral = Collateral.from_json(platform.collateral(AT, shape or CollateralShape()))
    return appraise(quote=quote, collateral=collateral, policy=None, at=AT, roots=[platform.root_der])


DOMAINS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("debug", {"td_attributes": "0100001000000000"}, {"td_attributes": "0000001000000000"}, ["TdDebugEnabled"]),
    ("no SEPT_VE_DISABLE", {"td_attributes": "0000000000000000"}, {"td_attributes": "0000001000000000"}, ["SeptVeDisableOff"]),
    ("migratable", {"td_attributes": "0000003000000000"}, {"td_attributes": "0000001000000000"}, ["TdMigratable"]),
    ("a reserved bit", {"td_attributes": "0800001000000000"}, {"td_attributes": "0000001000000000"}, ["TdAttributesNotAllowed"]),
    ("MRSIGNERSEAM", {"mrsignerseam": "01" + "00" * 47}, {"mrsignerseam": "00" * 48}, ["TdxModuleMismatch"]),
    ("SEAM attributes", {"seam_attributes": "0100000000000000"}, {"seam_attributes": "00" * 8}, ["TdxModuleMismatch"]),
    ("an unlisted module", {"tee_tcb_svn": "060203" + "00" * 13}, {"tee_tcb_svn": "060103" + "00" * 13}, ["TdxModuleMismatch"]),
    ("an old module", {"tee_tcb_svn": "030103" + "00" * 13}, {"tee_tcb_svn": "050103" + "00" * 13}, ["TcbLevelNotFound"]),
    ("another enclave's signer", {"qe_signer": "11" * 32}, {}, ["QeIdentityMismatch"]),
]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(("bent", "twin", "expected"), [row[1:] for row in DOMAINS], ids=[row[0] for row in DOMAINS])
def test_one_flaw_alone(
    platform: SimulatedPlatform, reasons: Reasons, version: int, bent: dict[str, str], twin: dict[str, str], expected: list[str]
) -> None:
    fields = {name: bytes.fromhex(value) for name, value in bent.items()}
    assert reasons(judged(platform, platform.quote(version=version, **fields))) == expected
    good = {name: bytes.fromhex(value) for name, value in twin.items()}
    assert judged(platform, platform.quote(version=version, **good)).accepted


def test_a_service_domain(platform: SimulatedPlatform, reasons: Reasons) -> None:
    assert reasons(judged(platform, platform.quote(version=5, mr_servicetd=b"\1" + bytes(47)))) == ["ServiceTdPresent"]
    assert judged(platform, platform.quote(version=5, mr_servicetd=bytes(48))).accepted


def identities(**changes: Any) -> CollateralShape:
    """Collateral that lists TDX module 1 with these differences, and another module 2."""

    def edit(info: dict[str, Any], identity: dict[str, Any]) -> None:
        first = info["tdxModuleIdentities"][0]
        info["tdxModuleIdentities"] = [{**first, **changes}, {**first, "id": "TDX_02", "mrsigner": SIGNER.hex().upper()}]

    return CollateralShape(tampering=Tampering(edit=edit))


def module(major: int, svn: int = 6) -> bytes:
    return bytes([svn, major, 3]) + bytes(13)


@pytest.mark.parametrize(
    ("major", "signer", "attributes", "shape", "accepted"),
    [
        (1, bytes(48), bytes(8), identities(), True),
        (2, SIGNER, bytes(8), identities(), True),
        (2, bytes(48), bytes(8), identities(), False),  # module 2's signer is another one
        (1, SIGNER, bytes(8), identities(), False),
        (3, bytes(48), bytes(8), identities(), False),  # nobody lists module 3
        (1, bytes(48), bytes(8), identities(mrsigner=SIGNER.hex().upper()), False),
        (1, bytes(48), b"\1" + bytes(7), identities(), False),
        (1, bytes(48), b"\1" + bytes(7), identities(attributesMask="00" * 8), False),  # a production module has none at all
        (1, bytes(48), bytes(8), identities(attributes="0100000000000000"), False),
        (0, bytes(48), bytes(8), identities(mrsigner=SIGNER.hex().upper()), True),  # version 0 is judged by tdxModule
        (0, SIGNER, bytes(8), identities(), False),
    ],
)
def test_the_identity_of_the_module_by_its_version(
    platform: SimulatedPlatform,
    reasons: Reasons,
    major: int,
    signer: bytes,
    attributes: bytes,
    shape: CollateralShape,
    accepted: bool,
) -> None:
    quote = platform.quote(tee_tcb_svn=module(major), mrsignerseam=signer, seam_attributes=attributes)
    assert reasons(judged(platform, quote, shape)) == ([] if accepted else ["TdxModuleMismatch"])


def test_a_domain_with_several_flaws_is_told_all(platform: SimulatedPlatform, reasons: Reasons) -> None:
    quote = platform.quote(version=5, td_attributes=bytes.fromhex("0900002000000000"), mr_servicetd=b"\1" * 48)
    assert set(reasons(judged(platform, quote))) == {
        "TdDebugEnabled",
        "TdAttributesNotAllowed",
        "SeptVeDisableOff",
        "TdMigratable",
        "ServiceTdPresent",
    }


def test_the_librarys_first_failure_and_every_one_of_ours(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], initdata: bytes
) -> None:
    """A debug domain with a wrong MRTD, an expired tuple, a foreign log and another session: each is told, once."""
    quote = platform.quote(
        bytes(64), mrconfigid=mrconfigid(initdata), td_attributes=bytes.fromhex("0100001000000000"), mrtd=b"\1" * 48, rtmrs=[b"\2" * 48] * 4
    )
    document = copy.deepcopy(policy_document)
    document["tdx"]["measurements"][0]["expires"] = "2026-10-01T00:00:00Z"
    document["tdx"]["measurements"][0]["initdata"]["templateVersions"] = [7]
    document["tdx"] |= {"fmspcs": [], "ppids": []}
    document["tdx"]["tcb"]["minEvaluationDataNumber"] = 99
    document["isolation"] = ["NodeTD"]
    verdict = judge(quote=quote, document=document)
    assert reasons(verdict) == [
        "TdDebugEnabled",
        "TcbEvaluationTooOld",
        "FmspcNotAllowed",
        "PpidNotAllowed",
        "TdAttributesNotAllowed",
        "MeasurementNotAllowed",
        "MeasurementExpired",
        "InitdataNotAllowed",
        "IsolationNotAllowed",
        "EventLogMismatch",
        "ReportDataMismatch",
    ]
    assert (verdict.claims, verdict.evidence_class, verdict.measurement_name) == (None, None, None)
    assert all(reason.message and reason.remedy for reason in verdict.reasons)


def test_collateral_that_has_expired_hides_nothing(platform: SimulatedPlatform, reasons: Reasons) -> None:
    shape = CollateralShape(crl_next=AT - timedelta(seconds=1), root_crl_next=AT - timedelta(seconds=1))
    verdict = judged(platform, platform.quote(td_attributes=bytes.fromhex("0100001000000000")), shape)
    assert set(reasons(verdict)) == {"CollateralExpired", "TdDebugEnabled"}
    expired = next(reason for reason in verdict.reasons if reason.reason == "CollateralExpired")
    assert "root CA CRL, PCK CRL" in expired.message


def test_collateral_that_cannot_be_read_hides_nothing(judge: Appraise, reasons: Reasons, platform: SimulatedPlatform) -> None:
    def nonsense(info: dict[str, Any], identity: dict[str, Any]) -> None:
        info["nextUpdate"] = "soon"

    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(tampering=Tampering(edit=nonsense))))
    assert reasons(judge(collateral=bent, report_data=bytes(64), initdata=b"x")) == [
        "CollateralMalformed",
        "InitdataMismatch",
        "ReportDataMismatch",
    ]


def test_claims_of_a_genuine_quote(platform: SimulatedPlatform, judge: Appraise) -> None:
    claims = judge().claims
    assert claims is not None
    assert (claims.ppid, claims.pce_id, claims.quote_version) == (platform.ppid, "0000", 4)
    assert (claims.smt, claims.cached_keys, claims.dynamic_platform) == (True, False, True)
    assert (claims.evaluation_data_number, claims.qe_status, claims.pce_svn) == (20, "UpToDate", 11)
    assert (claims.cpu_svn, claims.tee_tcb_svn, claims.tee_tcb_svn2) == ("03" * 16, "060103" + "00" * 13, None)
    assert claims.tcb_date == datetime(2025, 1, 1, tzinfo=UTC)
    assert len(claims.collateral_sha256) == 64


def test_td_report_15_shows_what_only_it_has(platform: SimulatedPlatform) -> None:
    old, new = (judged(platform, platform.quote(version=version)) for version in (4, 5))
    assert set(new.measurements) - set(old.measurements) == {"teeTcbSvn2", "mrservicetd"}
    assert new.measurements["mrservicetd"] == "00" * 48
    assert new.claims is not None
    assert new.claims.tee_tcb_svn2 == new.measurements["teeTcbSvn2"] == "060103" + "00" * 13


@pytest.mark.parametrize("status", ["TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"])
def test_a_domain_that_should_be_started_again(platform: SimulatedPlatform, status: str) -> None:
    collateral = Collateral.from_json(platform.collateral(AT))
    claims = genuineness.verify(parse(platform.quote()), collateral, AT, [platform.root_der])
    rule = Tcb(allowed_statuses=[TcbStatus.UP_TO_DATE], grace_seconds=365 * 86400)
    assert rules.tcb(rule, claims, AT).reasons == ()
    found = rules.tcb(rule, dataclasses.replace(claims, tcb_status=status), AT).reasons
    assert [reason.reason for reason in found] == ["TcbRelaunchAdvised"]
