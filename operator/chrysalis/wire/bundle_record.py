"""Of judging an evidence bundle, steps 4 to 6: what brokers and clients say in it, against what the evidence gives.
chrysalis.wire.bundle_judgement names the steps."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from chrysalis.attestation.freshness import FRESHNESS, FreshnessMode, Revocation
from chrysalis.attestation.gpu.reasons import GpuReason
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.clock import from_unix, rfc3339, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.wire import bundle_answers, ear
from chrysalis.wire.bundle import Bundle, BundleFile, BundleResult, BundleStatement, token_claim
from chrysalis.wire.bundle_evidence import Opened
from chrysalis.wire.bundle_verdict import Difference, Expectations, Judgement, Signature, Whole
from chrysalis.wire.ear import Ear
from chrysalis.wire.reasons import WireReason
from chrysalis.wire.recalls import open_list

APPRAISED = {str(reason) for reason in (*AttestationReason, *GpuReason)}
ALSO_THE_BROKERS = {
    "IsolationNotAllowed",
    "CollateralMissing",
    str(GpuReason.GPU_IN_USE),
    str(GpuReason.GPU_SERVICE_NOT_CONFIGURED),
    str(GpuReason.GPU_SERVICE_UNAVAILABLE),
    str(GpuReason.GPU_SERVICE_REFUSED),
}
"""Words that a broker uses for checks of its own, too (of the key record, of its cache, of other live results, of services)."""


def tokens(told: Judgement, bundle: Bundle, evidence: Opened, own: Whole, expect: Expectations) -> Ear | None:
    """Step 4; the EAR when its signature holds."""
    result = bundle.result
    if result is None or not result.ear:
        if expect.ear_key is not None:
            told.refuse(WireReason.EAR_MALFORMED, "the bundle holds no attestation result of a broker", "judge it without --ear-key")
        return None
    key, held = _ear_key(evidence, expect)
    if key is None:
        told.ear = Signature.NOT_CHECKED
        return None
    # A client's bundle is judged at the client's time; the result beside it was issued at its own.
    try:
        opened = ear.open_token(result.ear, key)
        ear.check_times(opened, bundle.judged_at)
        for listed in (bundle.recalls, expect.recalls):
            if listed:
                ear.check_recalled(opened, open_list(listed, key).kids)
        token = opened.ear
        certificate = ReceiptKeyCertificate.parse(result.receipt_certificate, key) if result.receipt_certificate else None
    except ChrysalisError as error:
        told.ear = Signature.INVALID
        told.refuse(
            error.reason,
            f"the broker's result does not hold: {error.message}",
            "compare --ear-key with the broker's key; if it is right, the bundle was changed",
            error.detail,
        )
        return None
    told.ear = held
    for difference in _claims(bundle, result, evidence, told, own, token, certificate):
        told.differences.append(difference)
        said, shown = difference.recorded or "nothing", difference.found or "nothing"
        told.refuse(
            WireReason.EAR_CLAIM_MISMATCH,
            f"the broker's result says {difference.member} {said}, the bundle {shown}",
            "do not rely on this bundle: it was put together from parts that do not belong together",
        )
    return token


def _ear_key(evidence: Opened, expect: Expectations) -> tuple[bytes | None, Signature]:
    if expect.ear_key is not None:
        return expect.ear_key, Signature.PINNED
    if evidence.identity is not None:
        return bytes.fromhex(evidence.identity.broker.ear_key), Signature.MEASURED
    return None, Signature.NOT_CHECKED


def _claims(
    bundle: Bundle,
    result: BundleResult,
    evidence: Opened,
    told: Judgement,
    own: Whole,
    token: Ear,
    certificate: ReceiptKeyCertificate | None,
) -> list[Difference]:
    """Where the signed claims differ from evidence, policy and record."""
    keys, said = bundle.evidence.keys, token.result
    pairs: list[tuple[str, Any, Any]] = [
        ("keys.tlsSpkiSha256", token.cnf.spki_sha256, keys.tls_spki_sha256),
        ("keys", _lower(token.keys.to_json_dict()), _lower(keys.to_json_dict())),
        ("evidenceClass", said.evidence_class, own.evidence_class),
    ]
    if result.result_id:
        pairs.append(("resultId", token.jti, result.result_id))
    if bundle.broker is not None:
        pairs.append(("placement", said.placement, bundle.broker.placement))
    identity = evidence.identity
    if identity is not None:
        pairs += [
            ("modelDigest", said.model_digest, identity.model.digest),
            ("keyId", said.key_id, identity.model.key_id),
            ("isolation", said.isolation, identity.isolation),
        ]
        if identity.model.key_owner is not None:
            pairs.append(("keyOwner", said.policy_owner.lower(), identity.model.key_owner.lower()))
    if bundle.source == "Broker":
        pairs += [
            ("nonce", token.nonce, bundle.evidence.nonce),
            ("judgedAt", token.iat, unix(bundle.judged_at)),
            ("expiresAt", from_unix(token.exp), result.expires_at),
            ("tcbStatus", said.tcb_status, result.tcb_status),
            ("measurementName", said.measurement, result.measurement_name),
            ("limitedBy", said.limited_by, result.limited_by),
            ("verdict", "Accepted", result.verdict),
            ("policyOwner", said.policy_owner, told.owner),
            ("policyName", said.policy_name, told.policy_name),
            ("policyVersion", said.policy_version, told.policy_version),
        ]
    if certificate is not None:
        pairs += [
            ("receiptCertificate.receiptKey", certificate.receipt_key, keys.receipt),
            ("receiptCertificate.resultId", certificate.result_id, token.jti),
            ("receiptCertificate.expiresAt", certificate.exp, token.exp),
            ("receiptCertificate.issuedAt", certificate.nbf, token.iat),
        ]
        if identity is not None:
            reservations = sorted(key.lower() for key in identity.reservation_keys)
            pairs += [
                ("receiptCertificate.set", certificate.set, identity.set),
                ("receiptCertificate.wallet", certificate.wallet, identity.wallet),
                ("receiptCertificate.reservationKeys", sorted(certificate.reservation_keys), reservations),
            ]
    return [Difference(name, _word(signed), _word(shown)) for name, signed, shown in pairs if _word(signed) != _word(shown)]


def statement(told: Judgement, file: BundleFile, evidence: Opened, expect: Expectations) -> None:
    """Step 5."""
    bundle = file.bundle
    if not bundle.statement:
        if bundle.source == "Broker":
            told.refuse(
                WireReason.BUNDLE_STATEMENT_INVALID,
                "the bundle claims to be a broker's and does not carry the broker's statement",
                "get it again with `chrysalis bundle get`",
            )
        return
    key, held = _ear_key(evidence, expect)
    if key is None:
        told.statement = Signature.NOT_CHECKED
        return
    try:
        statement = BundleStatement.parse(bundle.statement, key)
        wrong = "" if statement.digest == file.bare_digest else f"signed {statement.digest}, found {file.bare_digest}"
    except ChrysalisError as error:
        wrong = f"{error.reason}: {error.message}"
    told.statement = Signature.INVALID if wrong else held
    if wrong:
        told.refuse(
            WireReason.BUNDLE_STATEMENT_INVALID,
            "the broker did not make this bundle, or not in this form",
            "compare --ear-key with the broker's key; if it is right, the bundle was changed: get it again",
            wrong,
        )


def compare(told: Judgement, bundle: Bundle, own: Whole, evidence: Opened) -> None:
    """Step 6: the records against the appraisal at its own time."""
    _disagree(told, _verification(told, bundle, own, evidence))
    result = bundle.result
    if result is None:
        return
    recorded = {reason.reason for reason in result.reasons}
    brokers = [reason for reason in result.reasons if reason.reason not in APPRAISED - ALSO_THE_BROKERS]
    found = {str(reason.reason) for reason in own.reasons}
    differences: list[Difference] = []
    if result.verdict == "Accepted":
        absent = None if bundle.verification is None else bundle.verification.gpu_answers
        lacking = bundle_answers.only_lacks(absent, own.verdict, own.gpu)
        if (not own.accepted and not lacking) or recorded:
            verdict = "Accepted" if own.accepted else "Refused"
            differences.append(Difference("verdict", _verdict("Accepted", recorded), _verdict(verdict, found)))
    elif own.accepted and not brokers:
        differences.append(Difference("verdict", _verdict("Refused", recorded), "Accepted"))
    elif not own.accepted:
        judged = {reason for reason in recorded if reason in APPRAISED - ALSO_THE_BROKERS}
        # A broker that refuses for a reason of its own may have stopped there; what it did say must be true.
        if judged - found or (not brokers and found - judged):
            differences.append(Difference("reasons", ", ".join(sorted(recorded)), ", ".join(sorted(found))))
    pairs: list[tuple[str, Any, Any]] = [("evidenceClass", result.evidence_class, own.evidence_class)]
    pairs += [("tcbStatus", result.tcb_status, own.verdict.tcb_status)]
    if own.accepted and result.verdict == "Accepted":
        pairs += [
            ("limitedBy", result.limited_by, own.end[1]),
            ("expiresAt", result.expires_at, own.end[0]),
            ("measurementName", result.measurement_name, own.verdict.measurement_name),
        ]
    differences += [Difference(name, _word(a), _word(b)) for name, a, b in pairs if a and _word(a) != _word(b)]
    _disagree(told, differences)
    if result.verdict == "Refused" and not differences:
        told.not_rejudged = brokers


def _disagree(told: Judgement, differences: list[Difference]) -> None:
    for difference in differences:
        told.refuse(
            WireReason.BUNDLE_DISAGREES,
            f"the record says {difference.member} {difference.recorded or 'nothing'}; the evidence gives {difference.found or 'nothing'}",
            "do not rely on the record; if the bundle is older than this version, read what the version newly checks",
        )
    told.differences += differences


def _verification(told: Judgement, bundle: Bundle, own: Whole, evidence: Opened) -> list[Difference]:
    """Where a client's record of its verification contradicts itself or the evidence; its nonce and its questions nobody can repeat."""
    said = bundle.verification
    if said is None:
        return []
    pairs: list[tuple[str, Any, Any]] = [
        ("verification.freshness", said.freshness, FRESHNESS[said.mode]),
        ("verification.judgedBy", said.judged_by, "Broker" if said.mode == FreshnessMode.EAR else "Client"),
        ("verification.gpuAnswers", *bundle_answers.recorded(said.gpu_answers, bundle.gpu_answers)),
        ("verification.evidenceClass", said.evidence_class, own.evidence_class),
        ("verification.isolation", said.isolation, evidence.identity.isolation if evidence.identity else None),
    ]
    if said.mode == FreshnessMode.EAR and told.ear not in (Signature.PINNED, Signature.MEASURED):
        pairs.append(("verification.mode", said.mode, ""))
    elif said.mode == FreshnessMode.EAR and bundle.result is not None:
        pairs.append(("verification.nonce", token_claim(bundle.result.ear, "eat_nonce"), bundle.evidence.nonce))
    if said.mode == FreshnessMode.OFFLINE:
        pairs.append(("verification.revocation", said.revocation, Revocation.NOT_CHECKED))
    return [Difference(name, _word(recorded), _word(found)) for name, recorded, found in pairs if _word(recorded) != _word(found)]


def _verdict(verdict: str, reasons: set[str]) -> str:
    return f"{verdict} ({', '.join(sorted(reasons))})" if reasons else verdict


def _word(value: Any) -> str:
    """One comparable form: hex in lower case, times in UTC."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return str(value).lower() if isinstance(value, str) and len(value) in (64, 66) else str(value)


def _lower(members: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value).lower() for name, value in members.items()}
