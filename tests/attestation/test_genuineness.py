"""What makes a quote genuine: each flaw of quote, collateral or trust anchor beside the twin that passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from chrysalis.attestation import genuineness
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.quote import parse
from chrysalis.attestation.verdict import Verdict
from e2e.simtd import pki
from e2e.simtd.pki import CollateralShape, SimulatedPlatform, Tampering

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ISSUE = AT.replace(hour=0)
Reasons = Callable[[Verdict], list[str]]


def judged(platform: SimulatedPlatform, *, shape: CollateralShape | None = None, quote: bytes | None = None, **changes: Any) -> Verdict:
    evidence: dict[str, Any] = {
        "quote": platform.quote() if quote is None else quote,
        "collateral": Collateral.from_json(platform.collateral(AT, shape or CollateralShape())),
        "policy": None,
        "at": AT,
        "roots": [platform.root_der],
    }
    return appraise(**(evidence | changes))


def edited(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> CollateralShape:
    return CollateralShape(tampering=Tampering(edit=change))


@pytest.mark.parametrize("version", [4, 5])
def test_a_genuine_quote_is_accepted(platform: SimulatedPlatform, version: int) -> None:
    verdict = judged(platform, quote=platform.quote(version=version))
    assert verdict.accepted
    assert (verdict.evidence_class, verdict.scope, verdict.tcb_status) == ("Simulated", "GenuinenessAndTcb", "UpToDate")


DOMAINS = [
    ({"td_attributes": bytes.fromhex("0100001000000000")}, "TdDebugEnabled"),
    ({"td_attributes": bytes(8)}, "SeptVeDisableOff"),
    ({"td_attributes": bytes.fromhex("0000003000000000")}, "TdMigratable"),
    ({"td_attributes": bytes.fromhex("0400001000000000")}, "TdAttributesNotAllowed"),
    ({"version": 5, "mr_servicetd": b"\1" * 48}, "ServiceTdPresent"),
    ({"tee_tcb_svn": bytes(16)}, "TcbLevelNotFound"),
    ({"qe_svn": 1}, "TcbLevelNotFound"),
    ({"qe_signer": bytes(32)}, "QeIdentityMismatch"),
    ({"mrsignerseam": b"\1" * 48}, "TdxModuleMismatch"),
]


@pytest.mark.parametrize(("fields", "reason"), DOMAINS, ids=[row[1] + "-" + "-".join(row[0]) for row in DOMAINS])
def test_a_domain_or_platform_that_is_not_acceptable(
    platform: SimulatedPlatform, reasons: Reasons, fields: dict[str, Any], reason: str
) -> None:
    verdict = judged(platform, quote=platform.quote(**fields))
    assert reasons(verdict) == [reason]
    assert verdict.evidence_class is None
    assert verdict.reasons[0].remedy
    assert verdict.reasons[0].detail  # the library's words


COLLATERAL = [
    (CollateralShape(fmspc=bytes.fromhex("00906ED50000")), "CollateralMismatch"),
    (CollateralShape(pce_id=b"\0\1"), "CollateralMismatch"),
    (edited(lambda info, qe: info.update(id="SGX")), "CollateralMismatch"),
    (edited(lambda info, qe: qe.update(id="QE")), "CollateralMismatch"),
    (CollateralShape(tampering=Tampering(signer_is_pck=True)), "CollateralSignerInvalid"),
    (CollateralShape(crl_issue=AT + timedelta(seconds=1)), "CollateralNotYetValid"),
    (CollateralShape(crl_next=AT - timedelta(seconds=1)), "CollateralExpired"),
    (CollateralShape(root_crl_next=AT - timedelta(seconds=1)), "CollateralExpired"),
    (edited(lambda info, qe: info.update(nextUpdate="2026-11-01T11:59:59Z")), "CollateralExpired"),
    (edited(lambda info, qe: qe.update(nextUpdate="2026-11-01T11:59:59Z")), "CollateralExpired"),
    (edited(lambda info, qe: info.update(issueDate="2026-11-01T12:00:01Z")), "CollateralNotYetValid"),
    (CollateralShape(revoked=["pck"]), "CertificateRevoked"),
    (CollateralShape(revoked=["ca"]), "CertificateRevoked"),
    (CollateralShape(revoked=["tcb"]), "CertificateRevoked"),
    (edited(lambda info, qe: info.pop("nextUpdate")), "CollateralMalformed"),
    (edited(lambda info, qe: info.update(tcbLevels=[])), "TcbLevelNotFound"),
    (edited(lambda info, qe: info.update(tcbEvaluationDataNumber="x")), "CollateralMalformed"),
    (CollateralShape(status="Nonsense"), "CollateralMalformed"),
    (edited(lambda info, qe: qe.update(issueDate="yesterday")), "CollateralMalformed"),
]


@pytest.mark.parametrize(("shape", "reason"), COLLATERAL)
def test_collateral_that_is_not_acceptable(platform: SimulatedPlatform, reasons: Reasons, shape: CollateralShape, reason: str) -> None:
    verdict = judged(platform, shape=shape)
    assert reasons(verdict)[0] == reason
    assert not any("+00:00" in one.detail for one in verdict.reasons)  # times end with Z


TWINS = [
    CollateralShape(crl_issue=AT),
    CollateralShape(crl_next=AT + timedelta(seconds=1)),
    CollateralShape(root_crl_next=AT + timedelta(seconds=1)),
    edited(lambda info, qe: info.update(nextUpdate="2026-11-01T12:00:00Z")),  # JSON's nextUpdate is inclusive
    edited(lambda info, qe: info.update(issueDate="2026-11-01T12:00:00Z")),
]


@pytest.mark.parametrize("shape", TWINS)
def test_collateral_at_the_edge_of_its_time(platform: SimulatedPlatform, shape: CollateralShape) -> None:
    assert judged(platform, shape=shape).accepted


def replaced(platform: SimulatedPlatform, **fields: Any) -> Collateral:
    return dataclasses.replace(Collateral.from_json(platform.collateral(AT)), **fields)


@pytest.mark.parametrize("named", ["Simulated SGX PCK Processor CA", pki.ROOT_NAME])
def test_a_revocation_list_of_another_authority_under_the_same_root(platform: SimulatedPlatform, reasons: Reasons, named: str) -> None:
    """As when a PCCS is asked for ca=processor and the platform is certified by ca=platform; or for the root's own list."""
    key = platform.keys["root"] if named == pki.ROOT_NAME else ec.generate_private_key(ec.SECP256R1())
    other = pki.certificate(named, key, pki.ROOT_NAME, platform.keys["root"], path_length=0)
    beside = SimulatedPlatform(platform.keys | {"ca": key}, platform.certificates | {"ca": other})
    bent = replaced(platform, pck_crl=bytes.fromhex(beside.documents(ISSUE)["pck_crl"]))
    verdict = judged(platform, collateral=bent)
    assert reasons(verdict) == ["CollateralMismatch"]
    assert "revocation list is not of the authority" in verdict.reasons[0].message


