"""What ties a worker's connection, configuration, certificates and offer together, however its evidence was judged.

Pure; each check raises ClientError.  The identity is what the quote measures, or, where a broker's result stands for the quote, what
the attested domain itself says over its attested key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from chrysalis.api import initdata
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import binding, ratls
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.client.reasons import ClientError, ClientReason
from chrysalis.clock import unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts import worker_id
from chrysalis.receipts.objects import Offer, PriceList, ReceiptKeyCertificate, check_time
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire.broker import AttestationDocument, Keys


def check_model(identity: MeasuredIdentity, toml: bytes, policy: AttestationPolicySpec, model_digest: str | None) -> None:
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


@dataclass(frozen=True)
class Peer:
    """Whom a connection was made to: the certificate that it showed (DER), and the SHA-256 of its key's SubjectPublicKeyInfo."""

    certificate_der: bytes
    spki_sha256: bytes


def check_tls_key(keys: Keys, peer: Peer) -> None:
    """The evidence is about the key of this very connection."""
    if bytes.fromhex(keys.tls_spki_sha256) != peer.spki_sha256:
        raise ClientError(
            ClientReason.KEY_NOT_BOUND,
            "the TLS key of this connection is not the one that the quote covers",
            "somebody stands between: do not send anything; try another network path",
            f"attested {keys.tls_spki_sha256}, connected {peer.spki_sha256.hex()}",
        )


def not_covered() -> ClientError:
    """The claims are not those of the evidence."""
    return ClientError(
        ClientReason.KEY_NOT_BOUND,
        "the quote does not cover the keys and the identity that the worker states",
        "do not use this worker; report it to its operator",
    )


def check_ratls(peer: Peer, quote: bytes, claims: bytes | None = None) -> None:
    """The certificate's own evidence covers the certificate's key and comes from a domain with the same measurements as `quote`.

    Its nonce is the broker's, so it says nothing about freshness.  claims: the claims-buffer that it must carry, where `quote` is
    not fresh and the certificate's evidence has to be the very same.
    """
    certificate_der, spki_sha256 = peer.certificate_der, peer.spki_sha256
    try:
        extension = x509.load_der_x509_certificate(certificate_der).extensions.get_extension_for_oid(x509.ObjectIdentifier(ratls.OID))
        value = extension.value.public_bytes()
        if isinstance(extension.value, x509.UnrecognizedExtension):
            value = extension.value.value
        carried, claims_buffer = ratls.parse_extension(value)
        about = binding.parse_claims(claims_buffer)
        own, shown = quotes.parse(carried), quotes.parse(quote)
    except (*UNREADABLE_X509, ChrysalisError) as error:
        raise _certificate_mismatch("it carries no readable RA-TLS evidence", str(error)) from error
    if own.report_data != binding.report_data(claims_buffer):
        raise _certificate_mismatch("its quote does not cover its claims", "report_data")
    if about.spki_sha256 != spki_sha256:
        raise _certificate_mismatch("its claims are about another key", f"{about.spki_sha256.hex()}, expected {spki_sha256.hex()}")
    if own.registers != shown.registers:
        raise _certificate_mismatch("its quote is of another domain than the one that the worker shows", "measurements")
    if claims is not None and (claims_buffer != claims or own.raw != shown.raw):
        raise _certificate_mismatch("its evidence is not the one that the worker shows", "quote or claims")


def receipt_certificate(
    document: AttestationDocument, identity: MeasuredIdentity, receipt_key: bytes, ear_key: bytes | None, at: datetime
) -> ReceiptKeyCertificate:
    """The broker's certificate of the receipt key, for the measured account and wallet, under the measured (and pinned) key."""
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


def offer_of(document: AttestationDocument, identity: MeasuredIdentity, receipt_key: bytes, at: datetime) -> Offer | None:
    """The offer, by the receipt key, for what is measured; None where the worker settles nowhere and makes none."""
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


def _certificate_mismatch(why: str, detail: str) -> ClientError:
    return ClientError(
        ClientReason.CERTIFICATE_MISMATCH,
        f"the worker's TLS certificate is not what RA-TLS asks for: {why}",
        "do not send anything; the worker or somebody before it serves another certificate",
        detail,
    )
