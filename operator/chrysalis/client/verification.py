"""What a client checks before it sends its first byte.  Pure: evidence, policy and time in, a verified worker or ClientError out.

Steps, marked in `verify_worker`:

1. The evidence was made for this client's nonce: it is fresh.
2. The quote is genuine and what it measures is what the policy allows (attestation.appraisal).  A model is executable code: it is
   the one that the client pinned, or the policy names this worker's exact initdata, in which the model's digest stands.
3. The quote covers exactly these keys, this identity and this nonce (attestation.binding).
4. The TLS key of the connection is the one that the quote covers, and the certificate is an RA-TLS certificate: its own
   evidence covers the same key.
5. The broker's EAR key, which is measured, is the one that the client pinned (if it did) and certifies the receipt key,
   the account and the wallet, as measured.
6. The offer is the worker's: signed by the receipt key, for the measured model, account and prices, and not expired.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from pydantic import BaseModel

from chrysalis.api import initdata
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec, Envelope
from chrysalis.attestation import appraisal, binding, ratls
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.verdict import Verdict
from chrysalis.client.bundles import of_client
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.clock import from_unix, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts import jws, worker_id
from chrysalis.receipts.objects import Offer, PriceList, ReceiptKeyCertificate, check_time
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import AttestationDocument, Evidence, NamedReason
from chrysalis.wire.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class VerifiedWorker:
    """A worker that passed every step, until `expires_at`."""

    verdict: Verdict
    identity: MeasuredIdentity
    receipt_key: bytes
    wrk: str
    certificate: str
    offer_token: str
    """The offer, a compact JWS; "" where the worker settles nowhere and makes none."""
    offer: Offer | None
    expires_at: datetime
    document: AttestationDocument
    """What was judged, at `judged_at`, under `policy`."""
    policy: AttestationPolicySpec
    judged_at: datetime
    mode: FreshnessMode = FreshnessMode.FRESH_QUOTE

    def bundle(self, made_at: datetime, envelope: Envelope | None = None) -> Bundle:
        """Everything that the verdict rests on, to be judged again by anybody (chrysalis.wire.bundle).

        envelope: the owner's signature of the policy, where the client has it.
        """
        return of_client(
            self.document, verdict=self.verdict, policy=self.policy, envelope=envelope, judged_at=self.judged_at, made_at=made_at
        )

    @property
    def offer_hash(self) -> str:
        """The offer's identity."""
        return jws.identity(self.offer_token)


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
) -> VerifiedWorker:
    """Judge a worker by its own evidence; raises ClientError, with the verdict's reasons where the appraisal refused.

    model_digest, sha256:<hex>, is needed where the policy leaves the initdata's model open (an initdata rule, or Any).
    nonce: the 32 bytes that the client chose.  certificate_der, spki_sha256: of the connection that the document came over.
    """
    evidence = document.evidence
    if document.mode != "fresh-quote" or bytes.fromhex(evidence.nonce) != nonce:  # 1
        raise ClientError(
            ClientReason.EVIDENCE_STALE,
            "the worker showed evidence that was not made for this client's nonce",
            "connect again; if it stays, the worker cannot make fresh quotes or somebody replays an old one",
            f"mode {document.mode}",
        )
    toml, quote = _bytes(evidence.initdata), _bytes(evidence.quote)
    identity = _identity(toml)
    bound = _bind(evidence, identity, nonce)
    verdict = appraise(document, quote, toml, bound.report_data, policy, at)  # 2
    gpu = _check_gpus(evidence, identity, policy, at)
    _check_model(identity, toml, policy, model_digest)
    if _bytes(document.claims_buffer) != bound.claims_buffer:  # 3
        raise ClientError(
            ClientReason.KEY_NOT_BOUND,
            "the quote does not cover the keys and the identity that the worker states",
            "do not use this worker; report it to its operator",
        )
    if bytes.fromhex(evidence.keys.tls_spki_sha256) != spki_sha256:  # 4
        raise ClientError(
            ClientReason.KEY_NOT_BOUND,
            "the TLS key of this connection is not the one that the quote covers",
            "somebody stands between: do not send anything; try another network path",
            f"attested {evidence.keys.tls_spki_sha256}, connected {spki_sha256.hex()}",
        )
    _check_ratls(certificate_der, spki_sha256, quote)
    receipt_key = bytes.fromhex(evidence.keys.receipt)
    certificate = _certificate(document, identity, receipt_key, ear_key, at)  # 5
    offer = _offer(document, identity, receipt_key, at)  # 6
    certified_until = from_unix(certificate.exp)
    if gpu is not None and gpu.expires_at is not None:
        certified_until = min(certified_until, gpu.expires_at)
    return VerifiedWorker(
        verdict=verdict,
        identity=identity,
        receipt_key=receipt_key,
        wrk=worker_id(receipt_key),
        certificate=document.receipt_certificate,
        offer_token=document.offer,
        offer=offer,
        expires_at=min(certified_until, verdict.expires_at or certified_until),
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
        raise _refused([_named(error)]) from error
    verdict = appraisal.appraise(
        quote=quote,
        collateral=collateral,
        policy=policy,
        at=at,
        event_log=_bytes(document.evidence.event_log) or None,
        initdata=toml,
        report_data=report_data,
    )
    if not verdict.accepted:
        raise _refused([_reason(r) for r in verdict.reasons])
    return verdict


def _bind(evidence: Evidence, identity: MeasuredIdentity, nonce: bytes) -> binding.Binding:
    return binding.bind(
        nonce=nonce,
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
        raise _refused([_named(error)]) from error


def _check_gpus(evidence: Evidence, identity: MeasuredIdentity, policy: AttestationPolicySpec, at: datetime) -> GpuVerdict | None:
    """The worker's GPUs under the policy's rules; None where it has none.  Whether a GPU serves another domain, too, only a
    broker can know.  Raises ClientError."""
    if policy.gpu is None:
        return None
    try:
        nonce = binding.gpu_nonce(
            nonce=bytes.fromhex(evidence.nonce),
            tls_spki_sha256=bytes.fromhex(evidence.keys.tls_spki_sha256),
            hpke=bytes.fromhex(evidence.keys.hpke),
            receipt=bytes.fromhex(evidence.keys.receipt),
            identity={"measured": identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
        )
        verdict = gpus.appraise(evidence.gpu, rules=policy.gpu, nonce=nonce, at=at)
    except ChrysalisError as error:
        raise _refused([_named(error)]) from error
    if not verdict.accepted:
        raise _refused([NamedReason.model_validate(members) for members in gpus.named(verdict)])
    return verdict


def _identity(toml: bytes) -> MeasuredIdentity:
    try:
        return initdata.parse(toml).identity
    except ChrysalisError as error:
        raise _refused([_named(error)]) from error


def _check_model(identity: MeasuredIdentity, toml: bytes, policy: AttestationPolicySpec, model_digest: str | None) -> None:
    """Somebody else's worker of the same image, with a model that sends prompts elsewhere, satisfies an initdata rule too."""
    if model_digest is None:
        exact = initdata.mrconfigid(toml).hex()
        if not any((m.mrconfigid or "").lower() == exact for m in policy.tdx.measurements):
            raise ClientError(
                ClientReason.MODEL_NOT_PINNED,
                "the policy leaves open which model the worker runs, and no model is pinned",
                "give the digest that `chrysalis seal` printed (--model-digest), or a policy with the exact mrconfigid",
                f"the worker is measured with model {identity.model.digest}",
            )
    elif identity.model.digest != model_digest.lower():
        raise ClientError(
            ClientReason.MODEL_MISMATCH,
            "the worker is measured with another model than the pinned one",
            "compare the pinned digest with the model owner's, or use another worker",
            f"pinned {model_digest[:80]}, measured {identity.model.digest}",
        )


def _check_ratls(certificate_der: bytes, spki_sha256: bytes, fresh_quote: bytes) -> None:
    """The certificate's own evidence covers the certificate's key and comes from a domain with the same measurements.

    Its nonce is the broker's, so it says nothing about freshness; the fresh quote does.
    """
    try:
        extension = x509.load_der_x509_certificate(certificate_der).extensions.get_extension_for_oid(x509.ObjectIdentifier(ratls.OID))
        value = extension.value.public_bytes()
        if isinstance(extension.value, x509.UnrecognizedExtension):
            value = extension.value.value
        quote, claims_buffer = ratls.parse_extension(value)
        claims = binding.parse_claims(claims_buffer)
        own, fresh = quotes.parse(quote), quotes.parse(fresh_quote)
    except (*UNREADABLE_X509, ChrysalisError) as error:
        raise _certificate_mismatch("it carries no readable RA-TLS evidence", str(error)) from error
    if own.report_data != binding.report_data(claims_buffer):
        raise _certificate_mismatch("its quote does not cover its claims", "report_data")
    if claims.spki_sha256 != spki_sha256:
        raise _certificate_mismatch("its claims are about another key", f"{claims.spki_sha256.hex()}, expected {spki_sha256.hex()}")
    if own.registers != fresh.registers:
        raise _certificate_mismatch("its quote is of another domain than the fresh one", "measurements")


def _certificate(
    document: AttestationDocument, identity: MeasuredIdentity, receipt_key: bytes, ear_key: bytes | None, at: datetime
) -> ReceiptKeyCertificate:
    measured_key = bytes.fromhex(identity.broker.ear_key)
    if ear_key is not None and ear_key != measured_key:
        raise ClientError(
            ClientReason.EAR_KEY_MISMATCH,
            "the worker is measured with another broker than the one that this client trusts",
            "compare the pinned EAR key with the broker's, or use another worker",
            f"pinned {ear_key.hex()}, measured {measured_key.hex()}",
        )
    try:
        certificate = ReceiptKeyCertificate.parse(document.receipt_certificate, measured_key)
        check_time("receipt-key certificate", unix(at), exp=certificate.exp, not_before=certificate.nbf, leeway=60)
    except ReceiptError as error:
        raise ClientError(
            ClientReason.CERTIFICATE_MISMATCH, f"the receipt key's certificate: {error.message}", error.remedy, error.detail
        ) from error
    stated = (certificate.receipt_key, certificate.set, certificate.wallet)
    expected = (receipt_key.hex(), identity.set, identity.wallet)
    if stated != expected:
        raise ClientError(
            ClientReason.CERTIFICATE_MISMATCH,
            "the receipt key's certificate is for another key, account or wallet than the measured ones",
            "do not use this worker; report it to its operator",
            f"certified {stated}, expected {expected}",
        )
    return certificate


def _offer(document: AttestationDocument, identity: MeasuredIdentity, receipt_key: bytes, at: datetime) -> Offer | None:
    if document.offer == "" and identity.set == "none":
        return None
    try:
        offer = Offer.parse(document.offer, receipt_key)
        check_time("offer", unix(at), exp=offer.exp, not_before=offer.iat, leeway=60)
    except ReceiptError as error:
        raise ClientError(ClientReason.OFFER_INVALID, f"the worker's offer: {error.message}", error.remedy, error.detail) from error
    stated = (offer.set, offer.wrk, offer.model, offer.digest, offer.prices)
    expected = (identity.set, worker_id(receipt_key), identity.model.name, identity.model.digest, PriceList.of(identity.prices))
    if stated != expected:
        raise ClientError(
            ClientReason.OFFER_INVALID,
            "the worker's offer differs from what is measured about it (account, model or prices)",
            "do not use this worker; report it to its operator",
            f"offered {stated}, measured {expected}",
        )
    return offer


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused([NamedReason(reason="QuoteMalformed", message="the evidence is not base64", remedy="update the worker")]) from error


def _named(error: ChrysalisError) -> NamedReason:
    return NamedReason(reason=str(error.reason), message=error.message, remedy=error.remedy, detail=error.detail)


def _reason(reason: BaseModel) -> NamedReason:
    """A verdict's reason as the wire's NamedReason (the same four members)."""
    return NamedReason.model_validate(reason.model_dump(mode="json", by_alias=True))


def _refused(reasons: Sequence[NamedReason]) -> ClientError:
    words = ", ".join(r.reason for r in reasons) or "no reason given"
    first = reasons[0] if reasons else None
    return ClientError(
        ClientReason.EVIDENCE_REFUSED,
        f"the worker's evidence is refused: {words}" + (f" ({first.message})" if first else ""),
        first.remedy if first else "",
        first.detail if first else "",
        reasons=reasons,
    )


def _certificate_mismatch(why: str, detail: str) -> ClientError:
    return ClientError(
        ClientReason.CERTIFICATE_MISMATCH,
        f"the worker's TLS certificate is not what RA-TLS asks for: {why}",
        "do not send anything; the worker or somebody before it serves another certificate",
        detail,
    )
