"""What a client checks before it sends its first byte, by the worker's own evidence.  Pure but for step 7: evidence, policy and time
in, a verified worker or ClientError out.

Steps, marked in `_judge`:

1. The evidence was made for this client's nonce: it is fresh.  In mode `offline` it is the stored one, of which nobody here knows
   when it was made.
2. The quote is genuine and what it measures is what the policy allows (attestation.appraisal).  A model is executable code: it is
   the one that the client pinned, or the policy names this worker's exact initdata, in which the model's digest stands.
3. The quote covers exactly these keys, this identity and this nonce (attestation.binding).
4. The TLS key of the connection is the one that the quote covers, and the certificate is an RA-TLS certificate: its own
   evidence covers the same key.
5. The broker's EAR key, which is measured, is the one that the client pinned (if it did) and certifies the receipt key,
   the account and the wallet, as measured.
6. The offer is the worker's: signed by the receipt key, for the measured model, account and prices, and not expired.
7. NVIDIA's services are asked where the policy wants their word about the GPUs: last, so that they hear of no worker that is refused
   for anything else.

Mode `ear`, in which a broker's result stands for steps 1 to 3, is chrysalis.client.ear_mode.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

from pydantic import BaseModel

from chrysalis.api import initdata
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import appraisal, binding
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.verdict import Verdict
from chrysalis.client import ties
from chrysalis.client.reasons import ClientError, ClientReason, named, refused
from chrysalis.client.ties import Peer
from chrysalis.client.verified import VerifiedWorker
from chrysalis.clock import from_unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts import worker_id
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import AttestationDocument, Evidence, NamedReason
from chrysalis.wire.gpu_services import NOBODY, GpuAsker


def verify_worker(
    document: AttestationDocument,
    *,
    nonce: bytes,
    certificate_der: bytes,
    spki_sha256: bytes,
    policy: AttestationPolicySpec,
    at: datetime,
    ear_key: bytes | None = None,
    model_digest: str | None = None,
    gpu_services: GpuAsker | None = None,
) -> VerifiedWorker:
    """Judge a worker by its own fresh evidence; raises ClientError, with the verdict's reasons where the appraisal refused.

    model_digest, sha256:<hex>, is needed where the policy leaves the initdata's model open (an initdata rule, or Any).
    nonce: the 32 bytes that the client chose.  certificate_der, spki_sha256: of the connection that the document came over.
    gpu_services: needed where the policy's gpu.backend is NRAS or its gpu.revocation Required; blocks while it asks.
    """
    if document.mode != "fresh-quote" or bytes.fromhex(document.evidence.nonce) != nonce:  # 1
        raise ClientError(
            ClientReason.EVIDENCE_STALE,
            "the worker showed evidence that was not made for this client's nonce",
            "connect again; if it stays, the worker cannot make fresh quotes or somebody replays an old one",
            f"mode {document.mode}",
        )
    peer = Peer(certificate_der, spki_sha256)
    return _judge(
        document,
        FreshnessMode.FRESH_QUOTE,
        peer=peer,
        policy=policy,
        at=at,
        ear_key=ear_key,
        model_digest=model_digest,
        gpu_services=gpu_services,
    )


def verify_offline(
    document: AttestationDocument,
    *,
    certificate_der: bytes,
    spki_sha256: bytes,
    policy: AttestationPolicySpec,
    at: datetime,
    ear_key: bytes | None = None,
    model_digest: str | None = None,
    collateral: str | None = None,
) -> VerifiedWorker:
    """Judge a worker by the evidence that it keeps, whose nonce was its broker's; raises ClientError.

    The evidence is genuine, allowed, and about the key of this connection; when it was made, and whether the broker has revoked its
    result since, nobody here knows, and the answer says so.  collateral: in place of what the worker hands over.
    """
    if collateral is not None:
        document = document.model_copy(update={"collateral": collateral})
    peer = Peer(certificate_der, spki_sha256)
    return _judge(document, FreshnessMode.OFFLINE, peer=peer, policy=policy, at=at, ear_key=ear_key, model_digest=model_digest)


def _judge(
    document: AttestationDocument,
    mode: FreshnessMode,
    *,
    peer: Peer,
    policy: AttestationPolicySpec,
    at: datetime,
    ear_key: bytes | None,
    model_digest: str | None,
    gpu_services: GpuAsker | None = None,
) -> VerifiedWorker:
    evidence = document.evidence
    toml, quote = decoded(evidence.initdata), decoded(evidence.quote)
    identity = identity_of(toml)
    bound = bind(evidence, identity)
    verdict = appraise(document, quote, toml, bound.report_data, policy, at)  # 2
    gpu = _check_gpus(evidence, identity, policy, at)
    ties.check_model(identity, toml, policy, model_digest)
    if decoded(document.claims_buffer) != bound.claims_buffer:  # 3
        raise ties.not_covered()
    ties.check_tls_key(evidence.keys, peer)  # 4
    ties.check_ratls(peer, quote, None if mode == FreshnessMode.FRESH_QUOTE else bound.claims_buffer)
    receipt_key = bytes.fromhex(evidence.keys.receipt)
    certificate = ties.receipt_certificate(document, identity, receipt_key, ear_key, at)  # 5
    offer = ties.offer_of(document, identity, receipt_key, at)  # 6
    answers = None
    if gpu is not None and gpus.awaits(gpu):
        answers = _asked(evidence, identity, policy, gpu_services)  # 7
        gpu = _check_gpus(evidence, identity, policy, at, answers)
    ends = [(part.expires_at, part.limited_by or "") for part in (verdict, gpu) if part is not None and part.expires_at is not None]
    ends.append((from_unix(certificate.exp), "receiptCertificate.exp"))
    expires_at, limited_by = min(ends, key=lambda end: end[0])
    return VerifiedWorker(
        mode=mode,
        verdict=verdict,
        gpu=gpu,
        gpu_answers=answers,
        ear=None,
        identity=identity,
        receipt_key=receipt_key,
        wrk=worker_id(receipt_key),
        certificate=document.receipt_certificate,
        result_id=certificate.result_id,
        offer_token=document.offer,
        offer=offer,
        expires_at=expires_at,
        limited_by=limited_by,
        document=document,
        policy=policy,
        judged_at=at.replace(microsecond=0),
    )


def appraise(
    document: AttestationDocument, quote: bytes, toml: bytes, report_data: bytes, policy: AttestationPolicySpec, at: datetime
) -> Verdict:
    """The appraisal with the collateral that the worker hands over (its signatures and dates are checked, so it need not be trusted)."""
    try:
        collateral = Collateral.from_json(document.collateral)
    except ChrysalisError as error:
        raise refused([named(error)]) from error
    verdict = appraisal.appraise(
        quote=quote,
        collateral=collateral,
        policy=policy,
        at=at,
        event_log=decoded(document.evidence.event_log) or None,
        initdata=toml,
        report_data=report_data,
    )
    if not verdict.accepted:
        raise refused([_reason(r) for r in verdict.reasons])
    return verdict


def bind(evidence: Evidence, identity: MeasuredIdentity) -> binding.Binding:
    """What the quote must cover: the evidence's own nonce, its keys, this identity and its GPUs; raises ClientError."""
    return binding.bind(
        nonce=bytes.fromhex(evidence.nonce),
        tls_spki_sha256=bytes.fromhex(evidence.keys.tls_spki_sha256),
        hpke=bytes.fromhex(evidence.keys.hpke),
        receipt=bytes.fromhex(evidence.keys.receipt),
        identity={"measured": identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
        gpu_digest=_gpu_digest(evidence),
    )


def _gpu_digest(evidence: Evidence) -> bytes:
    try:
        return gpus.digest(evidence.gpu)
    except ChrysalisError as error:
        raise refused([named(error)]) from error


def _check_gpus(
    evidence: Evidence, identity: MeasuredIdentity, policy: AttestationPolicySpec, at: datetime, answers: gpus.GpuAnswers | None = None
) -> GpuVerdict | None:
    """The worker's GPUs under the policy's rules; None where it has none.  Whether a GPU serves another domain, too, only a
    broker can know.  Without answers, one that lacks nothing else is let through.  Raises ClientError."""
    if policy.gpu is None:
        return None
    try:
        verdict = gpus.appraise(evidence.gpu, rules=policy.gpu, nonce=_gpu_nonce(evidence, identity), at=at, answers=answers)
    except ChrysalisError as error:
        raise refused([named(error)]) from error
    if not verdict.accepted and (answers is not None or not gpus.awaits(verdict)):
        raise refused([NamedReason.model_validate(members) for members in gpus.named(verdict)])
    return verdict


def _asked(
    evidence: Evidence, identity: MeasuredIdentity, policy: AttestationPolicySpec, gpu_services: GpuAsker | None
) -> gpus.GpuAnswers | None:
    """What NVIDIA's services say; raises ClientError, which names what is missing where none is given."""
    if policy.gpu is None:
        return None
    asker = gpu_services if gpu_services is not None else NOBODY
    try:
        return asker.ask(evidence.gpu, rules=policy.gpu, nonce=_gpu_nonce(evidence, identity))
    except ChrysalisError as error:
        raise refused([named(error)]) from error


def _gpu_nonce(evidence: Evidence, identity: MeasuredIdentity) -> bytes:
    return binding.gpu_nonce(
        nonce=bytes.fromhex(evidence.nonce),
        tls_spki_sha256=bytes.fromhex(evidence.keys.tls_spki_sha256),
        hpke=bytes.fromhex(evidence.keys.hpke),
        receipt=bytes.fromhex(evidence.keys.receipt),
        identity={"measured": identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
    )


def identity_of(toml: bytes) -> MeasuredIdentity:
    """What the initdata says of the worker; raises ClientError."""
    try:
        return initdata.parse(toml).identity
    except ChrysalisError as error:
        raise refused([named(error)]) from error


def decoded(text: str) -> bytes:
    """The bytes of base64; raises ClientError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused([NamedReason(reason="QuoteMalformed", message="the evidence is not base64", remedy="update the worker")]) from error


def _reason(reason: BaseModel) -> NamedReason:
    """A verdict's reason as the wire's NamedReason (the same four members)."""
    return NamedReason.model_validate(reason.model_dump(mode="json", by_alias=True))
