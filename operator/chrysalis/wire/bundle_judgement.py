"""Judging an evidence bundle again: pure, offline, at its own time or at any other.

Nothing that the bundle says about itself is believed.  What is recomputed or verified, in this order (marked in `judge`):

1. Policy: the envelope's signature, against the owner that the reader names; without one, the output says loudly whose policy it is.
2. Binding: the transcript is made again from nonce, keys, measured and claimed identity; the quote must carry it.
3. Appraisal, twice: at the recorded time under the enclosed policy, and at the time and under the policy that the reader asks for.
4. Tokens: the EAR and the receipt key's certificate, under the reader's EAR key, or else the one that the worker is measured with;
   whether the key that signed the EAR is recalled, by the list in the bundle and by the reader's own;
   their claims against the evidence, the policy and the recorded members.
5. Statement: the broker's signature over the whole bundle.
6. Record: the recorded verdict, and a client's record of how it had verified, against the first appraisal; a difference is a
   reason of its own, BundleDisagrees.
7. Freshness and revocation: what is known, and by whose word.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.attestation import binding
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.freshness import FRESHNESS, Freshness, FreshnessMode, Revocation
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import EvidenceClass, Reason, Verdict
from chrysalis.clock import from_unix, rfc3339, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.wire import bundle_answers, dsse, ear
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import PAYLOAD_POLICY, NamedReason
from chrysalis.wire.bundle import Bundle, BundleFile, BundleResult, BundleStatement, BundleVerification, token_claim
from chrysalis.wire.bundle_answers import KeysOf
from chrysalis.wire.ear import Ear
from chrysalis.wire.reasons import WireError, WireReason
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


class Signature(StrEnum):
    """What a signature in the bundle was checked against."""

    PINNED = "Pinned"  # the key that the reader named
    MEASURED = "Measured"  # the key in the worker's measured configuration; the reader named none
    UNNAMED = "Unnamed"  # it is right under the key that it names itself, and the reader named none
    ABSENT = "Absent"
    NOT_CHECKED = "NotChecked"
    INVALID = "Invalid"


@dataclass(frozen=True)
class Difference:
    """One member of the record that is not what the evidence gives."""

    member: str
    recorded: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What the reader brings along; nothing of it is needed, and each thing makes the answer worth more.

    at: the time to judge at; None: the recorded one.  policy: judge under this one instead of the enclosed one.
    owner: whose policy it must be (raw Ed25519).  ear_key: whose results are believed (raw Ed25519).
    recalls: that broker's list of recalled keys (chrysalis.wire.recalls), as new as the reader could get it.
    nonce: the one that the reader itself had chosen for this evidence.  roots: DER trust anchors that the policy's must be among.
    nras_keys: NVIDIA's attestation service's key set (JWKS), in place of the enclosed one.
    """

    at: datetime | None = None
    policy: AttestationPolicySpec | None = None
    owner: bytes | None = None
    ear_key: bytes | None = None
    recalls: str = ""
    nonce: bytes | None = None
    roots: Sequence[bytes] = ()
    nras_keys: str | None = None


@dataclass(frozen=True)
class Whole:
    """The appraisal of the trust domain and, where the policy judges them, of its GPUs: the weaker counts."""

    verdict: Verdict
    gpu: GpuVerdict | None = None

    @property
    def accepted(self) -> bool:
        """Whether both were accepted."""
        return self.verdict.accepted and (self.gpu is None or self.gpu.accepted)

    @property
    def reasons(self) -> list[NamedReason]:
        """The domain's and the GPUs'."""
        found = [NamedReason.model_validate(reason.model_dump(mode="json")) for reason in self.verdict.reasons]
        return found + [NamedReason.model_validate(members) for members in (gpus.named(self.gpu) if self.gpu else [])]

    @property
    def evidence_class(self) -> EvidenceClass | None:
        """The weaker of both; None where one could not be established."""
        found = [self.verdict.evidence_class]
        if self.gpu is not None and (self.gpu.gpus or self.gpu.switches):
            found.append(self.gpu.evidence_class)
        if None in found:
            return None
        return EvidenceClass.SIMULATED if EvidenceClass.SIMULATED in found else EvidenceClass.HARDWARE

    @property
    def end(self) -> tuple[datetime | None, str | None]:
        """When the first of both ends, and what limits it."""
        known: list[tuple[datetime, str | None]] = []
        for part in (self.verdict, self.gpu):
            if part is not None and part.expires_at is not None:
                known.append((part.expires_at, part.limited_by))
        return min(known, key=lambda end: end[0]) if known else (None, None)


