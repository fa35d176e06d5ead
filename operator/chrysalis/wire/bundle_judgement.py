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

from pydantic import ValidationError

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.attestation.freshness import Freshness, FreshnessMode, Revocation
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict
from chrysalis.clock import rfc3339, unix
from chrysalis.wire import bundle_answers, bundle_record, dsse
from chrysalis.wire.broker import PAYLOAD_POLICY
from chrysalis.wire.bundle import Bundle, BundleFile
from chrysalis.wire.bundle_evidence import Opened, appraised
from chrysalis.wire.bundle_verdict import Expectations, Judgement, Signature
from chrysalis.wire.ear import Ear
from chrysalis.wire.reasons import WireError, WireReason


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
    evidence = Opened.of(bundle)  # 2
    own = appraised(bundle, evidence, policy, bundle.judged_at, expect)  # 3
    asked = expect.policy or policy
    same = asked is policy and at == bundle.judged_at
    whole = own if same else appraised(bundle, evidence, asked, at, expect)
    told.verdict, told.gpu = whole.verdict, whole.gpu
    told.other_policy = asked is not policy
    token = bundle_record.tokens(told, bundle, evidence, own, expect)  # 4
    bundle_record.statement(told, file, evidence, expect)  # 5
    told.nras, told.nras_issuer = bundle_answers.whose(told.gpu, expect.nras_keys, vouched=told.statement is Signature.PINNED)
    bundle_record.compare(told, bundle, own, evidence)  # 6
    _freshness(told, bundle, token, expect)  # 7
    return told


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
        signed = SignedPolicy.of_payload(verified.payload)
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
