"""What a client keeps of a worker that it verified: one file that anybody can judge again, years later."""

from __future__ import annotations

from datetime import datetime

from chrysalis.api.policy import AttestationPolicySpec, Envelope
from chrysalis.attestation.verdict import Verdict
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.wire import bundle
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.bundle import Bundle, BundlePolicy, BundleResult


def of_client(
    document: AttestationDocument,
    *,
    verdict: Verdict,
    policy: AttestationPolicySpec,
    envelope: Envelope | None,
    judged_at: datetime,
    made_at: datetime,
) -> Bundle:
    """The bundle of evidence that a client has judged; the nonce in it is the client's own.

    envelope: the owner's signature of `policy`, where the client has it; without it the bundle holds the policy unsigned.
    Raises ClientError (EvidenceStale) for a stored document, whose nonce is not the client's.
    """
    if document.mode != "fresh-quote":
        raise ClientError(ClientReason.EVIDENCE_STALE, "this evidence was not made for this client", "verify the worker first")
    whole = policy.gpu is None  # the verdict is the domain's; GPUs may be weaker and end sooner, so no copy of these is kept then
    return Bundle(
        source="Client",
        made_at=made_at.replace(microsecond=0),
        judged_at=judged_at.replace(microsecond=0),
        evidence=document.evidence,
        collateral=document.collateral,
        policy=BundlePolicy(envelope=envelope) if envelope else BundlePolicy(unsigned=policy),
        result=BundleResult(
            result_id=_result_id(document.ear),
            verdict=verdict.verdict,
            evidence_class=verdict.evidence_class.value if whole and verdict.evidence_class else "",
            tcb_status=verdict.tcb_status or "",
            measurement_name=verdict.measurement_name or "",
            expires_at=verdict.expires_at if whole else None,
            limited_by=verdict.limited_by or "" if whole else "",
            ear=document.ear,
            receipt_certificate=document.receipt_certificate,
        ),
    )


def _result_id(ear: str) -> str:
    return bundle.token_claim(ear, "jti")