@dataclass
class Judgement:
    """The answer.  `verdict` is the appraisal at the asked time; `accepted` needs it and every check of the bundle itself."""

    digest: str
    at: datetime
    recorded_at: datetime
    verdict: Verdict
    recorded: str  # Accepted, Refused or None, as it stands in the bundle
    gpu: GpuVerdict | None = None
    mode: FreshnessMode = FreshnessMode.OFFLINE
    freshness: Freshness = Freshness.NOT_CHECKED
    revocation: Revocation = Revocation.NOT_CHECKED
    owner: str = ""  # hex of the key that signed the policy
    policy_name: str = ""
    policy_version: int = 0
    policy_signature: Signature = Signature.ABSENT
    other_policy: bool = False
    ear: Signature = Signature.ABSENT
    statement: Signature = Signature.ABSENT
    nras: KeysOf = KeysOf.NOBODY
    nras_issuer: str = ""
    placement: str = ""
    verification: BundleVerification | None = None  # how the client that made the bundle says it had verified
    reasons: list[NamedReason] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    not_rejudged: list[NamedReason] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether the evidence is accepted at the asked time and nothing in the bundle contradicts anything else."""
        return Whole(self.verdict, self.gpu).accepted and not self.reasons and not self.not_rejudged

    def refuse(self, reason: WireReason | AttestationReason | str, message: str, remedy: str, detail: str = "") -> None:
        """Add a reason."""
        self.reasons.append(NamedReason(reason=str(reason), message=message, remedy=remedy, detail=detail[:1024]))

    def to_json(self) -> dict[str, Any]:
        """The form of `-o json`."""
        own = {(reason.reason, reason.message) for reason in self.reasons}
        appraised = Whole(self.verdict, self.gpu).reasons
        every = self.reasons + [r for r in appraised if (r.reason, r.message) not in own] + self.not_rejudged
        return {
            "schemaVersion": "chrysalis/v1",
            "verdict": "Accepted" if self.accepted else "Refused",
            "reasons": [reason.to_json_dict() for reason in every],
            "bundleDigest": self.digest,
            "at": rfc3339(self.at),
            "recordedAt": rfc3339(self.recorded_at),
            "recordedVerdict": self.recorded,
            "mode": self.mode.value,
            "freshness": self.freshness.value,
            "revocation": self.revocation.value,
            "policy": {
                "name": self.policy_name,
                "version": self.policy_version,
                "owner": self.owner,
                "signature": self.policy_signature.value,
                "enclosed": not self.other_policy,
            },
            "ear": self.ear.value,
            "statement": self.statement.value,
            "nrasKeys": self.nras.value,
            "nrasIssuer": self.nras_issuer or None,
            "placement": self.placement,
            "recordedVerification": self.verification.to_json_dict() if self.verification else None,
            "differences": [vars(difference) for difference in self.differences],
            "appraisal": self.verdict.to_json_full(),
            "gpu": self.gpu.to_json_full() if self.gpu else None,
        }


def judge(file: BundleFile, expect: Expectations | None = None) -> Judgement:
    """Judge a bundle as the module says; never raises for what stands in it."""
    expect = expect or Expectations()
    bundle = file.bundle
    at = (expect.at or bundle.judged_at).replace(microsecond=0)
    told = Judgement(
        digest=file.digest,
        at=at,
        recorded_at=bundle.judged_at,
        verdict=Verdict.refused(Reason.of(AttestationReason.VERIFICATION_FAILED, "nothing was appraised")),
        recorded=bundle.result.verdict if bundle.result else "None",
        placement=bundle.broker.placement.value if bundle.broker else "",
        verification=bundle.verification,
    )
    policy = _policy(told, bundle, expect)  # 1
    evidence = _Opened.of(bundle)  # 2
    own = _appraise(bundle, evidence, policy, bundle.judged_at, expect)  # 3
    asked = expect.policy or policy
    same = asked is policy and at == bundle.judged_at
    whole = own if same else _appraise(bundle, evidence, asked, at, expect)
    told.verdict, told.gpu = whole.verdict, whole.gpu
    told.other_policy = asked is not policy
    token = _tokens(told, bundle, evidence, own, expect)  # 4
    _statement(told, file, evidence, expect)  # 5
    told.nras, told.nras_issuer = bundle_answers.whose(told.gpu, expect.nras_keys, vouched=told.statement is Signature.PINNED)
    _compare(told, bundle, own, evidence)  # 6
    _freshness(told, bundle, token, expect)  # 7
    return told


@dataclass(frozen=True)
class _Opened:
    """The evidence's bytes; what could not be decoded is empty and stands in `flaw`."""

    quote: bytes
    event_log: bytes
    initdata: bytes
    identity: MeasuredIdentity | None
    report_data: bytes
    gpu_nonce: bytes
    flaw: Reason | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> _Opened:
        evidence = bundle.evidence
        toml, log, quote = b"", b"", b""
        identity, bound, gpu_nonce, flaw = None, b"", b"", None
        try:
            toml, log, quote = _decode(evidence.initdata), _decode(evidence.event_log), quotes.read(_decode(evidence.quote))
            if not toml:
                raise AttestationError(AttestationReason.INITDATA_MISSING, "without initdata nothing says what the quote is bound to")
            identity = initdata_form.parse(toml).identity
            parts: dict[str, Any] = {
                "nonce": bytes.fromhex(evidence.nonce),
                "tls_spki_sha256": bytes.fromhex(evidence.keys.tls_spki_sha256),
                "hpke": bytes.fromhex(evidence.keys.hpke),
                "receipt": bytes.fromhex(evidence.keys.receipt),
                "identity": {"measured": identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
            }
            gpu_nonce = binding.gpu_nonce(**parts)
            bound = binding.bind(**parts, gpu_digest=gpus.digest(evidence.gpu)).report_data
        except AttestationError as error:
            flaw = Reason.from_error(error)
        except GpuError as error:
            flaw = Reason.of(AttestationReason.BINDING_INVALID, error.message, error.detail[:1024])
        except ChrysalisError as error:
            flaw = Reason.of(AttestationReason.INITDATA_MALFORMED, error.message, error.detail[:1024])
        except (ValueError, binascii.Error) as error:
            flaw = Reason.of(AttestationReason.QUOTE_UNREADABLE, "the evidence is not base64", str(error)[:1024])
        return cls(quote, log, toml, identity, bound, gpu_nonce, flaw)


def _policy(told: Judgement, bundle: Bundle, expect: Expectations) -> AttestationPolicySpec | None:
    """Step 1; the enclosed policy, None where there is none or it cannot be read."""
    if bundle.policy is None:
        if expect.owner is not None:
            told.refuse(WireReason.ENVELOPE_SIGNATURE_INVALID, "the bundle holds no policy", "ask for a bundle of an accepted result")
        return None
    envelope = bundle.policy.envelope
    if envelope is None:
        if expect.owner is not None:
            told.refuse(
                WireReason.ENVELOPE_SIGNATURE_INVALID,
                "the enclosed policy is signed by nobody",
                "judge under a policy of your own (--policy), or ask for a bundle with the owner's envelope",
            )
        return bundle.policy.unsigned
    try:
        named = [bytes.fromhex(signature.keyid) for signature in envelope.signatures if len(signature.keyid) == 64]
        verified = dsse.verify(envelope, PAYLOAD_POLICY, [expect.owner] if expect.owner is not None else named)
        signed = SignedPolicy.model_validate_json(verified.payload)
    except (WireError, ValidationError, ValueError) as error:
        told.policy_signature = Signature.INVALID
        detail = error.detail if isinstance(error, WireError) else str(error)
        told.refuse(
            error.reason if isinstance(error, WireError) else WireReason.ENVELOPE_MALFORMED,
            "the enclosed policy does not carry the owner's signature",
            "compare --owner with the owner's key (`chrysalis keys show-owner`); if it is right, the bundle was changed",
            detail,
        )
        return None
    told.policy_signature = Signature.UNNAMED if expect.owner is None else Signature.PINNED
    told.owner, told.policy_name, told.policy_version = verified.public_key.hex(), signed.name, signed.spec.version
    return signed.spec


def _appraise(bundle: Bundle, evidence: _Opened, policy: AttestationPolicySpec | None, at: datetime, expect: Expectations) -> Whole:
    """Step 3."""
    scope = "Policy" if policy else "GenuinenessAndTcb"
    if evidence.flaw is not None:
        return Whole(Verdict.refused(evidence.flaw, scope=scope))
    try:
        collateral = Collateral.from_json(bundle.collateral)
    except AttestationError as error:
        reason = Reason.from_error(error)
        if not bundle.collateral:
            reason = Reason.of(AttestationReason.COLLATERAL_MISSING, "the bundle holds no collateral; without it nothing can be verified")
        return Whole(Verdict.refused(reason, scope=scope))
    verdict = appraise(
        quote=evidence.quote,
        collateral=collateral,
        policy=policy,
        at=at,
        roots=expect.roots,
        event_log=evidence.event_log or None,
        initdata=evidence.initdata or None,
        report_data=evidence.report_data or None,
        placement=bundle.broker.placement if bundle.broker and bundle.source == "Broker" else None,
    )
    if policy is None or policy.gpu is None:
        return Whole(verdict)
    said = gpus.appraise(
        bundle.evidence.gpu, rules=policy.gpu, nonce=evidence.gpu_nonce, at=at, answers=bundle.gpu_answers, nras_keys=expect.nras_keys
    )
    return Whole(verdict, said)


def _tokens(told: Judgement, bundle: Bundle, evidence: _Opened, own: Whole, expect: Expectations) -> Ear | None:
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


def _ear_key(evidence: _Opened, expect: Expectations) -> tuple[bytes | None, Signature]:
    if expect.ear_key is not None:
        return expect.ear_key, Signature.PINNED
    if evidence.identity is not None:
        return bytes.fromhex(evidence.identity.broker.ear_key), Signature.MEASURED
    return None, Signature.NOT_CHECKED


def _claims(
    bundle: Bundle,
    result: BundleResult,
    evidence: _Opened,
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


def _statement(told: Judgement, file: BundleFile, evidence: _Opened, expect: Expectations) -> None:
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


def _compare(told: Judgement, bundle: Bundle, own: Whole, evidence: _Opened) -> None:
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


def _verification(told: Judgement, bundle: Bundle, own: Whole, evidence: _Opened) -> list[Difference]:
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


def _freshness(told: Judgement, bundle: Bundle, token: Ear | None, expect: Expectations) -> None:
    """Step 7.  Only a nonce of the reader's own, or a broker that the reader pins, says when evidence was made."""
    if expect.nonce is not None:
        if expect.nonce == bytes.fromhex(bundle.evidence.nonce):
            told.mode, told.freshness = FreshnessMode.FRESH_QUOTE, Freshness.OWN_NONCE
        else:
            told.refuse(
                AttestationReason.REPORT_DATA_MISMATCH,
                "the evidence was made for another nonce than the one that was asked for",
                "give the nonce that was sent for this very evidence, or none",
            )
    elif token is not None and told.ear == Signature.PINNED and token.iat <= unix(told.at) < token.exp:
        told.mode, told.freshness = FreshnessMode.EAR, Freshness.BROKER_NONCE
    revoked = bundle.result.revoked_at if bundle.result else None
    if revoked is not None:
        told.revocation = Revocation.REVOKED
        if told.at >= revoked:
            told.refuse("ResultRevoked", f"the result was revoked at {rfc3339(revoked)}", "use a result that is not revoked")


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


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