def test_a_changed_space_breaks_the_signature(platform: SimulatedPlatform, reasons: Reasons) -> None:
    good = Collateral.from_json(platform.collateral(AT))
    for field in ("tcb_info", "qe_identity"):
        bent = dataclasses.replace(good, **{field: getattr(good, field).replace(":", ": ", 1)})
        assert reasons(judged(platform, collateral=bent)) == ["CollateralSignatureInvalid"]


@pytest.mark.parametrize("field", ["root_ca_crl", "pck_crl"])
def test_revocation_lists_of_another_authority(platform: SimulatedPlatform, reasons: Reasons, field: str) -> None:
    other = Collateral.from_json(SimulatedPlatform.create().collateral(AT))
    verdict = judged(platform, collateral=replaced(platform, **{field: getattr(other, field)}))
    assert reasons(verdict) == ["TrustRootMismatch" if field == "root_ca_crl" else "CollateralMismatch"]


@pytest.mark.parametrize(
    "fields",
    [
        {"root_ca_crl": b"\0\1"},
        {"pck_crl": b""},
        {"tcb_info": "{}"},
        {"tcb_info": "[]"},
        {"tcb_info": "\ud800"},
        {"qe_identity": ""},
        {"tcb_info_issuer_chain": ""},
        {"qe_identity_issuer_chain": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
    ],
)
def test_collateral_that_cannot_be_read_is_refused_and_never_a_traceback(
    platform: SimulatedPlatform, reasons: Reasons, fields: dict[str, Any]
) -> None:
    assert reasons(judged(platform, collateral=replaced(platform, **fields))) == ["CollateralMalformed"]


def test_one_flipped_byte_anywhere_is_refused(platform: SimulatedPlatform) -> None:
    quote = platform.quote()
    bundle = Collateral.from_json(platform.collateral(AT))
    for position in range(0, len(quote), 97):
        bent = bytearray(quote)
        bent[position] ^= 0x10
        verdict = judged(platform, quote=bytes(bent), collateral=bundle)
        assert not verdict.accepted, position
        assert verdict.reasons[0].reason != "VerificationFailed", (position, verdict.reasons)


def test_a_flipped_byte_of_the_report_is_a_wrong_signature(platform: SimulatedPlatform, reasons: Reasons) -> None:
    for position in (50, 200, 600, 640):
        bent = bytearray(platform.quote())
        bent[position] ^= 0x01
        assert reasons(judged(platform, quote=bytes(bent))) == ["SignatureInvalid"]


def test_a_chain_in_the_collateral_does_not_override_the_quotes_own(platform: SimulatedPlatform) -> None:
    import json

    other = SimulatedPlatform.create()
    document = json.loads(platform.collateral(AT)) | {"pck_certificate_chain": other.pck_chain}
    assert judged(platform, collateral=Collateral.from_json(json.dumps(document))).accepted


def test_intels_root_is_the_default_and_refuses_the_simulated_one(platform: SimulatedPlatform, reasons: Reasons) -> None:
    assert reasons(judged(platform, roots=[])) == ["TrustRootMismatch"]
    assert reasons(judged(platform, roots=[SimulatedPlatform.create().root_der])) == ["TrustRootMismatch"]
    assert reasons(judged(platform, roots=[b"not a certificate"])) != []


def test_any_of_several_roots_will_do(platform: SimulatedPlatform) -> None:
    others = [genuineness.INTEL, SimulatedPlatform.create().root_der]
    assert judged(platform, roots=[*others, platform.root_der]).accepted
    assert not judged(platform, roots=others).accepted


def test_no_anchor_is_no_default(platform: SimulatedPlatform) -> None:
    with pytest.raises(ValueError, match="trust anchor"):
        genuineness.verify(parse(platform.quote()), Collateral.from_json(platform.collateral(AT)), AT, [])


def test_a_foreign_chain_in_the_quote(platform: SimulatedPlatform, reasons: Reasons) -> None:
    other = SimulatedPlatform.create()
    verdict = judged(platform, quote=platform.quote(chain=other.pck_chain))
    assert reasons(verdict)[0] in ("CertificateInvalid", "CollateralMismatch")


def test_before_the_certificates_began(platform: SimulatedPlatform, reasons: Reasons) -> None:
    early = datetime(2019, 6, 1, tzinfo=UTC)
    verdict = judged(platform, at=early, collateral=Collateral.from_json(platform.collateral(early)))
    assert reasons(verdict) == ["CollateralNotYetValid"]


def test_after_the_certificates_ended(platform: SimulatedPlatform, reasons: Reasons) -> None:
    late = datetime(2050, 6, 1, tzinfo=UTC)
    verdict = judged(platform, at=late, collateral=Collateral.from_json(platform.collateral(late)))
    assert reasons(verdict) == ["CertificateExpired"]
